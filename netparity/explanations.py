"""Known ways to get a layer, a loss, an optimizer or a normalisation wrong, each as the numbers it would give.

All of it is written anew in float64, so that either side's numbers can be held against each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

Operation = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # (x, weight, bias) -> y


def convolutions(kernel: int, stride: int, padding: int) -> Iterator[tuple[str, Operation]]:
    """Convolutions ``[b, c, h, w]``, the plain one first."""

    def conv(change: Any = None, *, bias: float = 1.0, s: int = stride, p: Any = padding, d: int = 1) -> Operation:
        return lambda x, w, b: F.conv2d(x, w if change is None else change(w), bias * b, s, p, d)

    def padded(*pad: int, mode: str = "constant") -> Operation:
        return lambda x, w, b: F.conv2d(F.pad(x, pad, mode=mode), w, b, stride)

    yield "plain", conv()
    yield "kernel with height and width swapped", conv(lambda w: w.transpose(2, 3))
    yield "kernel flipped (convolution for cross-correlation)", conv(lambda w: w.flip(2, 3))
    yield "kernel with input and output channels swapped", conv(lambda w: w.transpose(0, 1))
    yield "bias left out", conv(bias=0.0)
    yield "bias added twice", conv(bias=2.0)
    for p in range(4):
        if p != padding:
            yield f"padding {p} for {padding}", conv(p=p)
    for s in range(1, 5):
        if s != stride:
            yield f"stride {s} for {stride}", conv(s=s)
    yield "dilation 2, padded to the same size", conv(p=kernel - 1, d=2)
    yield "padding all on the right and bottom", padded(0, 2 * padding, 0, 2 * padding)
    yield "padding all on the left and top", padded(2 * padding, 0, 2 * padding, 0)
    short = kernel - stride if kernel > stride else 0
    low, high = short // 2, short - short // 2
    yield '"SAME" padding', padded(low, high, low, high)
    yield "the edge repeated for zero padding", padded(*[padding] * 4, mode="replicate")
    yield "two groups", conv(_two_groups)
    yield "its first two filters swapped", lambda x, w, b: conv()(x, _swapped(w), _swapped(b))
    yield "no gradient to its input", lambda x, w, b: conv()(x.detach(), w, b)
    yield "no gradient to its kernel", lambda x, w, b: conv()(x, w.detach(), b)


def _swapped(a: torch.Tensor) -> torch.Tensor:
    return torch.cat([a[1:2], a[:1], a[2:]])


def _two_groups(w: torch.Tensor) -> torch.Tensor:
    mask = torch.ones_like(w)
    half = w.shape[0] // 2, w.shape[1] // 2
    mask[: half[0], half[1] :] = mask[half[0] :, : half[1]] = 0
    return w * mask


def dense() -> Iterator[tuple[str, Operation]]:
    """Dense layers over ``[b, in]`` or a feature map ``[b, c, h, w]``, the plain one first."""
    yield "plain", lambda x, w, b: F.linear(x.flatten(1), w, b)
    yield "kernel transposed", lambda x, w, b: F.linear(x.flatten(1), w.T, b)
    yield "bias left out", lambda x, w, b: F.linear(x.flatten(1), w)
    yield "bias added twice", lambda x, w, b: F.linear(x.flatten(1), w, 2 * b)
    yield "flatten order: height, width, channel", lambda x, w, b: F.linear(_ordered(x, 0, 2, 3, 1), w, b)
    yield "flatten order: channel, width, height", lambda x, w, b: F.linear(_ordered(x, 0, 1, 3, 2), w, b)
    yield "flatten order: kernel's rows not permuted", lambda x, w, b: F.linear(x.flatten(1), _unpermuted(x, w), b)
    yield "a ReLU after it", lambda x, w, b: F.linear(x.flatten(1), w, b).relu()
    yield "a softmax after it", lambda x, w, b: F.linear(x.flatten(1), w, b).softmax(1)
    yield "no gradient to its input", lambda x, w, b: F.linear(x.detach().flatten(1), w, b)
    yield "no gradient to its kernel", lambda x, w, b: F.linear(x.flatten(1), w.detach(), b)


def _ordered(x: torch.Tensor, *order: int) -> torch.Tensor:
    if x.ndim != 4:
        raise ValueError("not a feature map")
    return x.permute(*order).flatten(1)


def _unpermuted(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """The weight as JAX holds it, row by row, where PyTorch reads it channel by channel."""
    if x.ndim != 4:
        raise ValueError("not a feature map")
    _, c, h, wide = x.shape
    return w.reshape(-1, c, h, wide).permute(0, 2, 3, 1).flatten(1)


def parameterless() -> Iterator[tuple[str, Operation]]:
    """ReLUs, pools and dropouts and what is mistaken for them; which is the plain one depends on the stage."""
    yield "ReLU", lambda x, w, b: x.relu()
    yield "left out", lambda x, w, b: x * 1
    yield "ReLU with gradient 1/2 at 0 (maximum(x, 0))", lambda x, w, b: torch.maximum(x, torch.zeros_like(x))
    yield "ReLU with gradient 1 at 0", lambda x, w, b: torch.where(x >= 0, x, torch.zeros_like(x))
    yield "ReLU that leaks 0.01", lambda x, w, b: F.leaky_relu(x, 0.01)
    yield "ReLU and local response normalisation", lambda x, w, b: F.local_response_norm(x.relu(), 5, 5e-4, 0.75, 2.0)
    for k, s in ((2, 2), (3, 2), (3, 3), (4, 2)):
        for p in (0, 1):
            yield f"max-pool {k}/{s}, padding {p}", lambda x, w, b, a=(k, s, p): F.max_pool2d(x, *a)
            yield (
                f"max-pool {k}/{s}, padding {p}, sizes rounded up",
                lambda x, w, b, a=(k, s, p): F.max_pool2d(x, *a, ceil_mode=True),
            )
            yield f"average-pool {k}/{s}, padding {p}", lambda x, w, b, a=(k, s, p): F.avg_pool2d(x, *a)
        yield f"max-pool {k}/{s}, padded with zeros", lambda x, w, b, a=(k, s): F.max_pool2d(F.pad(x, (1,) * 4), *a)
        windows = lambda x, a=(k, s): x.unfold(2, *a).unfold(3, *a)  # noqa: E731
        yield (
            f"max-pool {k}/{s}, gradient shared among ties",
            lambda x, w, b, windows=windows: windows(x).amax((-2, -1)),
        )
        yield (
            f"max-pool {k}/{s}, gradient to the last of the ties",
            lambda x, w, b, windows=windows: _last(windows(x).flatten(4).flip(-1)),
        )
    for alpha in (1e-4, 5e-4, 0.02, 0.1, 0.5):
        yield (
            f"LRN with alpha {alpha:g} divided by n",
            lambda x, w, b, a=alpha: F.local_response_norm(x, 5, a, 0.75, 2.0),
        )


def _last(windows: torch.Tensor) -> torch.Tensor:
    return windows.gather(-1, windows.max(-1, keepdim=True).indices)[..., 0]


def dropouts(mask: np.ndarray) -> Iterator[tuple[str, Operation]]:
    """Dropouts that keep what ``mask`` says."""
    keep = torch.from_numpy(np.array(mask, np.float64))
    yield "plain", lambda x, w, b: x * keep * 2
    yield "left out", lambda x, w, b: x * 1
    yield "what is kept is not scaled", lambda x, w, b: x * keep
    for rate in (0.1, 0.2, 0.25, 0.3, 0.4, 0.6, 0.75):
        yield f"rate {rate:g}", lambda x, w, b, scale=1 / (1 - rate): x * keep * scale


def losses(logits: torch.Tensor, labels: torch.Tensor) -> Iterator[tuple[str, float]]:
    """Values of the loss under known mistakes, the plain one first."""
    plain = F.cross_entropy(logits, labels)
    yield "plain", float(plain)
    yield "sum for mean", float(plain * len(labels))
    yield "mean over batch and classes", float(plain / logits.shape[1])
    for smoothing in (0.05, 0.1, 0.2):
        yield f"label smoothing {smoothing:g}", float(F.cross_entropy(logits, labels, label_smoothing=smoothing))
    yield "softmax twice", float(F.cross_entropy(logits.softmax(1), labels))
    yield "logarithm to base 2", float(plain / math.log(2))
    for shift in (1, -1):
        yield f"labels off by {shift:+d}", float(F.cross_entropy(logits, (labels + shift) % logits.shape[1]))


def normalisations(pixels: np.ndarray, mean: np.ndarray, std: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Normalised pixels ``[b, h, w, c]`` under known mistakes, the plain one first."""
    x, m, s = pixels.astype(np.float64), mean.astype(np.float64), std.astype(np.float64)
    yield "plain", (x / 255 - m) / s
    yield "pixels not divided by 255", (x - m) / s
    yield "pixels divided by 256", (x / 256 - m) / s
    yield "standard deviation left out", x / 255 - m
    yield "multiplied by the standard deviation", (x / 255 - m) * s
    yield "mean left out", x / 255 / s
    yield "channels reversed", (x[..., ::-1] / 255 - m) / s
    yield "height and width swapped", (x.transpose(0, 2, 1, 3) / 255 - m) / s
    imagenet = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    yield "ImageNet's mean and standard deviation", (x / 255 - imagenet[0]) / imagenet[1]


def optimizers() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Steps ``(p, v, g, lr, momentum, weight_decay, nesterov) -> (p, v)`` under known mistakes, the plain one first."""

    def step(
        p: Any,
        v: Any,
        g: Any,
        lr: float,
        m: float,
        wd: float,
        nesterov: bool,
        *,
        scale: float = 1.0,
        first: bool = False,
    ) -> Any:
        g = g + wd * p
        v = m * v + (1.0 if first else scale) * g
        return p - lr * (g + m * v if nesterov else v), v

    def after(p: Any, v: Any, g: Any, lr: float, m: float, wd: float, nesterov: bool) -> Any:
        moved, v = step(p, v, g, lr, m, 0.0, nesterov)
        return moved - lr * wd * p, v

    def outside(p: Any, v: Any, g: Any, lr: float, m: float, wd: float, nesterov: bool) -> Any:
        moved, v = step(p, v, g, lr, m, 0.0, nesterov)
        return moved - wd * p, v

    def inside(p: Any, v: Any, g: Any, lr: float, m: float, wd: float, nesterov: bool) -> Any:
        g = -lr * (g + wd * p)
        v = m * v + g
        return p + (g + m * v if nesterov else v), v

    yield "plain", step
    yield "weight decay after the momentum trace", after
    yield "weight decay after the learning rate", outside
    yield "weight decay left out", lambda p, v, g, lr, m, wd, n: step(p, v, g, lr, m, 0.0, n)
    yield "weight decay halved", lambda p, v, g, lr, m, wd, n: step(p, v, g, lr, m, wd / 2, n)
    yield "learning rate inside the velocity", inside
    yield "velocity as an average, (1 - m) g", lambda p, v, g, lr, m, wd, n: step(p, v, g, lr, m, wd, n, scale=1 - m)
    yield "Nesterov's form where it was not asked for", lambda p, v, g, lr, m, wd, n: step(p, v, g, lr, m, wd, True)
    yield "Nesterov's form left out", lambda p, v, g, lr, m, wd, n: step(p, v, g, lr, m, wd, False)
    yield "momentum left out", lambda p, v, g, lr, m, wd, n: step(p, v, g, lr, 0.0, wd, False)
    yield "momentum 0.99", lambda p, v, g, lr, m, wd, n: step(p, v, g, lr, 0.99, wd, n)
    yield "gradient's sign", lambda p, v, g, lr, m, wd, n: step(p, v, -g, lr, m, wd, n)
