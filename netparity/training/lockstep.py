"""Trains two networks that `netparity.compare` was given, side by side."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch import nn

from netparity import state
from netparity.adapters.given import JaxNetwork
from netparity.measure import Arrays
from netparity.prepare import Ready
from netparity.results import Check, Trajectory
from netparity.training import recording
from netparity.training import steps as training


def train(
    network: JaxNetwork,
    ready: Ready,
    optimizer: tuple[optax.GradientTransformation, training.TorchFactory],
    steps: int,
    dtypes: Collection[str],
    allow: Collection[str] = (),
    recorder: recording.Recorder | None = None,
) -> tuple[Trajectory, list[Check]]:
    """Takes steps on the one batch that was given, each with dropout masks of its own.

    Args:
      network, ready: the JAX network, and what is known of both.
      optimizer: optax's, and a function that makes PyTorch's of a list of parameters (see `netparity.training.steps`).
      steps: at least 1.
      dtypes: of ``("float64", "float32")``.
      allow: as of `netparity.compare`.
      recorder: as of `netparity.training.steps.train`.
    """
    ours, theirs = _jax_program(network, ready), _torch_program(ready, allow)
    return training.train(ours, theirs, optimizer, steps, dtypes, recorder=recorder)


def _jax_program(network: JaxNetwork, ready: Ready) -> training.JaxProgram:
    pair, kept = ready.pair, network.network.state

    def value_and_grad(params: Any, kept_now: Any, step: Any) -> tuple[jax.Array, Any, Any]:
        floating = [x.dtype for x in jax.tree.leaves(params) if jnp.issubdtype(x.dtype, jnp.floating)]

        def cast(x: Any) -> jax.Array:
            return jnp.asarray(x, floating[0]) if x.dtype.kind == "f" else jnp.asarray(x)

        def loss(params: Any) -> tuple[jax.Array, Any]:
            arrays = {**network.flat(params), **kept_now}
            key = jax.random.fold_in(jax.random.key(pair.seed), step)
            outputs, after, _ = network.network(arrays, [cast(x) for x in ready.inputs], key)
            return pair.jax.loss(outputs, jax.tree.map(cast, pair.labels)), {**kept_now, **after}

        (value, after), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, grads, after

    def flat(tree: Any) -> Arrays:
        named = tree if isinstance(tree, dict) and set(tree) == set(kept) else network.flat(tree)
        return {name: np.asarray(value) for name, value in named.items()}

    trained = {name: value for name, value in network.arrays.items() if name not in kept}
    others = {name: value for name, value in network.arrays.items() if name in kept}
    return training.JaxProgram(network.nested(trained), others, value_and_grad, flat)


def _torch_program(ready: Ready, allow: Collection[str]) -> training.TorchProgram:
    pair, side = ready.pair, ready.pair.torch
    sizes = state.batch_sizes(pair) if state.BIASED_VARIANCE in allow else {}

    def make(dtype: torch.dtype) -> nn.Module:
        module = copy.deepcopy(side.module).to(dtype)
        module.requires_grad_(True)
        values = side.from_common(pair.params)
        with torch.no_grad():
            for name, target in (*module.named_parameters(), *module.named_buffers()):
                if name in values:
                    target.copy_(torch.from_numpy(values[name]))
                elif name.endswith("num_batches_tracked"):
                    target.zero_()
        return module

    def loss(module: nn.Module, step: int) -> torch.Tensor:
        own = dataclasses.replace(side, module=module)
        dtype = str(next(module.parameters()).dtype).removeprefix("torch.")
        masks: Arrays = {}
        if pair.jax.dropouts:
            with jax.enable_x64(dtype == "float64"):
                key = jax.random.fold_in(jax.random.key(pair.seed), step)
            masks = pair.jax.masks(pair.params_as(dtype), pair.inputs_as(dtype), key)
        return own.loss_of(pair.inputs_as(dtype), pair.labels_as(dtype), masks)

    def state_to_common(buffers: Mapping[str, np.ndarray]) -> Arrays:
        found = ready.table.to_common(buffers)
        counted = [name for name in buffers if name.endswith("num_batches_tracked")]
        counts = {name.rpartition(".")[0]: float(buffers[name]) for name in counted}
        for name, (n, module, momentum) in sizes.items():
            if name in found and module in counts:  # the unbiased variance's share of it, made a biased one's
                first = pair.params[name].astype(found[name].dtype) * (1 - momentum) ** counts[module]
                found[name] = first + (found[name] - first) * (n - 1) / n
        return found

    return training.TorchProgram(make, loss, ready.table.to_common, state_to_common)
