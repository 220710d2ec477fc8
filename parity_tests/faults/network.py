"""Faults planted in the networks: layouts, padding, strides, pooling, ReLU, dropout, weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import torch
from torch import nn
from torch.nn import functional as F

from jaxalex.networks import rows
from jaxalex.networks.alexnet import AlexNet
from jaxalex.networks.rows import Layers
from parity_tests.faults.planting import Fault, InLayer, InModule, InNetwork, InTable, layer_of, own_forward
from torch_ref import models as torch_models


def _conv(weight: Any = None, bias: Any = None, x: Any = None, **how: Any) -> Any:
    """A convolution whose weight, bias, input or geometry is altered."""

    def forward(m: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
        return F.conv2d(
            images if x is None else x(images),
            m.weight if weight is None else weight(m.weight),
            m.bias if bias is None else bias(m.bias),
            how.get("stride", m.stride),
            how.get("padding", m.padding),
            how.get("dilation", m.dilation),
            m.groups,
        )

    return forward


def _linear(weight: Any = None, bias: Any = None, x: Any = None) -> Any:
    def forward(m: nn.Linear, rows: torch.Tensor) -> torch.Tensor:
        weights = m.weight if weight is None else weight(m.weight)
        return F.linear(rows if x is None else x(rows), weights, m.bias if bias is None else bias(m.bias))

    return forward


def _edges(x: torch.Tensor) -> torch.Tensor:
    x = torch.cat([x[:, :, :1], x, x[:, :, -1:]], 2)
    return torch.cat([x[..., :1], x, x[..., -1:]], 3)


def _swapped(a: torch.Tensor) -> torch.Tensor:
    return torch.cat([a[1:2], a[:1], a[2:]])


def _nudged(a: torch.Tensor) -> torch.Tensor:
    step = torch.zeros_like(a)
    step.view(-1)[0] = 1e-3
    return a + step


def _grouped(a: torch.Tensor) -> torch.Tensor:
    mask = torch.ones_like(a)
    half = a.shape[0] // 2, a.shape[1] // 2
    mask[: half[0], half[1] :] = mask[half[0] :, : half[1]] = 0
    return a * mask


def _rounded(bits: int) -> Any:
    """Float32 rounded to a shorter significand, as tensor cores read it; float64 is left alone."""

    def round_(a: torch.Tensor) -> torch.Tensor:
        if a.dtype != torch.float32 or a.is_meta:
            return a
        drop = 23 - bits
        return ((a.view(torch.int32) + (1 << (drop - 1))) >> drop << drop).view(torch.float32)

    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: torch.Tensor) -> torch.Tensor:
            return round_(a)

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return grad

    return Rounded.apply


def _windows(m: Any, x: torch.Tensor) -> torch.Tensor:
    return x.unfold(2, m.kernel_size, m.stride).unfold(3, m.kernel_size, m.stride)


def _last_maximum(m: nn.MaxPool2d, x: torch.Tensor) -> torch.Tensor:
    windows = _windows(m, x).flatten(4).flip(-1)
    return windows.gather(-1, windows.max(-1, keepdim=True).indices)[..., 0] if not x.is_meta else windows[..., 0]


def _move_dropout(module: Any) -> None:
    module.fc1 = _Reordered(*module.fc1)


class _Reordered(nn.Sequential):
    """Dropout before the dense layer, under the same parameter names."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flatten, linear, relu, drop = self.children()
        return relu(linear(drop(flatten(x))))


def _with_pad(name: str, *pad: int) -> Any:
    return InLayer(name, lambda m, x: F.conv2d(F.pad(x, pad), m.weight, m.bias, m.stride, groups=m.groups))


def _flatten(order: Any) -> Any:
    """The feature map ``[b, c, h, w]`` turned by ``order`` before it is flattened."""
    return InModule(lambda module: own_forward(module.fc1[0], lambda m, x: order(x).flatten(1)))


def _without(stage: str) -> InModule:
    return InModule(lambda module: module.set_submodule(torch_models.stages(module)[stage], nn.Identity()))


def set_on(stage: str, **attributes: Any) -> InModule:
    """Attributes of a stage's layer with other values."""

    def change(module: nn.Module) -> None:
        for key, value in attributes.items():
            setattr(layer_of(module, stage), key, value)

    return InModule(change)


@dataclasses.dataclass(frozen=True)
class _Unpermuted:
    """A network that gets fc1's rows in PyTorch's order: the conversion forgot to permute them."""

    network: AlexNet

    @property
    def layers(self) -> Layers:
        return self.network.layers

    def apply(self, variables: Any, images: jax.Array, *args: Any, **kwargs: Any) -> Any:
        params = variables["params"]
        kernel = params["fc1"]["kernel"]
        height, width = rows.feature_hw(self.layers, *images.shape[1:3])
        turned = kernel.reshape(height, width, -1, kernel.shape[1]).transpose(2, 0, 1, 3).reshape(kernel.shape)
        params = {**params, "fc1": {**params["fc1"], "kernel": turned}}
        return self.network.apply({"params": params}, images, *args, **kwargs)


class _HalfReLU(AlexNet):
    """Every ReLU as a maximum, whose gradient at 0 is one half."""

    def relu(self, x: jax.Array) -> jax.Array:
        return jnp.maximum(x, jnp.zeros((), x.dtype))


BLOCKS = ("cifar10", "paper", "original")  # a PyTorch module for each of eight blocks
LARGE = ("paper", "original", "torchvision")  # for 224x224 images
_FLOAT = "rounding in one layer"

NETWORK: tuple[Fault, ...] = (
    Fault("conv2's kernel with height and width swapped", "kernel layout", "conv2",
          InLayer("conv2", _conv(weight=lambda w: w.transpose(2, 3)))),
    Fault("conv3's kernel flipped: convolution for correlation", "kernel layout", "conv3",
          InLayer("conv3", _conv(weight=lambda w: w.flip(2, 3)))),
    Fault("conv5's kernel with input and output channels swapped", "kernel layout", "conv5",
          InLayer("conv5", _conv(weight=lambda w: w.transpose(0, 1))), models=("cifar10", "torchvision")),
    Fault("conv4's kernel with input and output channels swapped", "kernel layout", "conv4",
          InLayer("conv4", _conv(weight=lambda w: w.transpose(0, 1))), models=("paper",)),
    Fault("fc2's kernel transposed", "kernel layout", "fc2",
          InLayer("fc2", _linear(weight=lambda w: w.T))),
    Fault("flatten by height, width, channel", "flatten order", "fc1",
          _flatten(lambda x: x.permute(0, 2, 3, 1)), models=BLOCKS),
    Fault("flatten by channel, width, height", "flatten order", "fc1",
          _flatten(lambda x: x.transpose(2, 3)), models=BLOCKS),
    Fault("fc1's rows left in PyTorch's order", "flatten order", "fc1", InNetwork(_Unpermuted)),
    Fault("\"SAME\" padding in conv1: one more row, and as many after the pool either way", "padding", "conv1",
          _with_pad("conv1", 3, 4, 3, 4), models=LARGE),
    Fault("padding 1 for 2 in conv1, at 129x97, where the sizes agree", "padding", "conv1",
          InTable({"conv1": {"padding": 1}}), models=LARGE, image_hw=(129, 97)),
    Fault("no padding in conv3", "padding", "conv3", set_on("conv3", padding=(0, 0))),
    Fault("padding all on one side in conv4: the window shifted by a pixel", "padding", "conv4",
          _with_pad("conv4", 0, 2, 0, 2)),
    Fault("conv5 padded by the edge instead of zeros", "padding", "conv5",
          InLayer("conv5", _conv(x=_edges, padding=0))),
    Fault("dilation 2 in conv3, padded to the same size", "padding", "conv3",
          InLayer("conv3", _conv(dilation=2, padding=2))),
    Fault("stride 2 in conv2", "stride", "conv2", set_on("conv2", stride=(2, 2))),
    Fault("window 3 for 2 in pool1, at 33x25, where the sizes agree", "pooling", "pool1",
          InTable({"pool1": {"kernel": 3}}), models=("cifar10",), image_hw=(33, 25)),
    Fault("sizes rounded up in pool1, at 131x99", "floor or ceil", "pool1", set_on("pool1", ceil_mode=True),
          models=LARGE, image_hw=(131, 99)),
    Fault("sizes rounded up in pool3, at 36x28", "floor or ceil", "pool3", set_on("pool3", ceil_mode=True),
          models=("cifar10",), image_hw=(36, 28)),
    Fault("average for maximum in pool2", "pooling", "pool2",
          InLayer("pool2", lambda m, x: F.avg_pool2d(x, m.kernel_size, m.stride))),
    Fault("pool1's gradient shared among ties", "pooling's ties", "pool1",
          InLayer("pool1", lambda m, x: _windows(m, x).amax((-2, -1)))),
    Fault("pool2's gradient to the last maximum", "pooling's ties", "pool2",
          InLayer("pool2", _last_maximum)),
    Fault("relu2's gradient one half at 0", "ReLU's gradient at 0", "relu2",
          InLayer("relu2", lambda m, x: torch.maximum(x, torch.zeros_like(x)))),
    Fault("relu3's gradient one at 0", "ReLU's gradient at 0", "relu3",
          InLayer("relu3", lambda m, x: torch.where(x >= 0, x, torch.zeros_like(x)))),
    Fault("every ReLU as jnp.maximum(x, 0)", "ReLU's gradient at 0", "relu1",
          InNetwork(lambda network: _HalfReLU(network.layers, network.num_classes, network.width))),
    Fault("relu4 leaks 0.01", "ReLU", "relu4", InLayer("relu4", lambda m, x: F.leaky_relu(x, 0.01))),
    Fault("relu5 left out", "ReLU's place", "relu5", InLayer("relu5", lambda m, x: x.clone())),
    Fault("a ReLU on the logits", "ReLU's place", "fc3",
          InLayer("fc3", lambda m, x: F.linear(x, m.weight, m.bias).relu())),
    Fault("dropout before fc1's product", "dropout's place", "drop1", InModule(_move_dropout),
          models=BLOCKS),
    Fault("drop1 does not scale what it keeps", "dropout's scale", "drop1", set_on("drop1", p=0.0)),
    Fault("drop2's rate 0.4", "dropout's rate", "drop2", set_on("drop2", p=0.4)),
    Fault("dropout's rate 0.25", "dropout's rate", "drop1",
          InTable({"drop1": {"rate": 0.25}, "drop2": {"rate": 0.25}})),
    Fault("drop2 left out", "dropout's place", "drop2", _without("drop2")),
    Fault("drop1 active in evaluation", "dropout's place", "drop1",
          InLayer("drop1", lambda m, x: F.dropout(x, m.p, training=True))),
    Fault("conv2's bias left out", "bias", "conv2",
          InLayer("conv2", lambda m, x: F.conv2d(x, m.weight, None, m.stride, m.padding, 1, m.groups))),
    Fault("fc3's bias left out", "bias", "fc3", InLayer("fc3", lambda m, x: F.linear(x, m.weight))),
    Fault("conv4's bias added twice", "bias", "conv4", InLayer("conv4", _conv(bias=lambda b: 2 * b))),
    Fault("two of conv3's filters swapped", "one filter", "conv3",
          InLayer("conv3", _conv(weight=_swapped, bias=_swapped))),
    Fault("one weight of fc2 changed by 1e-3", "one weight", "fc2",
          InLayer("fc2", _linear(weight=_nudged))),
    Fault("conv2 in two groups, as on two GPUs", "grouped convolution", "conv2",
          InLayer("conv2", _conv(weight=_grouped)), models=("cifar10", "paper", "torchvision")),
    Fault("local response normalisation after relu1", "local response normalisation", "relu1",
          InLayer("relu1", lambda m, x: F.local_response_norm(x.relu(), 5, alpha=5e-4, k=2.0)
                   if not x.is_meta else x), models=("cifar10", "paper", "torchvision")),
    Fault("conv5 passes no gradient back", "gradient", "conv5",
          InLayer("conv5", _conv(x=lambda x: x.detach()))),
    Fault("fc1's kernel gets no gradient", "gradient", "fc1",
          InLayer("fc1", _linear(weight=lambda w: w.detach()))),
)  # fmt: skip

ROUNDING: tuple[Fault, ...] = (
    Fault("TF32 rounding in conv4, in float32 alone", _FLOAT, "conv4",
          InLayer("conv4", _conv(weight=_rounded(10), x=_rounded(10)))),
    Fault("bfloat16 rounding in fc1, in float32 alone", _FLOAT, "fc1",
          InLayer("fc1", _linear(weight=_rounded(7), x=_rounded(7)))),
)  # fmt: skip
