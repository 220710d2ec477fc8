"""Normalisations."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from netparity.diagnosis.variants.variant import EPSILONS, Variant, Variants, divisors, gone, number
from netparity.watching import Call


def _affine(y: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, axes: Sequence[int]) -> Any:
    """Scale and shift along axes of a normalised array."""
    shape = [1] * y.ndim
    for axis in axes:
        shape[axis] = y.shape[axis]
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def _standardised(
    x: torch.Tensor,
    axes: Sequence[int],
    eps: float,
    *,
    mean: bool = True,
    unbiased: bool = False,
    outside: bool = False,
) -> torch.Tensor:
    axes = list(axes)
    centred = x - x.mean(axes, keepdim=True) if mean else x
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    variance = (centred * centred).sum(axes, keepdim=True) / (count - unbiased)
    return centred / (variance.sqrt() + eps if outside else (variance + eps).sqrt())


def _epsilons(call: Call, default: float = 1e-5) -> Variants:
    own = call["eps"] if call["eps"] is not None else default
    for eps in EPSILONS:
        if eps != own:
            yield Variant("epsilon", functools.partial(_with, eps=eps), "norm-epsilon", number(eps), number(own))


def _with(call: Call, **changed: Any) -> Any:
    """The call with some keyword arguments changed."""
    given = call.bound | changed
    return call.func(given.pop("input"), **given)


def _parameters(call: Call) -> Variants:
    if call["weight"] is not None:
        yield Variant("scale left out", functools.partial(_with, weight=None), "norm-kind")
        yield Variant("1 added to the scale", lambda c: _with(c, weight=c["weight"] + 1), "norm-kind")
    if call["bias"] is not None:
        yield Variant("bias left out", functools.partial(_with, bias=None), "bias")


def layer_norm(call: Call) -> Variants:
    """Other ways to normalise over the last axes."""
    x, eps = call.x, call["eps"] if call["eps"] is not None else 1e-5
    own = list(range(x.ndim - len(call["normalized_shape"]), x.ndim))
    yield from _epsilons(call)
    yield from _parameters(call)
    several: list[list[int]] = [list(range(1, x.ndim)), [0], *([axis] for axis in range(1, x.ndim))]
    if x.ndim > 2:
        several += [list(range(1, x.ndim - 1)), list(range(x.ndim - 1))]
    for axes in several:
        if axes != own:
            yield Variant(
                "normalised over",
                lambda c, a=axes: _affine(_standardised(c.x, a, eps), c["weight"], c["bias"], own),
                "norm-axes", f"axes {_listed(axes)}", _listed(own),
            )  # fmt: skip

    def other(text: str, key: str, **how: Any) -> Variant:
        return Variant(text, lambda c: _affine(_standardised(c.x, own, eps, **how), c["weight"], c["bias"], own), key)

    yield other("mean not subtracted (RMS norm for layer norm)", "norm-kind", mean=False)
    yield other("unbiased variance (n - 1)", "norm-kind", unbiased=True)
    yield other("epsilon added to the standard deviation, outside the root", "norm-epsilon", outside=True)
    yield gone(f"a {call.name.replace('_', ' ')}", "norm-kind")


def _listed(axes: Sequence[int]) -> str:
    return " and ".join(map(str, axes)) if len(axes) < 3 else ", ".join(map(str, axes))


def rms_norm(call: Call) -> Variants:
    """Other ways to divide by the root mean square."""
    x = call.x
    own = list(range(x.ndim - len(call["normalized_shape"]), x.ndim))
    eps = call["eps"] if call["eps"] is not None else torch.finfo(x.dtype).eps
    for value in EPSILONS:
        if value != eps:
            yield Variant(
                "epsilon", lambda c, e=value: F.rms_norm(c.x, c["normalized_shape"], c["weight"], e), "norm-epsilon",
                number(value), number(eps),
            )  # fmt: skip
    if call["weight"] is not None:
        yield Variant("scale left out", lambda c: F.rms_norm(c.x, c["normalized_shape"], None, c["eps"]), "norm-kind")
        yield Variant(
            "1 added to the scale",
            lambda c: F.rms_norm(c.x, c["normalized_shape"], c["weight"] + 1, c["eps"]),
            "norm-kind",
        )
    yield Variant(
        "mean subtracted (layer norm for RMS norm)",
        lambda c: _affine(_standardised(c.x, own, eps), c["weight"], None, own),
        "norm-kind",
    )
    yield gone(f"a {call.name.replace('_', ' ')}", "norm-kind")


def group_norm(call: Call) -> Variants:
    """Other ways to normalise over groups of channels."""
    x, groups, channels = call.x, call["num_groups"], call.x.shape[1]
    yield from _epsilons(call)
    yield from _parameters(call)
    for other in (1, *divisors(channels), channels):
        if other != groups:
            yield Variant(
                "", lambda c, g=other: F.group_norm(c.x, g, c["weight"], c["bias"], c["eps"]), "group-norm-groups",
                f"{other} groups", str(groups),
            )  # fmt: skip
    eps = call["eps"]

    def grouped(c: Call, taken: bool, axes: Sequence[int]) -> torch.Tensor:
        shape = (channels // groups, groups) if taken else (groups, channels // groups)
        parts = c.x.unflatten(1, shape)
        return _affine(_standardised(parts, axes, eps).flatten(1, 2), c["weight"], c["bias"], [1])

    whole = list(range(3, x.ndim + 1))
    yield Variant(
        "groups of every so many channels, not of those beside one another",
        lambda c: grouped(c, True, [1, *whole]), "group-norm-groups",
    )  # fmt: skip
    yield Variant(
        "normalised over the channels of a group at each place alone", lambda c: grouped(c, False, [2]), "norm-axes"
    )


def batch_norm(call: Call) -> Variants:
    """Other ways to normalise over a batch."""
    training = bool(call["training"])
    yield from _epsilons(call)
    yield from _parameters(call)
    axes = [0, *range(2, call.x.ndim)]
    eps = call["eps"] if call["eps"] is not None else 1e-5

    def with_batch(c: Call, axes: Sequence[int] = axes, **how: Any) -> torch.Tensor:
        return _affine(_standardised(c.x, axes, eps, **how), c["weight"], c["bias"], [1])

    if not training:
        yield Variant("", with_batch, "bn-statistics", "the batch's statistics", "the running ones")
    elif call["running_mean"] is not None:
        yield Variant(
            "",
            lambda c: F.batch_norm(c.x, c["running_mean"], c["running_var"], c["weight"], c["bias"], False, 0.0, eps),
            "bn-statistics",
            "the running statistics",
            "the batch's",
        )
    if training:
        yield Variant("unbiased variance (n - 1)", functools.partial(with_batch, unbiased=True), "norm-kind")
        for other in ([0], list(range(1, call.x.ndim)), list(range(2, call.x.ndim))):
            if other and other != axes:
                yield Variant(
                    "normalised over", functools.partial(with_batch, axes=other), "norm-axes",
                    f"axes {_listed(other)}", _listed(axes),
                )  # fmt: skip
    yield gone(f"a {call.name.replace('_', ' ')}", "norm-kind")
    if call["running_var"] is not None and not training:
        yield Variant(
            "the running variance taken for the standard deviation",
            lambda c: _affine(
                (c.x - _channels(c, "running_mean")) / (_channels(c, "running_var") + eps), c["weight"], c["bias"], [1]
            ),
            "norm-kind",
        )


def _channels(call: Call, name: str) -> torch.Tensor:
    return call[name].reshape(-1, *[1] * (call.x.ndim - 2))


def local_response_norm(call: Call) -> Variants:
    """Other ways to normalise over neighbouring channels."""
    size, alpha, beta, k = call["size"], call["alpha"] or 1e-4, call["beta"] or 0.75, call["k"] or 1.0

    def lrn(c: Call, **changed: Any) -> torch.Tensor:
        given = {"size": size, "alpha": alpha, "beta": beta, "k": k} | changed
        return F.local_response_norm(c.x, **given)

    yield Variant("alpha not divided by n", lambda c: lrn(c, alpha=alpha * size), "lrn")
    yield Variant("alpha divided by n once more", lambda c: lrn(c, alpha=alpha / size), "lrn")
    for name, values in (("k", (1.0, 2.0)), ("size", (3, 5, 7, 9)), ("beta", (0.5, 0.75, 1.0))):
        own = {"size": size, "beta": beta, "k": k}[name]
        for value in values:
            if value != own:
                yield Variant(name, lambda c, n=name, v=value: lrn(c, **{n: v}), "lrn", number(value), number(own))
    yield gone("local response normalisation", "lrn")
