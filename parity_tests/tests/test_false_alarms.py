"""Right networks with activations and normalisations of every kind, over many seeds: none may be refused."""

from __future__ import annotations

import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import flax.linen as fnn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from netparity import ConvKernel, DenseKernel, JaxNetwork, Result, Same, compare, function

pytestmark = pytest.mark.users_programs


class _ChannelsLastNorm(nn.LayerNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


KINDS: dict[str, tuple[Callable[..., Any], Callable[[], nn.Module]]] = {
    "tanh": (jnp.tanh, nn.Tanh),
    "sigmoid": (fnn.sigmoid, nn.Sigmoid),
    "gelu": (functools.partial(fnn.gelu, approximate=False), nn.GELU),
    "gelu, tanh": (fnn.gelu, lambda: nn.GELU("tanh")),
    "silu": (fnn.silu, nn.SiLU),
    "hard swish": (fnn.hard_swish, nn.Hardswish),
    "softmax": (fnn.softmax, lambda: nn.Softmax(1)),
    "batch norm": (fnn.BatchNorm, lambda: nn.BatchNorm2d(8)),
    "layer norm": (fnn.LayerNorm, lambda: _ChannelsLastNorm(8)),
}
STATS = {"act": {"mean": np.zeros(8, np.float32), "var": np.ones(8, np.float32)}}


class _Net(fnn.Module):
    kind: str

    @fnn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        seen = {}
        x = seen["conv"] = fnn.Conv(8, (3, 3), padding=1, precision="highest", name="conv")(x)
        if self.kind == "batch norm":
            x = fnn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, name="act")(x)
        elif self.kind == "layer norm":
            x = fnn.LayerNorm(epsilon=1e-5, name="act")(x)
        else:
            x = KINDS[self.kind][0](x)
        seen["act"] = x
        x = seen["fc"] = fnn.Dense(5, precision="highest", name="fc")(x.reshape(x.shape[0], -1))
        return x, seen


@functools.cache
def _network(kind: str) -> JaxNetwork:
    """The network with zeros for parameters; it is one for all seeds, so that it is compiled once."""
    net = _Net(kind)

    def forward(params: Any, images: jax.Array, key: jax.Array | None) -> Any:
        stats = jax.tree.map(lambda x: x.astype(images.dtype), STATS)
        variables = {"params": params, "batch_stats": stats}
        return net.apply(variables, images, train=key is not None, mutable=["batch_stats"])[0]

    images = jax.ShapeDtypeStruct((1, 6, 8, 3), np.float32)
    shapes = jax.eval_shape(functools.partial(net.init, train=False), jax.random.key(0), images)["params"]
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    return function(forward, zeros, intermediates=True)


def _compared(kind: str, seed: int, act: nn.Module | None = None) -> Result:
    rng = np.random.default_rng(seed)
    # Every third batch is off its mean by a deviation or two, where a normalisation cancels digits.
    images = (rng.standard_normal((4, 6, 8, 3)) + seed % 3).astype(np.float32)
    network = _network(kind)
    params = {
        name: (rng.standard_normal(value.shape) * 0.2 + name.endswith(".scale")).astype(np.float32)
        for name, value in network.arrays.items()
    }
    table: dict[str, Any] = {"conv.kernel": ConvKernel("conv.weight"), "conv.bias": Same("conv.bias")}
    table |= {"fc.kernel": DenseKernel("fc.weight", flattened=(6, 8, 8)), "fc.bias": Same("fc.bias")}
    if "act.scale" in params:
        table |= {"act.scale": Same("act.weight"), "act.bias": Same("act.bias")}
    layers = OrderedDict[str, nn.Module](conv=nn.Conv2d(3, 8, 3, padding=1), act=act or KINDS[kind][1]())
    module = nn.Sequential(layers | OrderedDict[str, nn.Module](flat=nn.Flatten(), fc=nn.Linear(384, 5)))
    stages = {name: name for name in ("conv", "act", "fc")}
    labels = rng.integers(0, 5, 4)
    given = dataclasses.replace(network, arrays=params)
    return compare(given, module, images, labels=labels, table=table, stages=stages, seed=seed)


@pytest.mark.parametrize("kind", ["tanh", "batch norm"])
def test_a_right_network_is_not_refused(kind):
    for seed in range(3):
        result = _compared(kind, seed)
        assert result.passed, (seed, result.failures)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_right_network_is_refused_over_200_seeds(kind):
    refused = {seed: failures for seed in range(200) if (failures := _compared(kind, seed).failures)}
    assert not refused


class _Coarse(nn.Module):
    """A layer whose float32 has only the digits of TF32; float64 keeps its own."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype == torch.float32:
            x = x + ((x * 2**10).round() / 2**10 - x).detach()
        return self.layer(x)


@pytest.mark.parametrize(
    "kind", ["tanh", pytest.param("softmax", marks=pytest.mark.slow), pytest.param("gelu", marks=pytest.mark.slow)]
)
def test_ten_bits_for_twenty_four_are_still_found(kind):
    result = _compared(kind, 0, _Coarse(KINDS[kind][1]()))
    assert result.failures[0].stage == "act"
    assert result.diagnosis is not None
    assert "rounds more coarsely than float32" in result.diagnosis
