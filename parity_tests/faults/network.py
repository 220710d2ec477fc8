"""Faults planted in the networks: layouts, padding, strides, pooling, ReLU, dropout, weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import torch
from torch import nn
from torch.nn import functional as F

from jaxalex.networks.alexnet import AlexNet
from jaxalex.networks.rows import Layers
from parity_tests.faults.planting import Fault, InLayer, InModule, InNetwork, InTable


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
    return InLayer(name, lambda m, x: F.conv2d(F.pad(x, pad), m.weight, m.bias, m.stride))


def _replace(name: str, new: nn.Module) -> Any:
    def change(module: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        block: Any = module.get_submodule(parent)
        block[int(child)] = new

    return InModule(change)


def _set(name: str, **attributes: Any) -> Any:
    def change(module: nn.Module) -> None:
        for key, value in attributes.items():
            setattr(module.get_submodule(name), key, value)

    return InModule(change)


@dataclasses.dataclass(frozen=True)
class _Unpermuted:
    """A network that gets fc1's rows in PyTorch's order: the conversion forgot to permute them."""

    network: AlexNet

    @property
    def layers(self) -> Layers:
        return self.network.layers

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        params = variables["params"]
        rows = params["fc1"]["kernel"]
        channels = params["conv5"]["bias"].shape[0]
        side = round((rows.shape[0] // channels) ** 0.5)
        kernel = rows.reshape(side, side, channels, -1).transpose(2, 0, 1, 3).reshape(rows.shape)
        return self.network.apply({"params": {**params, "fc1": {**params["fc1"], "kernel": kernel}}}, *args, **kwargs)


class _HalfReLU(AlexNet):
    """Every ReLU as a maximum, whose gradient at 0 is one half."""

    def relu(self, x: jax.Array) -> jax.Array:
        return jnp.maximum(x, jnp.zeros((), x.dtype))


_FLOAT = "rounding in one layer"

NETWORK: tuple[Fault, ...] = (
    Fault("conv2's kernel with height and width swapped", "kernel layout", "conv2",
          InLayer("conv2.0", _conv(weight=lambda w: w.transpose(2, 3)))),
    Fault("conv3's kernel flipped: convolution for correlation", "kernel layout", "conv3",
          InLayer("conv3.0", _conv(weight=lambda w: w.flip(2, 3)))),
    Fault("conv5's kernel with input and output channels swapped", "kernel layout", "conv5",
          InLayer("conv5.0", _conv(weight=lambda w: w.transpose(0, 1))), models=("cifar10",)),
    Fault("conv4's kernel with input and output channels swapped", "kernel layout", "conv4",
          InLayer("conv4.0", _conv(weight=lambda w: w.transpose(0, 1))), models=("paper",)),
    Fault("fc2's kernel transposed", "kernel layout", "fc2",
          InLayer("fc2.0", _linear(weight=lambda w: w.T))),
    Fault("flatten by height, width, channel", "flatten order", "fc1",
          InLayer("fc1.0", lambda m, x: x.permute(0, 2, 3, 1).flatten(1))),
    Fault("flatten by channel, width, height", "flatten order", "fc1",
          InLayer("fc1.0", lambda m, x: x.transpose(2, 3).flatten(1))),
    Fault("fc1's rows left in PyTorch's order", "flatten order", "fc1", InNetwork(_Unpermuted)),
    Fault("\"SAME\" padding in conv1 at 224: 56 for 55, and 27 after the pool either way", "padding", "conv1",
          _with_pad("conv1.0", 3, 4, 3, 4), models=("paper",)),
    Fault("padding 1 for 2 in conv1, at 225, where the sizes agree", "padding", "conv1",
          InTable({"conv1": {"padding": 1}}), models=("paper",), image_hw=(225, 225)),
    Fault("no padding in conv3", "padding", "conv3", _set("conv3.0", padding=(0, 0))),
    Fault("padding all on one side in conv4: the window shifted by a pixel", "padding", "conv4",
          _with_pad("conv4.0", 0, 2, 0, 2)),
    Fault("conv5 padded by the edge instead of zeros", "padding", "conv5",
          InLayer("conv5.0", _conv(x=_edges, padding=0))),
    Fault("dilation 2 in conv3, padded to the same size", "padding", "conv3",
          InLayer("conv3.0", _conv(dilation=2, padding=2))),
    Fault("stride 2 in conv2", "stride", "conv2", _set("conv2.0", stride=(2, 2))),
    Fault("window 3 for 2 in pool1, at 33, where the sizes agree", "pooling", "pool1",
          InTable({"pool1": {"kernel": 3}}), models=("cifar10",), image_hw=(33, 33)),
    Fault("sizes rounded up in pool1, at 227", "floor or ceil", "pool1",
          _set("conv1.2", ceil_mode=True),
          models=("paper",), image_hw=(227, 227)),
    Fault("sizes rounded up in pool3, at 36", "floor or ceil", "pool3", _set("conv5.2", ceil_mode=True),
          models=("cifar10",), image_hw=(36, 36)),
    Fault("average for maximum in pool2", "pooling", "pool2",
          InLayer("conv2.2", lambda m, x: F.avg_pool2d(x, m.kernel_size, m.stride))),
    Fault("pool1's gradient shared among ties", "pooling's ties", "pool1",
          InLayer("conv1.2", lambda m, x: _windows(m, x).amax((-2, -1)))),
    Fault("pool2's gradient to the last maximum", "pooling's ties", "pool2",
          InLayer("conv2.2", _last_maximum)),
    Fault("relu2's gradient one half at 0", "ReLU's gradient at 0", "relu2",
          InLayer("conv2.1", lambda m, x: torch.maximum(x, torch.zeros_like(x)))),
    Fault("relu3's gradient one at 0", "ReLU's gradient at 0", "relu3",
          InLayer("conv3.1", lambda m, x: torch.where(x >= 0, x, torch.zeros_like(x)))),
    Fault("every ReLU as jnp.maximum(x, 0)", "ReLU's gradient at 0", "relu1",
          InNetwork(lambda network: _HalfReLU(network.layers, network.num_classes, network.width))),
    Fault("relu4 leaks 0.01", "ReLU", "relu4", InLayer("conv4.1", lambda m, x: F.leaky_relu(x, 0.01))),
    Fault("relu5 left out", "ReLU's place", "relu5", InLayer("conv5.1", lambda m, x: x.clone())),
    Fault("a ReLU on the logits", "ReLU's place", "fc3",
          InLayer("fc3.0", lambda m, x: F.linear(x, m.weight, m.bias).relu())),
    Fault("dropout before fc1's product", "dropout's place", "drop1", InModule(_move_dropout)),
    Fault("drop1 does not scale what it keeps", "dropout's scale", "drop1", _set("fc1.3", p=0.0)),
    Fault("drop2's rate 0.4", "dropout's rate", "drop2", _set("fc2.2", p=0.4)),
    Fault("dropout's rate 0.25", "dropout's rate", "drop1",
          InTable({"drop1": {"rate": 0.25}, "drop2": {"rate": 0.25}})),
    Fault("drop2 left out", "dropout's place", "drop2", _replace("fc2.2", nn.Identity())),
    Fault("drop1 active in evaluation", "dropout's place", "drop1",
          InLayer("fc1.3", lambda m, x: F.dropout(x, m.p, training=True))),
    Fault("conv2's bias left out", "bias", "conv2",
          InLayer("conv2.0", lambda m, x: F.conv2d(x, m.weight, None, m.stride, m.padding))),
    Fault("fc3's bias left out", "bias", "fc3", InLayer("fc3.0", lambda m, x: F.linear(x, m.weight))),
    Fault("conv4's bias added twice", "bias", "conv4", InLayer("conv4.0", _conv(bias=lambda b: 2 * b))),
    Fault("two of conv3's filters swapped", "one filter", "conv3",
          InLayer("conv3.0", _conv(weight=_swapped, bias=_swapped))),
    Fault("one weight of fc2 changed by 1e-3", "one weight", "fc2",
          InLayer("fc2.0", _linear(weight=_nudged))),
    Fault("conv2 in two groups, as on two GPUs", "grouped convolution", "conv2",
          InLayer("conv2.0", _conv(weight=_grouped))),
    Fault("local response normalisation after relu1", "local response normalisation", "relu1",
          InLayer("conv1.1", lambda m, x: F.local_response_norm(x.relu(), 5, alpha=5e-4, k=2.0)
                   if not x.is_meta else x)),
    Fault("TF32 rounding in conv4, in float32 alone", _FLOAT, "conv4",
          InLayer("conv4.0", _conv(weight=_rounded(10), x=_rounded(10)))),
    Fault("bfloat16 rounding in fc1, in float32 alone", _FLOAT, "fc1",
          InLayer("fc1.1", _linear(weight=_rounded(7), x=_rounded(7)))),
    Fault("conv5 passes no gradient back", "gradient", "conv5",
          InLayer("conv5.0", _conv(x=lambda x: x.detach()))),
    Fault("fc1's kernel gets no gradient", "gradient", "fc1",
          InLayer("fc1.1", _linear(weight=lambda w: w.detach()))),
)  # fmt: skip
