"""Faults planted in what only some of the networks have: LRN, groups, adaptive pooling, dropout before dense layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from parity_tests.faults.network import set_on
from parity_tests.faults.planting import Fault, InLayer, InModule, InTable, own_forward

# --- local response normalisation ------------------------------------------------------------------------------------


def _lrn(m: nn.LocalResponseNorm, x: torch.Tensor) -> torch.Tensor:
    return F.local_response_norm(x, m.size, m.alpha, m.beta, m.k) if not x.is_meta else x


def _by_tower(m: nn.LocalResponseNorm, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([_lrn(m, half) for half in x.chunk(2, 1)], 1)


def _along_width(m: nn.LocalResponseNorm, x: torch.Tensor) -> torch.Tensor:
    return _lrn(m, x.transpose(1, 3)).transpose(1, 3)


def _around_pixels(m: nn.LocalResponseNorm, x: torch.Tensor) -> torch.Tensor:
    return x / (m.k + m.alpha * F.avg_pool2d(x**2, m.size, 1, m.size // 2)) ** m.beta


def _absolute(m: nn.LocalResponseNorm, x: torch.Tensor) -> torch.Tensor:
    """The sum of what lies around without the number itself."""
    squares = F.avg_pool3d(F.pad(x.unsqueeze(1) ** 2, (0, 0, 0, 0, 2, 2)), (m.size, 1, 1), 1).squeeze(1)
    return x / (m.k + m.alpha * (squares - x**2 / m.size)) ** m.beta


class _InOrder(nn.Sequential):
    """The same modules under the same names, computed in another order."""

    order: Sequence[int]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(self.children())
        for i in self.order:
            x = parts[i](x)
        return x


def _order(block: str, *order: int, usual: tuple[str, ...] = ()) -> InModule:
    """The modules of a block computed in another order; for ``usual`` see `InModule`."""

    def change(module: Any) -> None:
        made = _InOrder(*getattr(module, block))
        made.order = order
        setattr(module, block, made)

    return InModule(change, usual)


# --- groups ----------------------------------------------------------------------------------------------------------


def _convolved(m: nn.Conv2d, x: torch.Tensor, weight: torch.Tensor, groups: int) -> torch.Tensor:
    return F.conv2d(x, weight, m.bias, m.stride, m.padding, m.dilation, groups)


def _from(*halves: int) -> Any:
    """Each group of a convolution gets the input's half of this number."""

    def forward(m: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        parts = x.chunk(2, 1)
        return _convolved(m, torch.cat([parts[i] for i in halves], 1), m.weight, m.groups)

    return forward


def _interleaved(m: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """A group gets every other channel."""
    return _convolved(m, torch.cat([x[:, ::2], x[:, 1::2]], 1), m.weight, m.groups)


def _ungrouped(m: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """Every filter sees all channels."""
    return _convolved(m, x, torch.cat([m.weight, m.weight], 1), 1)


def _filters_swapped(m: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """The halves of the output in the other order."""
    return torch.cat(_convolved(m, x, m.weight, m.groups).chunk(2, 1)[::-1], 1)


def _two_groups(m: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """A convolution that sees all channels, cut into two towers."""
    (first, _), (_, last) = (half.chunk(2, 1) for half in m.weight.chunk(2, 0))
    return _convolved(m, x, torch.cat([first, last], 0), 2)


# --- adaptive pooling, and dropout before dense layers ---------------------------------------------------------------


def _floor_windows(m: nn.AdaptiveAvgPool2d, x: torch.Tensor) -> torch.Tensor:
    """The ends of the windows rounded down, as their starts are."""

    def pooled(x: torch.Tensor, axis: int) -> torch.Tensor:
        size = x.shape[axis]
        starts = [i * size // 6 for i in range(6)]
        ends = [max(start + 1, (i + 1) * size // 6) for i, start in enumerate(starts)]
        parts = [x.narrow(axis, a, b - a).mean(axis, keepdim=True) for a, b in zip(starts, ends, strict=True)]
        return torch.cat(parts, axis)

    return pooled(pooled(x, 2), 3)


def _cropped(m: nn.AdaptiveAvgPool2d, x: torch.Tensor) -> torch.Tensor:
    """The map's first six rows and columns, zeros where it is smaller."""
    return F.pad(x, (0, 6 - x.shape[3], 0, 6 - x.shape[2]))


def _turned(order: Any) -> InModule:
    """Torchvision's network with its feature map ``[b, c, h, w]`` turned by ``order`` before it is flattened."""

    def forward(module: Any, images: torch.Tensor) -> torch.Tensor:
        return module.classifier(order(module.avgpool(module.features(images))).flatten(1))

    return InModule(lambda module: own_forward(module, forward))


_ORIGINAL, _TORCHVISION = ("original",), ("torchvision",)
_LRN, _GROUPS, _ADAPTIVE = "local response normalisation", "grouped convolution", "adaptive pooling"

PARTS: tuple[Fault, ...] = (
    Fault("norm1's alpha divided by n: PyTorch's 1e-4 for the paper's", "LRN's alpha", "norm1",
          set_on("norm1", alpha=1e-4), models=_ORIGINAL),
    Fault("norm1's alpha times n: PyTorch's 5e-4 where nothing divides it", "LRN's alpha", "norm1",
          InTable({"norm1": {"alpha": 5e-4}}), models=_ORIGINAL),
    Fault("norm1's k 1 for 2", _LRN, "norm1", set_on("norm1", k=1.0), models=_ORIGINAL),
    Fault("norm2's size 3 for 5", _LRN, "norm2", set_on("norm2", size=3), models=_ORIGINAL),
    Fault("norm2's beta 0.5 for 0.75", _LRN, "norm2", set_on("norm2", beta=0.5), models=_ORIGINAL),
    Fault("norm1's k 1 for 2", _LRN, "norm1",
          InTable({"norm1": {"k": 1.0}}), models=_ORIGINAL),
    Fault("norm2 left out", _LRN, "norm2", InLayer("norm2", lambda m, x: x.clone()), models=_ORIGINAL),
    Fault("norm1 before relu1", "LRN's place", "norm1", _order("conv1", 0, 2, 1, 3), models=_ORIGINAL),
    Fault("norm2 after pool2", "LRN's place", "pool2", _order("conv2", 0, 1, 3, 2), models=_ORIGINAL),
    Fault("norm1 by tower: over the channels of one half", _LRN, "norm1",
          InLayer("norm1", _by_tower), models=_ORIGINAL),
    Fault("norm2 along the width", _LRN, "norm2", InLayer("norm2", _along_width), models=_ORIGINAL),
    Fault("norm2 over the pixels around in one channel", _LRN, "norm2",
          InLayer("norm2", _around_pixels), models=_ORIGINAL),
    Fault("norm1 without the number itself in its sum", _LRN, "norm1", InLayer("norm1", _absolute), models=_ORIGINAL),
    Fault("conv2's groups get each other's half", _GROUPS, "conv2", InLayer("conv2", _from(1, 0)), models=_ORIGINAL),
    Fault("both of conv4's groups get the first half", _GROUPS, "conv4",
          InLayer("conv4", _from(0, 0)), models=_ORIGINAL),
    Fault("conv5's groups get every other channel", _GROUPS, "conv5",
          InLayer("conv5", _interleaved), models=_ORIGINAL),
    Fault("conv2 without groups: every filter sees both halves", _GROUPS, "conv2",
          InLayer("conv2", _ungrouped), models=_ORIGINAL),
    Fault("the halves of conv4's filters swapped", _GROUPS, "conv4",
          InLayer("conv4", _filters_swapped), models=_ORIGINAL),
    Fault("conv3 in two groups, too", _GROUPS, "conv3", InLayer("conv3", _two_groups), models=_ORIGINAL),
    Fault("adaptive windows that end where the next begins", _ADAPTIVE, "avgpool",
          InLayer("avgpool", _floor_windows), models=_TORCHVISION),
    Fault("adaptive maximum for average", _ADAPTIVE, "avgpool",
          InLayer("avgpool", lambda m, x: F.adaptive_max_pool2d(x, 6)), models=_TORCHVISION),
    Fault("the map cropped and filled up to 6x6", _ADAPTIVE, "avgpool",
          InLayer("avgpool", _cropped), models=_TORCHVISION),
    Fault("the map resized to 6x6 by nearest neighbours", _ADAPTIVE, "avgpool",
          InLayer("avgpool", lambda m, x: F.interpolate(x, size=(6, 6))), models=_TORCHVISION),
    Fault("the map resized to 6x6 bilinearly", _ADAPTIVE, "avgpool",
          InLayer("avgpool", lambda m, x: F.interpolate(x, size=(6, 6), mode="bilinear")), models=_TORCHVISION),
    Fault("adaptive pooling left out", _ADAPTIVE, "avgpool",
          InLayer("avgpool", lambda m, x: x.clone()), models=_TORCHVISION),
    Fault("flatten by height, width, channel before dropout", "flatten order", "drop1",
          _turned(lambda x: x.permute(0, 2, 3, 1)), models=_TORCHVISION),
    Fault("flatten by channel, width, height before dropout", "flatten order", "drop1",
          _turned(lambda x: x.transpose(2, 3)), models=_TORCHVISION),
    Fault("drop1 after fc1's ReLU instead of before fc1", "dropout's place", "fc1",
          _order("classifier", 1, 2, 0, 3, 4, 5, 6, usual=("drop1",)), models=_TORCHVISION),
    Fault("drop2 after fc2's ReLU instead of before fc2", "dropout's place", "fc2",
          _order("classifier", 0, 1, 2, 4, 5, 3, 6), models=_TORCHVISION),
)  # fmt: skip
