"""The ports in Flax Linen beside their originals, small and at their published sizes.

The torch side is torchvision's own, as its constructors make it. Where these have no parameter for a width, as in the
classifiers of AlexNet and VGG, a small case puts a narrower ``nn.Sequential`` of the same layers in their place.
"""

from __future__ import annotations

import ast
import io
import math
import pathlib
import tokenize
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as fnn
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.resnet import BasicBlock
from torchvision.models.vgg import make_layers

from parity_tests.ports import alexnet, convnext, lenet, lstm, mobilenet, resnet, torch_modules, vgg, vit

Inputs = Callable[[np.random.Generator], tuple[np.ndarray, ...]]

SMALL_VGG = (8, "M", 16, "M", 24, 24, "M", 32, 32, "M", 32, 32, "M")


@dataclass(frozen=True)
class Case:
    """A network and its port.

    ``library`` is the port's: ``"linen"``, ``"nnx"`` or ``"equinox"``. ``jax`` returns a Linen network and its
    variables, an NNX module, an Equinox model, or an Equinox model and its state; float32, the same every time, with
    neither biases nor statistics of plain zeros and ones. ``inputs`` draws a batch in the port's layout: images
    ``[batch, height, width, channel]``, for Equinox ``[batch, channel, height, width]``. ``source`` is the file of the
    port, in this folder. ``allow_biased_variance``: the port's running variances are updated with the batch's biased
    variance, as Flax does it, and PyTorch's with the unbiased one.
    """

    name: str
    library: str
    torch: Callable[[], nn.Module]
    jax: Callable[[], Any]
    inputs: Inputs
    num_classes: int
    source: str
    allow_biased_variance: bool = False


def lines(case: Case) -> int:
    """Lines of code of a port, which are all those of its file but blank lines, comments and docstrings.

    What it imports from another port counts there.
    """
    return _code_lines((pathlib.Path(__file__).parent / case.source).read_text())


def _code_lines(text: str) -> int:
    """
    >>> _code_lines('# comment\\n\\n"Docstring."\\n\\nx = [  # begins\\n    # comment\\n    1,\\n]\\n')
    3
    """
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in layout:
            found |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            found -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(found)


def _linen(
    name: str,
    source: str,
    original: Callable[[], nn.Module],
    port: fnn.Module,
    inputs: Inputs,
    num_classes: int,
    allow_biased_variance: bool = False,
) -> Case:
    def initialised() -> tuple[fnn.Module, Any]:
        # Shapes alone, since compiling an initialisation takes longer than all the rest.
        shapes = jax.eval_shape(port.init, jax.random.key(0), *inputs(np.random.default_rng(0)))
        return port, filled(shapes)

    return Case(name, "linen", original, initialised, inputs, num_classes, source, allow_biased_variance)


def filled(shapes: Any) -> Any:
    """Variables of these shapes, float32, in which nothing is a constant: a zero bias would hide what is done with it.

    Kernels are of the size that keeps signals alive through many layers (He et al., 2015).
    """
    rng = np.random.default_rng(0)

    def drawn(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name, shape = path[-1].key, leaf.shape
        if name == "kernel":
            # The projections of attention, of three axes, have as many features in as out.
            fan_in = math.prod(shape[:-1]) if len(shape) != 3 else math.isqrt(math.prod(shape))
            array = rng.standard_normal(shape, np.float32) * math.sqrt(2 / fan_in)
        elif name == "embedding":
            array = rng.standard_normal(shape, np.float32)
        elif name == "var":
            array = rng.uniform(0.6, 1.8, shape)
        elif name == "scale":
            array = rng.uniform(0.5, 1.5, shape)
        else:
            array = rng.uniform(-0.2, 0.2, shape)
        return jnp.asarray(array, jnp.float32)

    return jax.tree_util.tree_map_with_path(drawn, shapes)


def _images(*shape: int) -> Inputs:
    def draw(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        return (rng.standard_normal(shape).astype(np.float32),)

    return draw


def _tokens(batch: int, time: int, vocabulary: int) -> Inputs:
    def draw(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        return (rng.integers(0, vocabulary, (batch, time)).astype(np.int32),)

    return draw


def _small_alexnet() -> nn.Module:
    module = models.alexnet(num_classes=10)
    module.classifier = nn.Sequential(
        nn.Dropout(),
        nn.Linear(256 * 6 * 6, 48),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(48, 48),
        nn.ReLU(inplace=True),
        nn.Linear(48, 10),
    )
    return module


def _small_vgg(batch_norm: bool = False) -> nn.Module:
    features = make_layers(list(SMALL_VGG), batch_norm=batch_norm)
    with torch.device("meta"):  # its own classifier of 120 million parameters is never made
        module = models.VGG(features, num_classes=10, init_weights=False)
    module.classifier = nn.Sequential(
        nn.Linear(32 * 7 * 7, 40),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(40, 40),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(40, 10),
    )
    return module


def _small_vit() -> nn.Module:
    return models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=10
    )


def _small_convnext() -> nn.Module:
    blocks = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, 24, 2), CNBlockConfig(24, None, 1)]
    return ConvNeXt(blocks, stochastic_depth_prob=0.1, num_classes=10)


def _convnext_tiny() -> nn.Module:
    blocks = [CNBlockConfig(96, 192, 1), CNBlockConfig(192, 384, 1), CNBlockConfig(384, 768, 1)]
    return ConvNeXt([*blocks, CNBlockConfig(768, None, 1)], stochastic_depth_prob=0.1)


def _vit_b_16() -> nn.Module:
    return models.VisionTransformer(
        image_size=224, patch_size=16, num_layers=2, num_heads=12, hidden_dim=768, mlp_dim=3072
    )


def _named(*cases: Case) -> dict[str, Case]:
    return {case.name: case for case in cases}


# Each computes in seconds on a processor.
SMALL: dict[str, Case] = _named(
    _linen(
        "alexnet", "alexnet.py", _small_alexnet, alexnet.AlexNet(num_classes=10, hidden=48), _images(4, 67, 99, 3), 10
    ),
    _linen(
        "vgg11",
        "vgg.py",
        _small_vgg,
        vgg.VGG(SMALL_VGG, hidden=40, num_classes=10),
        _images(4, 64, 96, 3),
        10,
    ),
    _linen(
        "vgg11_bn",
        "vgg.py",
        lambda: _small_vgg(batch_norm=True),
        vgg.VGG(SMALL_VGG, batch_norm=True, hidden=40, num_classes=10),
        _images(4, 64, 96, 3),
        10,
        allow_biased_variance=True,
    ),
    _linen(
        "resnet18",
        "resnet.py",
        lambda: models.ResNet(BasicBlock, [2, 2, 1, 1], num_classes=10),
        resnet.ResNet((2, 2, 1, 1), num_classes=10),
        _images(5, 48, 64, 3),
        10,
        allow_biased_variance=True,
    ),
    _linen(
        "mobilenet_v3_small",
        "mobilenet.py",
        lambda: models.mobilenet_v3_small(num_classes=10, width_mult=0.25),
        mobilenet.MobileNetV3Small(num_classes=10, width=0.25),
        _images(4, 64, 96, 3),
        10,
        allow_biased_variance=True,
    ),
    _linen(
        "vit_b_16",
        "vit.py",
        _small_vit,
        vit.VisionTransformer(patch_size=8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=10),
        _images(5, 32, 32, 3),  # torchvision's takes square images alone
        10,
    ),
    _linen(
        "convnext_tiny",
        "convnext.py",
        _small_convnext,
        convnext.ConvNeXt(depths=(1, 2, 1), dims=(8, 16, 24), num_classes=10),
        _images(5, 32, 48, 3),
        10,
    ),
    _linen(
        "lstm",
        "lstm.py",
        lambda: torch_modules.LSTMClassifier(vocabulary=50, features=12, hidden=20, num_classes=7),
        lstm.LSTMClassifier(vocabulary=50, features=12, hidden=20, num_classes=7),
        _tokens(4, 9, 50),
        7,
    ),
    _linen(
        "lenet5",
        "lenet.py",
        lambda: torch_modules.LeNet5(20, 28),
        lenet.LeNet5(),
        _images(4, 20, 28, 1),
        10,
    ),
)

# The published sizes; the transformer and ConvNeXt with fewer layers.
FULL: dict[str, Case] = _named(
    _linen("alexnet", "alexnet.py", models.alexnet, alexnet.AlexNet(), _images(2, 224, 224, 3), 1000),
    _linen("vgg11", "vgg.py", models.vgg11, vgg.VGG(), _images(2, 224, 224, 3), 1000),
    _linen(
        "vgg11_bn",
        "vgg.py",
        models.vgg11_bn,
        vgg.VGG(batch_norm=True),
        _images(2, 224, 224, 3),
        1000,
        allow_biased_variance=True,
    ),
    _linen(
        "resnet18",
        "resnet.py",
        models.resnet18,
        resnet.ResNet(),
        _images(4, 64, 64, 3),
        1000,
        allow_biased_variance=True,
    ),
    _linen(
        "mobilenet_v3_small",
        "mobilenet.py",
        models.mobilenet_v3_small,
        mobilenet.MobileNetV3Small(),
        _images(2, 224, 224, 3),
        1000,
        allow_biased_variance=True,
    ),
    _linen("vit_b_16", "vit.py", _vit_b_16, vit.VisionTransformer(num_layers=2), _images(2, 224, 224, 3), 1000),
    _linen(
        "convnext_tiny",
        "convnext.py",
        _convnext_tiny,
        convnext.ConvNeXt(depths=(1, 1, 1, 1)),
        _images(2, 224, 224, 3),
        1000,
    ),
    _linen("lstm", "lstm.py", torch_modules.LSTMClassifier, lstm.LSTMClassifier(), _tokens(4, 64, 10_000), 10),
    _linen("lenet5", "lenet.py", torch_modules.LeNet5, lenet.LeNet5(), _images(4, 28, 28, 1), 10),
)
