"""The name table's inference: on real networks, by converting and comparing their outputs in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import flax.linen as fnn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx, traverse_util
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.models.vision_transformer import VisionTransformer

from netparity import table as tables
from netparity.matching import Inferred, JaxArray, TorchArray, as_python, infer_table
from netparity.table import (
    Concatenated,
    ConvKernel,
    ConvTransposeKernel,
    DenseKernel,
    NameTable,
    Part,
    Reshaped,
    Same,
    Sum,
    Transposed,
)

RNG = np.random.default_rng(0)
Shape = tuple[int, ...]


def _linen_arrays(network: fnn.Module, *inputs: Any, **options: Any) -> list[JaxArray]:
    """A Linen network's parameters and statistics in the order of their creation, which is that of their use."""
    seen: list[JaxArray] = []

    def init(key: jax.Array, *inputs: Any) -> None:
        for collection in network.init(key, *inputs, **options).values():
            seen.extend(JaxArray(n, v.shape) for n, v in traverse_util.flatten_dict(collection, sep=".").items())

    jax.eval_shape(init, jax.random.key(0), *inputs)
    return seen


def _torch_arrays(module: nn.Module, *inputs: Any) -> list[TorchArray]:
    """A module's parameters and buffers, in the order of the first calls; what is not called comes last."""
    order: list[nn.Module] = []
    hooks = [m.register_forward_pre_hook(lambda m, _: order.append(m)) for m in module.modules()]
    with torch.no_grad():
        module.eval()(*inputs)
    for hook in hooks:
        hook.remove()
    names = {m: name for name, m in module.named_modules()}
    owners = dict.fromkeys([*order, *names])
    return [
        TorchArray(f"{names[m]}.{name}".strip("."), tuple(value.shape), m)
        for m in owners
        for name, value in (*m.named_parameters(recurse=False), *m.named_buffers(recurse=False))
    ]


def _randomised(module: nn.Module) -> nn.Module:
    """In float64, with every array random: what is 0 or 1 at the start would hide a wrong partner."""
    generator = torch.Generator().manual_seed(0)
    for name, value in (*module.double().named_parameters(), *module.named_buffers()):
        if value.is_floating_point():
            noise = 0.2 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
            is_scale = value.ndim == 1 and name.endswith(("weight", "running_var"))
            value.data = noise.abs() + 0.5 if is_scale else noise
    return module.eval()


def _listed(*names_and_shapes: tuple[str, Shape]) -> list[JaxArray]:
    return [JaxArray(name, shape) for name, shape in names_and_shapes]


def _complete(found: Inferred) -> dict[str, Any]:
    assert (found.ambiguous, found.jax_left, found.torch_left) == ({}, [], [])
    return found.table


def _converted(
    ours: Sequence[JaxArray], module: nn.Module, inputs: Sequence[torch.Tensor], maps: Any = None
) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, Any]]:
    """The JAX arrays that the inferred table makes of the module's, the module's output, and the table."""
    module = _randomised(module)
    theirs = _torch_arrays(module, *inputs)
    table = _complete(infer_table(ours, theirs, maps=maps))
    optional = [array.name for array in theirs if array.name.endswith("num_batches_tracked")]
    names = NameTable(table, {a.name: a.shape for a in ours}, {a.name: a.shape for a in theirs}, optional)
    with torch.no_grad():
        out = module(*inputs)
    out = out[0] if isinstance(out, tuple) else out
    return names.to_common({n: v.numpy() for n, v in module.state_dict().items()}), out.numpy(), table


def _agrees_in_linen(
    network: fnn.Module, module: nn.Module, x: np.ndarray, *, images: bool = False, maps: Any = None
) -> dict[str, Any]:
    """The inferred table, after both networks gave the same output."""
    ours = _linen_arrays(network, jax.ShapeDtypeStruct(x.shape, jnp.float32))
    given = torch.from_numpy(x)
    arrays, theirs, table = _converted(ours, module, [given.movedim(-1, 1) if images else given], maps)
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name, value in arrays.items():
        collection = "batch_stats" if name.rpartition(".")[2] in {"mean", "var"} else "params"
        variables[collection][tuple(name.split("."))] = value
    variables = {name: traverse_util.unflatten_dict(values) for name, values in variables.items()}
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        mine = np.asarray(network.apply(variables, x))
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-9 * np.abs(theirs).max())
    return table


# ------------------------------------------------------------------------------------------- residual networks


class FlaxResNet(fnn.Module):
    """torchvision's ResNet; the shortcut before or after the main branch, and names as there or Flax's own."""

    depths: tuple[int, ...]
    bottleneck: bool = False
    named: bool = True
    shortcut_first: bool = False

    @fnn.compact
    def __call__(self, x: Any) -> Any:
        def conv(x: Any, width: int, size: int, stride: int, name: str) -> Any:
            p = size // 2
            name_: Any = name if self.named else None
            return fnn.Conv(width, (size, size), stride, padding=((p, p), (p, p)), use_bias=False, name=name_)(x)

        def norm(x: Any, name: str) -> Any:
            name_: Any = name if self.named else None
            return fnn.BatchNorm(use_running_average=True, epsilon=1e-5, name=name_)(x)

        x = fnn.relu(norm(conv(x, 64, 7, 2, "conv1"), "bn1"))
        x = fnn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for i, depth in enumerate(self.depths):
            for j in range(depth):
                at, width, stride = f"layer{i + 1}_{j}_", 64 * 2**i, 2 if i and not j else 1
                out = width * 4 if self.bottleneck else width

                def shortcut(x: Any, at: str = at, out: int = out, stride: int = stride) -> Any:
                    if x.shape[-1] == out and stride == 1:
                        return x
                    return norm(conv(x, out, 1, stride, at + "downsample_0"), at + "downsample_1")

                skip = shortcut(x) if self.shortcut_first else None
                sizes = ((width, 1), (width, 3), (out, 1)) if self.bottleneck else ((width, 3), (out, 3))
                y = x
                for k, (features, size) in enumerate(sizes, start=1):
                    s = stride if k == (2 if self.bottleneck else 1) else 1
                    y = norm(conv(y, features, size, s, f"{at}conv{k}"), f"{at}bn{k}")
                    y = y if k == len(sizes) else fnn.relu(y)
                x = fnn.relu(y + (shortcut(x) if skip is None else skip))
        name: Any = "fc" if self.named else None
        return fnn.Dense(10, name=name)(x.mean((1, 2)))


@pytest.mark.parametrize("shortcut_first", [False, True])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("bottleneck", [False, True])
def test_a_resnet_whatever_its_names_and_the_order_of_its_branches(bottleneck, named, shortcut_first):
    network = FlaxResNet((2, 2, 2, 2), bottleneck, named, shortcut_first)
    ours = _linen_arrays(network, jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32))
    with torch.device("meta"):
        module = ResNet(Bottleneck if bottleneck else BasicBlock, [2, 2, 2, 2], num_classes=10)
        theirs = _torch_arrays(module, torch.zeros(2, 3, 64, 96))
    table = _complete(infer_table(ours, theirs))
    if named:
        for name, entry in table.items():
            path, _, last = name.rpartition(".")
            torch_name = entry.pieces()[0].torch
            assert path.replace("_", ".") == torch_name.rpartition(".")[0]
            assert torch_name.rpartition(".")[2] == {
                "kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"
            }[last]  # fmt: skip
    else:
        order = [array.name for array in ours]
        assert sorted(table, key=order.index) == order
        reference = _complete(
            infer_table(_linen_arrays(FlaxResNet(network.depths, bottleneck), jnp.zeros((2, 64, 96, 3))), theirs)
        )
        if not shortcut_first:
            assert list(table.values()) == list(reference.values())


@pytest.mark.parametrize("shortcut_first", [False, True])
@pytest.mark.parametrize("bottleneck", [False, True])
def test_a_resnet_of_flaxs_own_names_computes_the_same(bottleneck, shortcut_first):
    network = FlaxResNet((2, 2), bottleneck, named=False, shortcut_first=shortcut_first)
    module: Any = ResNet(Bottleneck if bottleneck else BasicBlock, [2, 2, 1, 1], num_classes=10)
    module.layer3, module.layer4 = nn.Identity(), nn.Identity()
    module.fc = nn.Linear(512 if bottleneck else 128, 10)
    _agrees_in_linen(network, module, RNG.standard_normal((2, 16, 24, 3)), images=True)
