"""A small pair of networks with what neither AlexNet has: a padded pool over negative values, and LRN."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax
from torch import nn

from netparity.graph import ByHand
from netparity.jax_side import JaxSide
from netparity.pairs import Pair
from netparity.table import ConvKernel, DenseKernel, NameTable, Same
from netparity.torch_side import TorchSide

_STAGES = ("conv1", "pool1", "lrn1", "fc1")
_CHANNELS = 64  # a root mean square over fewer numbers says little
_ALPHA, _BETA, _K, _N = 0.1, 0.75, 2.0, 5  # alpha as Krizhevsky et al. 2012 mean it, not divided by n


@dataclasses.dataclass(frozen=True)
class ProbeFault:
    """A mistake on the PyTorch side of the probe.

    Attributes:
      name, trap, stage: as in `parity_tests.faults.planting.Fault`.
      pool: what stands in pool1's place.
      alpha: of lrn1, which PyTorch divides by the number of channels that it sums over.
    """

    name: str
    trap: str
    stage: str
    pool: type[nn.MaxPool2d] = nn.MaxPool2d
    alpha: float = _ALPHA * _N


class _ZeroPadded(nn.MaxPool2d):
    """Zeros stand around the map, and win over what is negative."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.max_pool2d(nn.functional.pad(x, (1, 1, 1, 1)), 3, 2)


_RIGHT = ProbeFault("none", "", "")
FAULTS = (
    ProbeFault("a padded pool over negative values padded with zeros", "pooling's padding value", "pool1",
               pool=_ZeroPadded),
    ProbeFault("LRN's alpha not divided by n where PyTorch divides it", "LRN's alpha", "lrn1", alpha=_ALPHA),
)  # fmt: skip


def _forward(params: Any, images: jax.Array, key: jax.Array | None) -> tuple[jax.Array, dict[str, jax.Array]]:
    del key
    seen = {}
    dimensions = ("NHWC", "HWIO", "NHWC")
    x = lax.conv_general_dilated(images, params["conv1"]["kernel"], (1, 1), "SAME", dimension_numbers=dimensions,
                                 precision=lax.Precision.HIGHEST)  # fmt: skip
    x = seen["conv1"] = x + params["conv1"]["bias"][None, None, None]
    window, stride, pad = (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    x = seen["pool1"] = lax.reduce_window(x, -jnp.inf, lax.max, window, stride, pad)
    squares = jnp.pad(x**2, ((0, 0), (0, 0), (0, 0), (_N // 2, _N // 2)))
    total = sum(squares[..., i : i + x.shape[-1]] for i in range(_N))
    x = seen["lrn1"] = x / (_K + _ALPHA * total) ** _BETA
    x = x.reshape(x.shape[0], -1)
    logits = jnp.dot(x, params["fc1"]["kernel"], precision=lax.Precision.HIGHEST) + params["fc1"]["bias"][None]
    seen["fc1"] = logits
    return logits, seen


def pair(seed: int = 0, fault: ProbeFault = _RIGHT) -> Pair:
    """The right pair, or one with a fault on the PyTorch side."""
    layers = [
        ("conv1", nn.Conv2d(3, _CHANNELS, 3, padding=1)),
        ("pool1", fault.pool(3, 2, 1)),
        ("lrn1", nn.LocalResponseNorm(_N, fault.alpha, _BETA, _K)),
        ("flatten", nn.Flatten()),
        ("fc1", nn.Linear(4 * 5 * _CHANNELS, 4)),
    ]
    module = nn.Sequential(OrderedDict(layers))
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "conv1.kernel": (3, 3, 3, _CHANNELS),
        "conv1.bias": (_CHANNELS,),
        "fc1.kernel": (4 * 5 * _CHANNELS, 4),
        "fc1.bias": (4,),
    }
    params = {name: (0.3 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    table = NameTable(
        {
            "conv1.kernel": ConvKernel("conv1.weight"),
            "conv1.bias": Same("conv1.bias"),
            "fc1.kernel": DenseKernel("fc1.weight", flattened=(4, 5, _CHANNELS)),
            "fc1.bias": Same("fc1.bias"),
        },
        shapes,
        {name: tuple(value.shape) for name, value in module.named_parameters()},
    )
    torch_side = TorchSide(module, {name: name for name in _STAGES}, table.to_common, table.from_common)
    images = rng.standard_normal((2, 8, 10, 3)).astype(np.float32)
    return Pair(JaxSide(ByHand(_forward)), torch_side, params, images, np.array([0, 3]), seed)
