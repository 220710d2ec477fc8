"""Losses."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch.nn import functional as F

from netparity.diagnosis.variants.variant import Variant, Variants, number
from netparity.watching import Call


def cross_entropy(call: Call) -> Variants:
    """Other ways to take the cross-entropy of logits ``[b, class, …]``."""
    own = call["reduction"] or "mean"
    smoothing = float(call["label_smoothing"] or 0.0)
    classes = call.x.shape[1] if call.x.ndim > 1 else call.x.shape[0]
    rows = max(call.x.numel() // classes, 1)

    def loss(c: Call, x: torch.Tensor | None = None, y: torch.Tensor | None = None, **changed: Any) -> torch.Tensor:
        given = {k: v for k, v in c.bound.items() if k not in ("input", "target", "size_average", "reduce")} | changed
        return F.cross_entropy(c.x if x is None else x, c["target"] if y is None else y, **given)

    for reduction in ("mean", "sum"):
        if reduction != own:
            yield Variant("", functools.partial(loss, reduction=reduction), "loss-reduction",
                          f"the {reduction} of the loss over the batch", f"the {own}")  # fmt: skip
    yield Variant("the mean of the loss over batch and classes", lambda c: loss(c) / classes, "loss-reduction")
    if call.x.ndim > 2:
        yield Variant(
            "the sum over positions, the mean over the batch",
            lambda c: loss(c) * (rows / c.x.shape[0]),
            "loss-reduction",
        )
    for value in (0.0, 0.1, 0.05, 0.2, 0.01, 0.15, 0.3):
        if value != smoothing:
            yield Variant("label smoothing", functools.partial(loss, label_smoothing=value), "label-smoothing",
                          number(value), number(smoothing))  # fmt: skip
    yield Variant(
        "label smoothing that gives the label no share of what is spread",
        lambda c: _unshared(c, smoothing or 0.1, classes),
        "label-smoothing",
    )
    yield Variant("softmax twice", lambda c: loss(c, c.x.softmax(1)), "softmax-twice")
    yield Variant("logarithm to base 2", lambda c: loss(c) / math.log(2), "loss-reduction")
    target = call["target"]
    if not target.is_floating_point():
        for shift in (1, -1):
            yield Variant(
                f"labels off by {shift:+d}", lambda c, k=shift: loss(c, y=(c["target"] + k) % classes), "loss-reduction"
            )
        yield Variant(
            "a binary cross-entropy of every class",
            lambda c: (
                F.binary_cross_entropy_with_logits(
                    c.x, F.one_hot(c["target"], classes).movedim(-1, 1).to(c.x.dtype), reduction="sum"
                )
                / rows
            ),
            "loss-reduction",
        )
        ignored = call["ignore_index"] if call["ignore_index"] is not None else -100
        if bool((target == ignored).any()):
            yield Variant(
                "the mean over all labels, those that are ignored, too",
                lambda c: loss(c, reduction="sum") / rows,
                "loss-reduction",
            )
    if call["weight"] is not None:
        yield Variant("the classes' weights left out", functools.partial(loss, weight=None), "loss-reduction")
        yield Variant(
            "the weighted mean divided by the number of labels, not by the sum of their weights",
            lambda c: loss(c, reduction="sum") / rows,
            "loss-reduction",
        )


def _unshared(call: Call, smoothing: float, classes: int) -> torch.Tensor:
    one = F.one_hot(call["target"], classes).movedim(-1, 1).to(call.x.dtype)
    spread = one * (1 - smoothing) + (1 - one) * smoothing / (classes - 1)
    return F.cross_entropy(call.x, spread)


def regression(call: Call) -> Variants:
    """Other ways to take a loss of two arrays."""
    own = call["reduction"] or "mean"
    for reduction in ("mean", "sum", "batchmean"):
        if reduction != own:
            said = "the mean over the batch of sums" if reduction == "batchmean" else f"the {reduction} of the loss"
            yield Variant("", lambda c, r=reduction: _reduced(c, r), "loss-reduction", said, f"the {own}")
    yield Variant("half of the loss", lambda c: c.plain() / 2, "loss-reduction")
    yield Variant("twice the loss", lambda c: c.plain() * 2, "loss-reduction")
    for name, function in (("mean squared error", F.mse_loss), ("mean absolute error", F.l1_loss),
                           ("Huber loss", F.huber_loss)):  # fmt: skip
        if function.__name__ != call.name:
            yield Variant("", lambda c, f=function: f(c.x, c["target"], reduction=own), "loss-reduction", name,
                          call.name.replace("_", " "))  # fmt: skip


def _reduced(call: Call, reduction: str) -> torch.Tensor:
    each = call.func(call.x, call["target"], **{**call.kwargs, "reduction": "none"})
    total: torch.Tensor = each.sum()
    return each.mean() if reduction == "mean" else total if reduction == "sum" else total / call.x.shape[0]
