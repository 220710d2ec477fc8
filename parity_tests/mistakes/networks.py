"""The right pairs that mistakes are planted in: the ports, as small as they can be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn
from torchvision import models
from torchvision.models import vgg
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.mobilenetv3 import InvertedResidualConfig
from torchvision.models.resnet import BasicBlock

import netparity
from netparity import JaxNetwork
from parity_tests.mistakes import optimizers
from parity_tests.mistakes.planting import Change, Names, Network
from parity_tests.ports import torch_blocks, torch_modules
from parity_tests.ports.cases import filled
from parity_tests.ports.cases_others import images

BIASED: dict[str, Any] = {"allow": ["biased running variance"]}
Inputs = Callable[[np.random.Generator], tuple[np.ndarray, ...]]


def _linen(
    name: str,
    source: str,
    port: Callable[[Names], Any],
    original: Callable[[], nn.Module],
    inputs: Inputs,
    num_classes: int | None = 5,
    smaller: Sequence[Change] = (),
    **keywords: Any,
) -> Network:
    def build(names: Names) -> JaxNetwork:
        module = port(names)
        shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs(np.random.default_rng(0)))
        return netparity.linen(module, filled(shapes))

    return Network(name, "linen", source, build, original, inputs, num_classes, keywords, tuple(smaller))


def _nnx(
    name: str, source: str, port: Callable[[Names], nnx.Module], original: Callable[[], nn.Module], inputs: Inputs,
    smaller: Sequence[Change] = (), **keywords: Any,
) -> Network:  # fmt: skip
    def build(names: Names) -> JaxNetwork:
        graph, state = nnx.split(nnx.eval_shape(lambda: port(names)))
        return netparity.nnx(nnx.merge(graph, _drawn(state, channels_last=True)))

    return Network(name, "nnx", source, build, original, inputs, 5, keywords, tuple(smaller))


def _equinox(
    name: str, source: str, port: Callable[[Names], Any], original: Callable[[], nn.Module], inputs: Inputs,
    **keywords: Any,
) -> Network:  # fmt: skip
    def build(names: Names) -> JaxNetwork:
        return netparity.equinox(*_drawn(eqx.filter_eval_shape(lambda: port(names)), channels_last=False))

    return Network(name, "equinox", source, build, original, inputs, 5, keywords)


def _drawn(tree: Any, channels_last: bool) -> Any:
    """Values for a tree of shapes, none of them a constant; drawn by NumPy, since JAX compiles what it draws with."""
    rng = np.random.default_rng(0)

    def drawn(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros(leaf.shape, leaf.dtype)
        if len(leaf.shape) > 1:
            fan_in = math.prod(leaf.shape[:-1] if channels_last else leaf.shape[1:])
            return jnp.asarray(rng.standard_normal(leaf.shape) * math.sqrt(2 / fan_in), leaf.dtype)
        around = 0.0 if "bias" in jax.tree_util.keystr(path) else 1.0
        return jnp.asarray(around + rng.uniform(-0.4, 0.4, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(drawn, tree)


def _tokens(batch: int, time: int, vocabulary: int) -> Inputs:
    return lambda rng: (rng.integers(0, vocabulary, (batch, time)).astype(np.int32),)


def _alexnet() -> nn.Module:
    with torch.device("meta"):  # its own classifier of 58 million parameters is never made
        module = models.alexnet(num_classes=5)
    module.features = nn.Sequential(
        nn.Conv2d(3, 8, 11, stride=4, padding=2),
        nn.ReLU(True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(8, 12, 5, padding=2),
        nn.ReLU(True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(12, 14, 3, padding=1),
        nn.ReLU(True),
        nn.Conv2d(14, 10, 3, padding=1),
        nn.ReLU(True),
        nn.Conv2d(10, 6, 3, padding=1),
        nn.ReLU(True),
        nn.MaxPool2d(3, 2),
    )
    module.classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(6 * 6 * 6, 12), nn.ReLU(True),
        nn.Dropout(), nn.Linear(12, 12), nn.ReLU(True),
        nn.Linear(12, 5),
    )  # fmt: skip
    return module


def _vgg() -> nn.Module:
    """torchvision's VGG with two convolutions and a narrow classifier."""
    with torch.device("meta"):  # its own classifier of 120 million parameters is never made
        module = models.VGG(nn.Sequential(), num_classes=5, init_weights=False)
    module.features = vgg.make_layers([6, "M", 8, "M"], batch_norm=True)
    module.classifier = nn.Sequential(
        nn.Linear(8 * 7 * 7, 12), nn.ReLU(True), nn.Dropout(),
        nn.Linear(12, 12), nn.ReLU(True), nn.Dropout(),
        nn.Linear(12, 5),
    )  # fmt: skip
    return module


def _resnet() -> nn.Module:
    """torchvision's ResNet, an eighth as wide, with one block in each of its first two groups alone."""
    with torch.device("meta"):
        module = models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5)
    projection = nn.Sequential(nn.Conv2d(8, 16, 1, 2, bias=False), nn.BatchNorm2d(16))
    module.conv1, module.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
    module.layer1 = nn.Sequential(BasicBlock(8, 8))
    module.layer2 = nn.Sequential(BasicBlock(8, 16, 2, projection))
    module.layer3, module.layer4, module.fc = nn.Sequential(), nn.Sequential(), nn.Linear(16, 5)
    return module


# Kernel, expanded, features, squeeze, hard swish, stride.
_ROWS = ((3, 16, 16, True, False, 2), (5, 96, 16, True, True, 1))


def _mobilenet() -> nn.Module:
    """torchvision's MobileNetV3 with two of its blocks, at a quarter of the width."""
    rows, before = [], 16
    for kernel, expanded, features, squeeze, swish, stride in _ROWS:
        kind = "HS" if swish else "RE"
        rows.append(InvertedResidualConfig(before, kernel, expanded, features, squeeze, kind, stride, 1, 0.25))
        before = features
    return models.MobileNetV3(rows, last_channel=256, num_classes=5)


def _mobilenet_port(names: Names) -> Any:
    names["MOBILENET_V3_SMALL"] = tuple(names["Bottleneck"](*row) for row in _ROWS)
    return names["MobileNetV3Small"](num_classes=5, width=0.25)


def _vit() -> nn.Module:
    return models.VisionTransformer(
        image_size=12, patch_size=4, num_layers=1, num_heads=4, hidden_dim=32, mlp_dim=40, dropout=0.1, num_classes=5
    )


def _convnext() -> nn.Module:
    blocks = [CNBlockConfig(8, 12, 1), CNBlockConfig(12, None, 1)]
    return ConvNeXt(blocks, stochastic_depth_prob=0.5, num_classes=5)


_PORTS = (
    _linen("lenet5", "lenet.py", lambda names: names["LeNet5"](num_classes=5),
           lambda: torch_modules.LeNet5(16, 20, num_classes=5), images(4, 16, 20, 1)),
    _linen("alexnet", "alexnet.py", lambda names: names["AlexNet"](num_classes=5, hidden=12),
           _alexnet, images(2, 67, 99, 3), smaller=[
               (f"nn.Conv({wide},", f"nn.Conv({narrow},")
               for wide, narrow in ((64, 8), (192, 12), (384, 14), (256, 10), (256, 6))
           ]),
    _linen("vgg11_bn", "vgg.py", lambda names: names["VGG"]((6, "M", 8, "M"), True, 12, 5),
           _vgg, images(4, 12, 20, 3), **BIASED),
    _linen("resnet18", "resnet.py", lambda names: names["ResNet"]((1, 1), num_classes=5),
           _resnet, images(4, 20, 28, 3),
           smaller=[("nn.Conv(64,", "nn.Conv(8,"), ("(64 * 2**i", "(8 * 2**i")], **BIASED),
    _linen("mobilenet_v3_small", "mobilenet.py", _mobilenet_port, _mobilenet, images(4, 24, 40, 3), **BIASED),
    _linen("vit_b_16", "vit.py", lambda names: names["VisionTransformer"](4, 1, 4, 32, 40, 5, dropout=0.1),
           _vit, images(4, 12, 12, 3)),  # torchvision's takes square images alone
    _linen("convnext_tiny", "convnext.py", lambda names: names["ConvNeXt"]((1, 1), (8, 12), 0.5, 5),
           _convnext, images(4, 16, 24, 3)),
    _linen("lstm", "lstm.py", lambda names: names["LSTMClassifier"](11, 5, 6, 4),
           lambda: torch_modules.LSTMClassifier(11, 5, 6, 4), _tokens(4, 6, 11), 4),
    _nnx("nnx_lenet5", "nnx_lenet.py", lambda names: names["LeNet5"](5, (20, 28), rngs=nnx.Rngs(0)),
         lambda: torch_modules.LeNet5(20, 28, num_classes=5, padding=0), images(4, 20, 28, 1)),
    _nnx("nnx_resnet18", "nnx_resnet.py", lambda names: names["ResNet"](5, (1, 1), rngs=nnx.Rngs(0)),
         _resnet, images(4, 20, 28, 3),
         [("conv(3, 64,", "conv(3, 8,"), ("batch_norm(64,", "batch_norm(8,"), ("in_features = 64", "in_features = 8"),
          ("features = 64 *", "features = 8 *")], **BIASED),
    _nnx("nnx_vit", "nnx_vit.py",
         lambda names: names["VisionTransformer"](12, 4, 1, 4, 32, 40, 5, 0.1, rngs=nnx.Rngs(0)),
         _vit, images(4, 12, 12, 3)),
    _equinox("equinox_lenet5", "equinox_lenet.py", lambda names: (names["LeNet5"](5, (20, 28), key=jax.random.key(0)),),
             lambda: torch_modules.LeNet5(20, 28, num_classes=5, padding=0), images(4, 1, 20, 28)),
    _equinox("equinox_vgg_bn", "equinox_vgg.py",
             lambda names: eqx.nn.make_with_state(names["VGG"])((6, "M", 8, "M"), 12, 5, key=jax.random.key(0)),
             _vgg, images(4, 3, 28, 56), **BIASED),
)  # fmt: skip

# What torchvision has no network for.
_BLOCKS = (
    _linen("decoder", "decoder.py", lambda names: names["Decoder"](8, 5), lambda: torch_blocks.Decoder(8, 5),
           images(3, 8, 16, 3), None),
    _linen("pooling", "pooling.py", lambda names: names["Pooling"](8, 5), lambda: torch_blocks.Pooling(8, 5),
           images(4, 9, 13, 3)),
    _linen("gpt", "gpt.py", lambda names: names["GPT"](11, 16, 4, 12, 5), lambda: torch_blocks.GPT(11, 16, 4, 12, 5),
           _tokens(3, 6, 11)),
    _linen("gpt_interleaved", "gpt.py", lambda names: names["GPT"](11, 16, 4, 12, 5, interleaved=True),
           lambda: torch_blocks.GPT(11, 16, 4, 12, 5, interleaved=True), _tokens(3, 6, 11)),
)  # fmt: skip

# One small network with each of the optimizers.
_TRAINED = tuple(
    _linen(f"mlp_{name}", "mlp.py", lambda names: names["MLP"](8, 5), lambda: torch_blocks.mlp(6, 8, 5),
           lambda rng: (rng.standard_normal((4, 6)).astype(np.float32),), optimizer=pair, steps=4)
    for name, pair in optimizers.RIGHT.items()
)  # fmt: skip

NETWORKS: dict[str, Network] = {network.name: network for network in (*_PORTS, *_BLOCKS, *_TRAINED)}
