"""What the tests of pairs share: values in which nothing is a constant, and what a comparison must say of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as fnn
import jax
import numpy as np
from torch import nn

import netparity
from netparity.adapters.given import JaxNetwork

FLOAT64 = ("float64",)


def linen(module: fnn.Module, *inputs: np.ndarray, **keywords: Any) -> JaxNetwork:
    """A Linen network with random values, the same every time: a zero bias would hide what is done with it.

    Args:
      module: the network.
      inputs, keywords: what its ``__call__`` takes.
    """
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, **keywords))
    rng = np.random.default_rng(1)

    def filled(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1].key == "var":
            return rng.uniform(0.5, 2, leaf.shape).astype(np.float32)
        return (rng.standard_normal(leaf.shape) * 0.5 + (path[-1].key == "scale")).astype(np.float32)

    return netparity.linen(module, jax.tree_util.tree_map_with_path(filled, shapes))


def redrawn(network: JaxNetwork, seed: int) -> JaxNetwork:
    """The same network with other values, which needs no compilation of its own."""
    rng = np.random.default_rng(seed)

    def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
        scaled = rng.uniform(0.5, 2, shape) if name.endswith("var") else rng.standard_normal(shape) * 0.5
        return (scaled + name.endswith("scale")).astype(np.float32)

    return dataclasses.replace(network, arrays={name: drawn(name, x.shape) for name, x in network.arrays.items()})


def passes(network: JaxNetwork, module: nn.Module, inputs: Any, **keywords: Any) -> list[str]:
    """Requires that two networks agree, in float64 if nothing else is said; returns the stages that were compared."""
    result = netparity.compare(network, module, inputs, **{"dtypes": FLOAT64, **keywords})
    assert result.passed, f"\n{result}"
    return list(dict.fromkeys(row.stage for row in result.layers))


def fails(network: JaxNetwork, module: nn.Module, inputs: Any, **keywords: Any) -> tuple[str, str]:
    """Requires that two networks differ; returns the stage where they first do and what is said of it."""
    result = netparity.compare(network, module, inputs, **{"dtypes": FLOAT64, **keywords})
    assert not result.passed
    first = result.failures[0]
    return first.stage, f"{result.diagnosis}; {getattr(first, 'note', '')}"
