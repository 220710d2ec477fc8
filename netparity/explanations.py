"""Known ways to get a layer or a loss wrong, each with the numbers it would give.

All of it is written anew in float64, so that the numbers of either side can be held against it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F


@dataclasses.dataclass(frozen=True)
class Explanation:
    """One way to compute something.

    Attributes:
      text: what was done, for people: ``"bias left out"``.
      compute: gives the numbers; its arguments are those of the family it belongs to.
      is_plain: whether this is the right way, which explains no difference.
    """

    text: str
    compute: Callable[..., Any]
    is_plain: bool = False


Operation = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # (x, weight, bias) -> y


@dataclasses.dataclass(frozen=True)
class MaxPool:
    """Window, stride and padding of a max-pooling, and whether its output's size is rounded up."""

    window: int
    stride: int
    padding: int
    rounded_up: bool = False

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        del weight, bias
        return F.max_pool2d(x, self.window, self.stride, self.padding, ceil_mode=self.rounded_up)

    def __str__(self) -> str:
        rounded = ", sizes rounded up" if self.rounded_up else ""
        return f"max-pool {self.window}/{self.stride}, padding {self.padding}{rounded}"


def convolutions(kernel: int, stride: int, padding: int, dilation: int = 1) -> Iterator[Explanation]:
    """Convolutions ``(x [b, c, h, w], weight, bias) -> y``, the plain one first."""

    def conv(
        change: Any = None, *, bias: float = 1.0, s: int = stride, p: Any = padding, d: int = dilation
    ) -> Operation:
        return lambda x, w, b: F.conv2d(x, w if change is None else change(w), bias * b, s, p, d)

    def padded(*pad: int, mode: str = "constant") -> Operation:
        return lambda x, w, b: F.conv2d(F.pad(x, pad, mode=mode), w, b, stride, 0, dilation)

    yield Explanation("plain", conv(), is_plain=True)
    yield Explanation("kernel with height and width swapped", conv(lambda w: w.transpose(2, 3)))
    yield Explanation("kernel flipped (convolution for cross-correlation)", conv(lambda w: w.flip(2, 3)))
    yield Explanation("kernel with input and output channels swapped", conv(lambda w: w.transpose(0, 1)))
    yield Explanation("bias left out", conv(bias=0.0))
    yield Explanation("bias added twice", conv(bias=2.0))
    for p in range(4):
        if p != padding:
            yield Explanation(f"padding {p} for {padding}", conv(p=p))
    for s in range(1, 5):
        if s != stride:
            yield Explanation(f"stride {s} for {stride}", conv(s=s))
    if dilation == 1:
        yield Explanation("dilation 2, padded to the same size", conv(p=kernel - 1, d=2))
    else:
        yield Explanation(f"dilation 1 for {dilation}, padded to the same size", conv(p=(kernel - 1) // 2, d=1))
    yield Explanation("padding all on the right and bottom", padded(0, 2 * padding, 0, 2 * padding))
    yield Explanation("padding all on the left and top", padded(2 * padding, 0, 2 * padding, 0))
    extent = dilation * (kernel - 1) + 1
    short = extent - stride if extent > stride else 0
    low, high = short // 2, short - short // 2
    yield Explanation('"SAME" padding', padded(low, high, low, high))
    yield Explanation("the edge repeated for zero padding", padded(*[padding] * 4, mode="replicate"))
    yield Explanation("two groups", conv(_two_groups))
    yield Explanation("its first two filters swapped", lambda x, w, b: conv()(x, _swapped(w), _swapped(b)))
    yield Explanation("no gradient to its input", lambda x, w, b: conv()(x.detach(), w, b))
    yield Explanation("no gradient to its kernel", lambda x, w, b: conv()(x, w.detach(), b))


def _swapped(a: torch.Tensor) -> torch.Tensor:
    return torch.cat([a[1:2], a[:1], a[2:]])


def _two_groups(w: torch.Tensor) -> torch.Tensor:
    mask = torch.ones_like(w)
    half = w.shape[0] // 2, w.shape[1] // 2
    mask[: half[0], half[1] :] = mask[half[0] :, : half[1]] = 0
    return w * mask


def dense() -> Iterator[Explanation]:
    """Dense layers over ``[b, in]`` or a feature map ``[b, c, h, w]``, the plain one first."""

    def linear(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
        return F.linear(x.flatten(1), w, b)

    yield Explanation("plain", linear, is_plain=True)
    yield Explanation("kernel transposed", lambda x, w, b: linear(x, w.T, b))
    yield Explanation("bias left out", lambda x, w, b: linear(x, w, None))
    yield Explanation("bias added twice", lambda x, w, b: linear(x, w, 2 * b))
    yield Explanation("flatten order: height, width, channel", lambda x, w, b: linear(_ordered(x, 0, 2, 3, 1), w, b))
    yield Explanation("flatten order: channel, width, height", lambda x, w, b: linear(_ordered(x, 0, 1, 3, 2), w, b))
    yield Explanation("flatten order: kernel's rows not permuted", lambda x, w, b: linear(x, _unpermuted(x, w), b))
    yield Explanation("a ReLU after it", lambda x, w, b: linear(x, w, b).relu())
    yield Explanation("a softmax after it", lambda x, w, b: linear(x, w, b).softmax(1))
    yield Explanation("no gradient to its input", lambda x, w, b: linear(x.detach(), w, b))
    yield Explanation("no gradient to its kernel", lambda x, w, b: linear(x, w.detach(), b))


def _ordered(x: torch.Tensor, *order: int) -> torch.Tensor:
    if x.ndim != 4:
        raise ValueError("not a feature map")
    return x.permute(*order)


def _unpermuted(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """The weight as JAX holds it, row by row, where PyTorch reads it channel by channel."""
    if x.ndim != 4:
        raise ValueError("not a feature map")
    _, c, h, wide = x.shape
    return w.reshape(-1, c, h, wide).permute(0, 2, 3, 1).flatten(1)


def relus(is_relu: bool) -> Iterator[Explanation]:
    """ReLUs and what is mistaken for them; ``is_relu`` says whether the plain ReLU is the right one."""
    yield Explanation("ReLU", lambda x, w, b: x.relu(), is_plain=is_relu)
    yield Explanation("left out", lambda x, w, b: x * 1)
    yield Explanation(
        "ReLU with gradient 1/2 at 0 (maximum(x, 0))", lambda x, w, b: torch.maximum(x, torch.zeros_like(x))
    )
    yield Explanation("ReLU with gradient 1 at 0", lambda x, w, b: torch.where(x >= 0, x, torch.zeros_like(x)))
    yield Explanation("ReLU that leaks 0.01", lambda x, w, b: F.leaky_relu(x, 0.01))
    yield Explanation(
        "ReLU and local response normalisation", lambda x, w, b: F.local_response_norm(x.relu(), 5, 5e-4, 0.75, 2.0)
    )


def poolings(own: MaxPool | None) -> Iterator[Explanation]:
    """Poolings ``[b, c, h, w]`` and what is mistaken for them; ``own`` is the right one, None where there is none."""
    for k, s in ((2, 2), (3, 2), (3, 3), (4, 2)):
        for p in (0, 1):
            for pool in (MaxPool(k, s, p), MaxPool(k, s, p, rounded_up=True)):
                yield Explanation(str(pool), pool, is_plain=pool == own)
            yield Explanation(f"average-pool {k}/{s}, padding {p}", lambda x, w, b, a=(k, s, p): F.avg_pool2d(x, *a))
        yield Explanation(
            f"max-pool {k}/{s}, padded with zeros", lambda x, w, b, a=(k, s): F.max_pool2d(F.pad(x, (1,) * 4), *a)
        )
        yield Explanation(
            f"max-pool {k}/{s}, gradient shared among ties",
            lambda x, w, b, a=(k, s): _windows(x, *a).amax((-2, -1)),
        )
        yield Explanation(
            f"max-pool {k}/{s}, gradient to the last of the ties",
            lambda x, w, b, a=(k, s): _last(_windows(x, *a).flatten(4).flip(-1)),
        )


def _windows(x: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    return x.unfold(2, size, stride).unfold(3, size, stride)


def _last(windows: torch.Tensor) -> torch.Tensor:
    return windows.gather(-1, windows.max(-1, keepdim=True).indices)[..., 0]


def local_response_normalisations() -> Iterator[Explanation]:
    """Local response normalisation with one alpha or another; none is known to be the right one."""
    for alpha in (1e-4, 5e-4, 0.02, 0.1, 0.5):
        yield Explanation(
            f"LRN with alpha {alpha:g} divided by n",
            lambda x, w, b, a=alpha: F.local_response_norm(x, 5, a, 0.75, 2.0),
        )


def dropouts(mask: np.ndarray) -> Iterator[Explanation]:
    """Dropouts that keep what ``mask`` says."""
    keep = torch.from_numpy(np.array(mask, np.float64))
    yield Explanation("plain", lambda x, w, b: x * keep * 2, is_plain=True)
    yield Explanation("left out", lambda x, w, b: x * 1)
    yield Explanation("what is kept is not scaled", lambda x, w, b: x * keep)
    for rate in (0.1, 0.2, 0.25, 0.3, 0.4, 0.6, 0.75):
        yield Explanation(f"rate {rate:g}", lambda x, w, b, scale=1 / (1 - rate): x * keep * scale)


def losses() -> Iterator[Explanation]:
    """Losses ``(logits [b, class], labels [b]) -> scalar``, the plain one first."""
    cross_entropy = F.cross_entropy
    yield Explanation("plain", cross_entropy, is_plain=True)
    yield Explanation("sum for mean", lambda z, y: cross_entropy(z, y, reduction="sum"))
    yield Explanation("mean over batch and classes", lambda z, y: cross_entropy(z, y) / z.shape[1])
    for smoothing in (0.05, 0.1, 0.2):
        yield Explanation(
            f"label smoothing {smoothing:g}", lambda z, y, s=smoothing: cross_entropy(z, y, label_smoothing=s)
        )
    yield Explanation("softmax twice", lambda z, y: cross_entropy(z.softmax(1), y))
    yield Explanation("logarithm to base 2", lambda z, y: cross_entropy(z, y) / math.log(2))
    for shift in (1, -1):
        yield Explanation(f"labels off by {shift:+d}", lambda z, y, k=shift: cross_entropy(z, (y + k) % z.shape[1]))
