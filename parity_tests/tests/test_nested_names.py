"""Stages whose names lie within each other: ``block1`` beside ``block1.conv``."""

from __future__ import annotations

from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax import lax
from torch import nn

from netparity import ConvKernel, DenseKernel, Result, Same, compare, function

# What stands after a block's convolution is the block's own stage.
STAGES = {
    "block1.conv": "block1.conv",
    "block1": "block1.act",
    "block2.conv": "block2.conv",
    "block2": "block2.act",
    "head": "head",
}
TABLE: dict[str, Same | ConvKernel | DenseKernel] = {
    "block1.conv.kernel": ConvKernel("block1.conv.weight"),
    "block1.conv.bias": Same("block1.conv.bias"),
    "block2.conv.kernel": ConvKernel("block2.conv.weight"),
    "block2.conv.bias": Same("block2.conv.bias"),
    "head.kernel": DenseKernel("head.weight", flattened=(4, 6, 8)),
    "head.bias": Same("head.bias"),
}


def _forward(params, images, key):
    del key
    seen, x = {}, images
    for block in ("block1", "block2"):
        own = params[block]["conv"]
        numbers = ("NHWC", "HWIO", "NHWC")
        x = lax.conv_general_dilated(x, own["kernel"], (1, 1), "SAME", dimension_numbers=numbers, precision="highest")
        x = seen[f"{block}.conv"] = x + own["bias"][None, None, None]
        x = seen[block] = jax.nn.relu(x)
    x = x.reshape(x.shape[0], -1)
    x = seen["head"] = jnp.dot(x, params["head"]["kernel"], precision="highest") + params["head"]["bias"][None]
    return x, seen


def _module() -> nn.Sequential:
    layers: list[tuple[str, nn.Module]] = []
    for block, channels in (("block1", 3), ("block2", 8)):
        conv = nn.Conv2d(channels, 8, 3, padding=1)
        layers.append((block, nn.Sequential(OrderedDict([("conv", conv), ("act", nn.ReLU())]))))
    return nn.Sequential(OrderedDict([*layers, ("flatten", nn.Flatten()), ("head", nn.Linear(4 * 6 * 8, 5))]))


def _compared(module: nn.Module) -> Result:
    rng = np.random.default_rng(0)

    def affine(*shape: int) -> dict[str, np.ndarray]:
        kernel = rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))
        bias = 0.1 * rng.standard_normal(shape[-1])
        return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}

    params = {
        "block1": {"conv": affine(3, 3, 3, 8)},
        "block2": {"conv": affine(3, 3, 8, 8)},
        "head": affine(4 * 6 * 8, 5),
    }
    images = rng.standard_normal((4, 4, 6, 3)).astype(np.float32)
    network = function(_forward, params, intermediates=True)
    return compare(network, module, images, labels=rng.integers(0, 5, 4), table=TABLE, stages=STAGES)


def test_a_parameter_belongs_to_the_longest_name_that_it_begins_with():
    result = _compared(_module())
    assert result.passed, result.failures
    by_stage = {(row.stage, row.quantity): row for row in result.layers}
    assert {q for s, q in by_stage if s == "block2.conv"} == {"output", "vjp_input", "vjp_kernel", "vjp_bias"}
    assert {q for s, q in by_stage if s == "block2"} == {"output", "vjp_input"}
    assert by_stage["block2.conv", "output"].contraction_length == 3 * 3 * 8
    assert by_stage["block2", "output"].contraction_length == 1  # a ReLU sums nothing
    owners = {one.name: one.stage for one in result.checks if one.level == "gradients"}
    assert owners["d loss / d block2.conv.kernel"] == "block2.conv"
    assert owners["d loss / d block2"] == "block2"
    assert owners["d loss / d head.bias"] == "head"


class _Leaks(nn.ReLU):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.leaky_relu(x, 0.01)


@pytest.mark.parametrize(
    ("name", "fault", "stage", "diagnosis"),
    [
        (
            "block2.conv",
            nn.Conv2d(8, 8, 3, padding=1, padding_mode="replicate"),
            "block2.conv",
            "JAX has padding by zeros where PyTorch has by the edge repeated",
        ),
        ("block1.act", _Leaks(), "block1", "PyTorch has leaky ReLU with slope 0.01 where JAX has ReLU"),
    ],
)
def test_a_mistake_in_a_nested_stage_is_located_and_diagnosed(name, fault, stage, diagnosis):
    module = _module()
    module.set_submodule(name, fault)
    assert _compared(module).diagnosis == (
        f"first diverging stage: {stage} (output); the difference vanishes under: {diagnosis}"
    )
