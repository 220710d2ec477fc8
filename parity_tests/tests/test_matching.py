"""The name table's inference: on real networks, by converting and comparing their outputs in float64."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
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
from netparity.table import Concatenated, ConvKernel, DenseKernel, NameTable, Part, Reshaped, Same, Sum, Transposed

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
        mine = np.asarray(jax.jit(network.apply)(variables, x))
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


# ------------------------------------------------------------------------------------------- other real networks


class FlaxVGG(fnn.Module):
    """torchvision's vgg11_bn, of any width."""

    widths: tuple[int | None, ...] = (64, None, 128, None, 256, 256, None, 512, 512, None, 512, 512, None)
    hidden: int = 4096
    classes: int = 10

    @fnn.compact
    def __call__(self, x: Any) -> Any:
        for width in self.widths:
            if width is None:
                x = fnn.max_pool(x, (2, 2), (2, 2))
            else:
                x = fnn.Conv(width, (3, 3), padding=1)(x)
                x = fnn.relu(fnn.BatchNorm(use_running_average=True, epsilon=1e-5)(x))
        x = x.reshape(x.shape[0], -1)
        for _ in range(2):
            x = fnn.relu(fnn.Dense(self.hidden)(x))
        return fnn.Dense(self.classes)(x)


def test_vgg11_with_batch_normalisation_and_its_flattening():
    ours = _linen_arrays(FlaxVGG(), jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32))
    with torch.device("meta"):
        theirs = _torch_arrays(models.vgg11_bn(num_classes=10), torch.zeros(2, 3, 224, 224))
    table = _complete(infer_table(ours, theirs, maps={"Dense_0.kernel": (7, 7, 512)}))
    assert table["Conv_7.kernel"] == ConvKernel("features.25.weight")
    assert table["BatchNorm_7.var"] == Same("features.26.running_var")
    assert table["Dense_0.kernel"] == DenseKernel("classifier.0.weight", flattened=(7, 7, 512))
    assert table["Dense_1.kernel"] == DenseKernel("classifier.3.weight")


def test_a_flattening_computes_the_same():
    layers: list[nn.Module] = []
    for width, inputs in ((4, 3), (6, 4)):
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(2 * 4 * 6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5)]
    network = FlaxVGG((4, None, 6, None), hidden=8, classes=5)
    _agrees_in_linen(
        network,
        nn.Sequential(*layers),
        RNG.standard_normal((2, 8, 16, 3)),
        images=True,
        maps={"Dense_0.kernel": (2, 4, 6)},
    )


class FlaxMobile(fnn.Module):
    """torchvision's mobilenet_v3_small, by Flax's own names."""

    rows = (  # window, expanded, out, squeezed, stride
        (3, 16, 16, 8, 2), (3, 72, 24, 0, 2), (3, 88, 24, 0, 1), (5, 96, 40, 24, 2), (5, 240, 40, 64, 1),
        (5, 240, 40, 64, 1), (5, 120, 48, 32, 1), (5, 144, 48, 40, 1), (5, 288, 96, 72, 2), (5, 576, 96, 144, 1),
        (5, 576, 96, 144, 1),
    )  # fmt: skip

    @fnn.compact
    def __call__(self, x: Any) -> Any:
        def block(x: Any, width: int, window: int, stride: int, groups: int = 1) -> Any:
            p = window // 2
            x = fnn.Conv(width, (window,) * 2, stride, ((p, p), (p, p)), feature_group_count=groups, use_bias=False)(x)
            return fnn.BatchNorm(use_running_average=True, epsilon=1e-3)(x)

        x = fnn.hard_swish(block(x, 16, 3, 2))
        for i, (window, wide, out, squeezed, stride) in enumerate(self.rows):
            act = fnn.relu if i < 3 else fnn.hard_swish
            y = act(block(x, wide, 1, 1)) if wide != x.shape[-1] else x
            y = act(block(y, wide, window, stride, wide))
            if squeezed:
                s = fnn.relu(fnn.Conv(squeezed, (1, 1))(y.mean((1, 2), keepdims=True)))
                y = y * fnn.hard_sigmoid(fnn.Conv(wide, (1, 1))(s))
            y = block(y, out, 1, 1)
            x = x + y if stride == 1 and x.shape == y.shape else y
        x = fnn.hard_swish(block(x, 576, 1, 1)).mean((1, 2))
        return fnn.Dense(10)(fnn.hard_swish(fnn.Dense(1024)(x)))


@pytest.mark.slow
def test_mobilenet_v3_computes_the_same():
    module = models.mobilenet_v3_small(num_classes=10)
    _agrees_in_linen(FlaxMobile(), module, RNG.standard_normal((2, 64, 96, 3)), images=True)


def test_mobilenet_v3_is_complete():
    ours = _linen_arrays(FlaxMobile(), jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32))
    with torch.device("meta"):
        theirs = _torch_arrays(models.mobilenet_v3_small(num_classes=10), torch.zeros(2, 3, 64, 96))
    table = _complete(infer_table(ours, theirs))
    # Flax counts in the order of construction: the last layer is the first.
    assert table["Dense_0.kernel"] == DenseKernel("classifier.3.weight")
    assert table["Conv_51.kernel"] == ConvKernel("features.12.0.weight")


class FlaxEncoderBlock(fnn.Module):
    heads: int
    hidden: int
    pre_norm: bool
    epsilon: float

    @fnn.compact
    def __call__(self, x: Any) -> Any:
        attention = fnn.MultiHeadDotProductAttention(self.heads)
        first, second = fnn.LayerNorm(self.epsilon), fnn.LayerNorm(self.epsilon)
        wide, narrow = fnn.Dense(self.hidden), fnn.Dense(x.shape[-1])

        def feed_forward(x: Any) -> Any:
            return narrow((fnn.gelu(wide(x), approximate=False)) if self.pre_norm else fnn.relu(wide(x)))

        if self.pre_norm:
            x = x + attention(first(x))
            return x + feed_forward(second(x))
        x = first(x + attention(x))
        return second(x + feed_forward(x))


class FlaxViT(fnn.Module):
    @fnn.compact
    def __call__(self, x: Any) -> Any:
        x = fnn.Conv(12, (8, 8), (8, 8), padding="VALID", name="embedding")(x)
        x = x.reshape(x.shape[0], -1, 12)
        cls = self.param("cls", fnn.initializers.zeros, (1, 1, 12))
        x = jnp.concatenate([jnp.broadcast_to(cls, (x.shape[0], 1, 12)), x], 1)
        x = x + self.param("pos_embedding", fnn.initializers.zeros, (1, x.shape[1], 12))
        for _ in range(2):
            x = FlaxEncoderBlock(3, 24, True, 1e-6)(x)
        return fnn.Dense(10, name="head")(fnn.LayerNorm(1e-6)(x)[:, 0])


def test_a_vision_transformer_computes_the_same():
    module = VisionTransformer(32, 8, 2, 3, 12, 24, num_classes=10)
    table = _agrees_in_linen(FlaxViT(), module, RNG.standard_normal((2, 32, 32, 3)), images=True)
    attention = "encoder.layers.encoder_layer_1.self_attention"
    path = "FlaxEncoderBlock_1.MultiHeadDotProductAttention_0"
    assert table[f"{path}.key.kernel"] == Part(DenseKernel(f"{attention}.in_proj_weight"), 1, 3)
    assert table[f"{path}.key.bias"] == Part(Reshaped(f"{attention}.in_proj_bias"), 1, 3)
    assert table[f"{path}.out.kernel"] == DenseKernel(f"{attention}.out_proj.weight")


class FlaxConvNeXt(fnn.Module):
    @fnn.compact
    def __call__(self, x: Any) -> Any:
        x = fnn.LayerNorm(1e-6)(fnn.Conv(8, (4, 4), (4, 4), padding="VALID")(x))
        for depth, out in ((2, 16), (1, None)):
            width = x.shape[-1]
            for i in range(depth):
                y = fnn.Conv(width, (7, 7), padding=((3, 3), (3, 3)), feature_group_count=width)(x)
                y = fnn.Dense(4 * width)(fnn.LayerNorm(1e-6)(y))
                y = fnn.Dense(width)(fnn.gelu(y, approximate=False))
                x = x + self.param(f"layer_scale_{out}_{i}", fnn.initializers.ones, (width,)) * y
            if out is not None:
                x = fnn.Conv(out, (2, 2), (2, 2), padding="VALID")(fnn.LayerNorm(1e-6)(x))
        return fnn.Dense(10)(fnn.LayerNorm(1e-6)(x.mean((1, 2), keepdims=True))[:, 0, 0])


def test_a_convnext_computes_the_same():
    module = ConvNeXt([CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 1)], num_classes=10)
    with jax.numpy_rank_promotion("allow"):
        table = _agrees_in_linen(FlaxConvNeXt(), module, RNG.standard_normal((2, 32, 48, 3)), images=True)
    assert table["layer_scale_16_1"] == Reshaped("features.1.1.layer_scale")


# ------------------------------------------------------------------------------------------- attention


class FlaxEncoder(fnn.Module):
    @fnn.compact
    def __call__(self, x: Any) -> Any:
        for _ in range(2):
            x = FlaxEncoderBlock(3, 24, False, 1e-5)(x)
        return x


def test_a_transformers_encoder_computes_the_same():
    layer = nn.TransformerEncoderLayer(12, 3, 24, batch_first=True, dtype=torch.float64)
    module = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    _agrees_in_linen(FlaxEncoder(), module, RNG.standard_normal((2, 5, 12)))


class ThreeLinears(nn.Module):
    """Attention of three linear modules, which are called in another order than they are in JAX."""

    def __init__(self) -> None:
        super().__init__()
        self.v_proj, self.k_proj, self.q_proj = (nn.Linear(12, 12) for _ in range(3))
        self.out_proj = nn.Linear(12, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v, k, q = (layer(x).unflatten(-1, (3, 4)).transpose(1, 2) for layer in (self.v_proj, self.k_proj, self.q_proj))
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: torch.Tensor = self.out_proj(y)
        return out


def test_query_key_and_value_are_told_by_their_names():
    network = fnn.MultiHeadDotProductAttention(3)
    table = _agrees_in_linen(network, ThreeLinears(), RNG.standard_normal((2, 5, 12)))
    assert table["query.kernel"] == DenseKernel("q_proj.weight")
    assert table["out.kernel"] == DenseKernel("out_proj.weight")


class FlaxFused(fnn.Module):
    split: bool

    @fnn.compact
    def __call__(self, x: Any) -> Any:
        if self.split:
            q, k, v = (a[:, :, 0] for a in jnp.split(fnn.DenseGeneral((3, 3, 4), name="qkv")(x), 3, axis=2))
        else:
            q, k, v = (a.reshape(*x.shape[:2], 3, 4) for a in jnp.split(fnn.Dense(36, name="qkv")(x), 3, axis=-1))
        y = fnn.dot_product_attention(q, k, v)
        return fnn.Dense(12, name="out_proj")(y.reshape(x.shape))


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_one_kernel_for_query_key_and_value(packed, split):
    class SelfAttention(nn.MultiheadAttention):
        def forward(self, x: torch.Tensor) -> Any:  # type: ignore[override]
            return super().forward(x, x, x, need_weights=False)

    module = SelfAttention(12, 3, batch_first=True) if packed else ThreeLinears()
    table = _agrees_in_linen(FlaxFused(split), module, RNG.standard_normal((2, 5, 12)))
    three = Concatenated((DenseKernel("q_proj.weight"), DenseKernel("k_proj.weight"), DenseKernel("v_proj.weight")), 1)
    assert table["qkv.kernel"] == (DenseKernel("in_proj_weight") if packed else three)


class TimmAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(12, 36), nn.Linear(12, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
        out: torch.Tensor = self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


def test_one_linear_module_for_query_key_and_value():
    table = _agrees_in_linen(fnn.MultiHeadDotProductAttention(3), TimmAttention(), RNG.standard_normal((2, 5, 12)))
    assert table["value.kernel"] == Part(DenseKernel("qkv.weight"), 2, 3)


# ------------------------------------------------------------------------------------------- recurrent networks


class FlaxRNN(fnn.Module):
    cell: Callable[..., fnn.RNNCellBase]
    layers: int

    @fnn.compact
    def __call__(self, x: Any) -> Any:
        for _ in range(self.layers):
            x = fnn.RNN(self.cell(7, param_dtype=x.dtype))(x)
        return x


@pytest.mark.parametrize(
    ("cell", "module"),
    [
        (fnn.OptimizedLSTMCell, nn.LSTM),
        (fnn.LSTMCell, nn.LSTM),
        (fnn.GRUCell, nn.GRU),
        (fnn.SimpleCell, nn.RNN),
    ],
)
def test_recurrent_layers_compute_the_same(cell, module):
    table = _agrees_in_linen(FlaxRNN(cell, 3), module(5, 7, 3, batch_first=True), RNG.standard_normal((2, 6, 5)))
    if module is nn.LSTM:
        name = f"{cell.__name__}_1"
        assert table[f"{name}.hf.kernel"] == Part(DenseKernel("weight_hh_l1"), 1, 4)
        assert table[f"{name}.ho.bias"] == Part(Sum(("bias_ih_l1", "bias_hh_l1")), 3, 4)
    if module is nn.GRU:
        assert table["GRUCell_0.in.bias"] == Part(Same("bias_ih_l0"), 2, 3)
        assert table["GRUCell_0.hn.bias"] == Part(Same("bias_hh_l0"), 2, 3)


class FlaxBidirectional(fnn.Module):
    @fnn.compact
    def __call__(self, x: Any) -> Any:
        for _ in range(2):
            forward, backward = (fnn.RNN(fnn.GRUCell(7, param_dtype=x.dtype)) for _ in range(2))
            x = fnn.Bidirectional(forward, backward)(x)
        return x


def test_both_directions_of_a_recurrent_layer():
    module = nn.GRU(5, 7, 2, batch_first=True, bidirectional=True)
    _agrees_in_linen(FlaxBidirectional(), module, RNG.standard_normal((2, 6, 5)))


def test_a_cell_of_nnx_that_packs_its_gates():
    cell = nnx.OptimizedLSTMCell(5, 7, rngs=nnx.Rngs(0))
    ours = [
        JaxArray(".".join(map(str, path)), value.shape) for path, value in nnx.to_flat_state(nnx.state(cell, nnx.Param))
    ]
    table = _complete(infer_table(ours, _torch_arrays(nn.LSTM(5, 7), torch.zeros(2, 3, 5))))
    assert table == {
        "dense_i.kernel": DenseKernel("weight_ih_l0"),
        "dense_h.kernel": DenseKernel("weight_hh_l0"),
        "dense_h.bias": Sum(("bias_ih_l0", "bias_hh_l0")),
    }


def test_equinoxs_cells_compute_the_same():
    x, carry = RNG.standard_normal(5), RNG.standard_normal(7)
    with jax.enable_x64(True):
        cell = eqx.nn.GRUCell(5, 7, key=jax.random.key(0))
        names = ["weight_ih", "weight_hh", "bias", "bias_n"]
        module = nn.GRUCell(5, 7, dtype=torch.float64)
        arrays, _, table = _converted(
            [JaxArray(name, getattr(cell, name).shape) for name in names],
            module,
            [torch.from_numpy(x)[None], torch.from_numpy(carry)[None]],
        )
        for name in names:
            cell = eqx.tree_at(operator.attrgetter(name), cell, jnp.asarray(arrays[name]))
        ours = np.asarray(cell(jnp.asarray(x), jnp.asarray(carry)))
    theirs = module(torch.from_numpy(x)[None], torch.from_numpy(carry)[None])[0].detach().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    assert table["bias_n"] == Part(Same("bias_hh"), 2, 3)


# ------------------------------------------------------------------------------------------- other ways to write JAX


def test_equinox_keeps_pytorchs_layout_even_where_it_is_square():
    ours = _listed(
        ("conv.weight", (3, 3, 3, 3)), ("conv.bias", (3, 1, 1)), ("up.weight", (4, 3, 2, 2)), ("up.bias", (4, 1, 1)),
        ("fc1.weight", (8, 8)), ("fc1.bias", (8,)), ("fc2.weight", (5, 8)), ("fc2.bias", (5,)),
    )  # fmt: skip
    module = nn.Sequential(
        nn.Conv2d(3, 3, 3), nn.ConvTranspose2d(3, 4, 2), nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten(), nn.Linear(8, 8),
        nn.Linear(8, 5),
    )  # fmt: skip
    assert _complete(infer_table(ours, _torch_arrays(module, torch.zeros(2, 3, 8, 10)))) == {
        "conv.weight": Same("0.weight"),
        "conv.bias": Reshaped("0.bias"),
        "up.weight": Transposed("1.weight", (1, 0, 2, 3), flipped=(2, 3)),
        "up.bias": Reshaped("1.bias"),
        "fc1.weight": Same("4.weight"),
        "fc1.bias": Same("4.bias"),
        "fc2.weight": Same("5.weight"),
        "fc2.bias": Same("5.bias"),
    }


def test_equinoxs_transposed_convolution_computes_the_same():
    x = RNG.standard_normal((3, 6, 9))
    with jax.enable_x64(True):
        layer = eqx.nn.ConvTranspose2d(3, 4, (2, 3), stride=2, key=jax.random.key(0))
        ours = _listed(("up.weight", layer.weight.shape), ("up.bias", (4, 1, 1)))
        module = nn.Sequential(nn.ConvTranspose2d(3, 4, (2, 3), stride=2))
        arrays, theirs, _ = _converted(ours, module, [torch.from_numpy(x)[None]])
        layer = eqx.tree_at(
            lambda m: (m.weight, m.bias), layer, tuple(jnp.asarray(arrays[n]) for n in ("up.weight", "up.bias"))
        )
        with jax.numpy_rank_promotion("allow"):
            mine = np.asarray(layer(jnp.asarray(x)))
    np.testing.assert_allclose(mine, theirs[0], rtol=0, atol=1e-12)


def test_attention_of_equinox():
    names = ("query_proj", "key_proj", "value_proj", "output_proj")
    ours = _listed(*((f"attention.{name}.weight", (12, 12)) for name in names))
    module = nn.MultiheadAttention(12, 3, bias=False)
    theirs = _torch_arrays(module, *(torch.zeros(5, 2, 12) for _ in range(3)))
    assert _complete(infer_table(ours, theirs)) == {
        "attention.query_proj.weight": Part(Same("in_proj_weight"), 0, 3),
        "attention.key_proj.weight": Part(Same("in_proj_weight"), 1, 3),
        "attention.value_proj.weight": Part(Same("in_proj_weight"), 2, 3),
        "attention.output_proj.weight": Same("out_proj.weight"),
    }


def test_nnx_names_its_blocks_with_dots():
    with torch.device("meta"):
        theirs = _torch_arrays(models.resnet18(num_classes=10), torch.zeros(2, 3, 64, 96))
    ours = [
        JaxArray(array.name.replace("_0_", ".0.").replace("_1_", ".1."), array.shape)
        for array in _linen_arrays(FlaxResNet((2, 2, 2, 2)), jnp.zeros((2, 64, 96, 3)))
    ]
    assert _complete(infer_table(ours, theirs))["layer4.1.conv2.kernel"] == ConvKernel("layer4.1.conv2.weight")


def _perceptron(*widths: int) -> tuple[nn.Sequential, list[TorchArray]]:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    module = nn.Sequential(*layers)
    return module, _torch_arrays(module, torch.zeros(2, widths[0]))


@pytest.mark.parametrize(
    "names", [("w1", "b1", "w2", "b2"), ("l1_w", "l1_b", "l2_w", "l2_b"), ("0.0", "0.1", "1.0", "1.1")]
)
def test_plain_functions_of_any_names(names):
    _, theirs = _perceptron(4, 8, 5)
    ours = _listed((names[0], (4, 8)), (names[1], (8,)), (names[2], (8, 5)), (names[3], (5,)))
    assert list(_complete(infer_table(ours, theirs)).values()) == [
        DenseKernel("0.weight"), Same("0.bias"), DenseKernel("2.weight"), Same("2.bias")
    ]  # fmt: skip


def test_a_square_layer_lies_as_the_others_do():
    _, theirs = _perceptron(4, 8, 8, 5)
    ours = _listed(("w1", (4, 8)), ("b1", (8,)), ("w2", (8, 8)), ("b2", (8,)), ("w3", (8, 5)), ("b3", (5,)))
    assert _complete(infer_table(ours, theirs))["w2"] == DenseKernel("2.weight")
    ours = _listed(("w1", (8, 4)), ("b1", (8,)), ("w2", (8, 8)), ("b2", (8,)), ("w3", (5, 8)), ("b3", (5,)))
    assert _complete(infer_table(ours, theirs))["w2"] == Same("2.weight")


def test_the_printed_table_makes_the_table():
    network = FlaxRNN(fnn.GRUCell, 1)
    ours = _linen_arrays(network, jnp.zeros((2, 6, 5)))
    table = _complete(infer_table(ours, _torch_arrays(nn.GRU(5, 7), torch.zeros(6, 2, 5))))
    first, rest = as_python(table).split("\n", 1)
    assert first == "from netparity import DenseKernel, Part, Same, Sum"
    names = dict(vars(tables))
    exec(rest, names)
    assert names["TABLE"] == table
    assert as_python({}) == "TABLE = {\n}\n"


# ------------------------------------------------------------------------------------------- what cannot be known


def _dense(*names: str, shape: Shape = (8, 8)) -> list[JaxArray]:
    return [JaxArray(f"{n}.{k}", s) for n in names for k, s in (("kernel", shape), ("bias", shape[-1:]))]


def test_where_the_counts_differ_the_candidates_are_listed():
    _, theirs = _perceptron(8, 8, 8)
    found = infer_table(_dense("Dense_0", "Dense_1", "Dense_2"), theirs)
    assert (found.table, found.jax_left, found.torch_left) == ({}, [], [])
    assert list(found.ambiguous) == [a.name for a in _dense("Dense_0", "Dense_1", "Dense_2")]
    assert found.ambiguous["Dense_1.kernel"] == ["DenseKernel('0.weight')", "DenseKernel('2.weight')"]
    found = infer_table(_dense("Dense_0"), theirs)
    assert found.ambiguous == {
        "Dense_0.kernel": ["DenseKernel('0.weight')", "DenseKernel('2.weight')"],
        "Dense_0.bias": ["Same('0.bias')", "Same('2.bias')"],
    }


def test_where_numbers_and_order_contradict_nothing_is_guessed():
    _, theirs = _perceptron(8, 8, 8, 8)
    found = infer_table(_dense("Dense_0", "Dense_2", "Dense_1"), theirs)
    three = ["DenseKernel('0.weight')", "DenseKernel('2.weight')", "DenseKernel('4.weight')"]
    assert found.ambiguous["Dense_1.kernel"] == found.ambiguous["Dense_2.kernel"] == three
    assert found.table == {}


def test_numbers_that_count_activations_on_one_side_name_nothing():
    module = nn.ModuleDict({"layers": _perceptron(8, 8, 8, 8)[0]})
    theirs = [
        TorchArray(f"layers.{i}.{name}", shape, module["layers"][i])  # type: ignore[index]
        for i in (0, 2, 4)
        for name, shape in (("weight", (8, 8)), ("bias", (8,)))
    ]
    table = _complete(infer_table(_dense("layers.0", "layers.1", "layers.2"), theirs))
    assert table["layers.1.kernel"] == DenseKernel("layers.2.weight")
    assert table["layers.2.kernel"] == DenseKernel("layers.4.weight")


def test_equal_names_win_over_the_order_of_use():
    module = nn.ModuleDict({"b": nn.Linear(8, 8), "a": nn.Linear(8, 8)})
    theirs = [TorchArray(n, tuple(v.shape), module[n.partition(".")[0]]) for n, v in module.named_parameters()]
    table = _complete(infer_table(_dense("a", "b"), theirs))
    assert table["a.kernel"] == DenseKernel("a.weight")


def test_another_shape_is_left_over_on_both_sides():
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 5, 3))
    theirs = _torch_arrays(module, torch.zeros(2, 3, 8, 10))
    ours = _listed(
        ("Conv_0.kernel", (3, 3, 3, 4)), ("Conv_1.kernel", (3, 3, 6, 4)), ("Conv_1.bias", (6,)),
        ("Conv_2.kernel", (3, 3, 6, 5)), ("Conv_2.bias", (5,)),
    )  # fmt: skip
    found = infer_table(ours, theirs)
    assert list(found.table) == ["Conv_0.kernel", "Conv_2.kernel", "Conv_2.bias"]
    assert (found.ambiguous, found.jax_left, found.torch_left) == (
        {}, ["Conv_1.kernel", "Conv_1.bias"], ["1.weight", "1.bias"]
    )  # fmt: skip


def test_a_kernel_is_never_taken_for_its_transpose():
    _, theirs = _perceptron(4, 8)
    found = infer_table(_dense("Dense_0", shape=(8, 4)), theirs)
    assert found.table == {}
    assert found.jax_left == ["Dense_0.kernel", "Dense_0.bias"]


def test_a_bias_that_only_one_side_has_is_left_over():
    module = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 5))
    theirs = _torch_arrays(module, torch.zeros(2, 4))
    ours = [*_dense("Dense_0", shape=(4, 8)), JaxArray("Dense_1.kernel", (8, 5))]
    found = infer_table(ours, theirs)
    assert found.table == {"Dense_0.kernel": DenseKernel("0.weight"), "Dense_1.kernel": DenseKernel("1.weight")}
    assert (found.ambiguous, found.jax_left, found.torch_left) == ({}, ["Dense_0.bias"], ["1.bias"])


def test_a_square_matrix_of_a_plain_function_lies_either_way():
    _, theirs = _perceptron(8, 8)
    found = infer_table(_listed(("w1", (8, 8)), ("b1", (8,))), theirs)
    assert found.table == {"b1": Same("0.bias")}
    assert found.ambiguous == {"w1": ["DenseKernel('0.weight')", "Same('0.weight')"]}
    assert found.torch_left == []


def test_a_transposed_convolution_of_as_many_channels_lies_either_way():
    theirs = _torch_arrays(nn.Sequential(nn.ConvTranspose2d(4, 4, 3, bias=False)), torch.zeros(2, 4, 5, 6))
    found = infer_table(_listed(("ConvTranspose_0.kernel", (3, 3, 4, 4))), theirs)
    assert found.ambiguous == {
        "ConvTranspose_0.kernel": [
            "ConvTransposeKernel('0.weight')",
            "ConvTransposeKernel('0.weight', transpose_kernel=True)",
        ]
    }


def test_query_key_and_value_head_by_head_are_not_taken_for_one_after_the_other():
    module = nn.MultiheadAttention(12, 3, bias=False)
    theirs = _torch_arrays(module, *(torch.zeros(5, 2, 12) for _ in range(3)))
    found = infer_table(_listed(("qkv.kernel", (12, 4, 9)), ("out.kernel", (12, 12))), theirs)
    assert found.table == {"out.kernel": DenseKernel("out_proj.weight")}
    assert (found.jax_left, found.torch_left) == (["qkv.kernel"], ["in_proj_weight"])


def test_a_gru_without_its_hidden_bias_is_not_complete():
    ours = _listed(("dense_i.kernel", (5, 21)), ("dense_i.bias", (21,)), ("dense_h.kernel", (7, 21)))
    found = infer_table(ours, _torch_arrays(nn.GRU(5, 7), torch.zeros(2, 3, 5)))
    assert found.torch_left == ["bias_hh_l0"]


@pytest.mark.parametrize("named", [True, False])
def test_an_order_that_is_mixed_up_leads_to_nothing_wrong(named):
    with torch.device("meta"):
        theirs = _torch_arrays(models.resnet18(num_classes=10), torch.zeros(2, 3, 64, 96))
    ours = _linen_arrays(FlaxResNet((2, 2, 2, 2), named=named), jnp.zeros((2, 64, 96, 3)))
    truth = _complete(infer_table(ours, theirs))
    for seed in range(5):
        mixed = [ours[i] for i in np.random.default_rng(seed).permutation(len(ours))]
        found = infer_table(mixed, theirs)
        assert {name: truth[name] for name in found.table} == found.table
        assert sorted([*found.table, *found.ambiguous, *found.jax_left]) == sorted(truth)
        assert found.table == truth or not named


def test_nothing_at_all():
    assert infer_table([], []) == Inferred({}, {}, [], [])
    _, theirs = _perceptron(4, 5)
    assert infer_table([], theirs) == Inferred({}, {}, [], ["0.weight", "0.bias"])
    assert infer_table(_dense("a"), []) == Inferred({}, {}, ["a.kernel", "a.bias"], [])


@pytest.mark.parametrize("names", [("attn_q", "attn_k", "attn_v", "attn_o"), ("wq", "wk", "wv", "wo")])
def test_query_key_and_value_in_other_spellings(names):
    theirs = _torch_arrays(ThreeLinears(), torch.zeros(2, 5, 12))
    table = _complete(infer_table(_dense(*names, shape=(12, 12)), theirs))
    assert [table[f"{name}.kernel"] for name in names] == [
        DenseKernel(f"{name}_proj.weight") for name in ("q", "k", "v", "out")
    ]
