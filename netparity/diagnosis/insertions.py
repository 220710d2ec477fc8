"""Known mistakes that no call of PyTorch's stands for: something more on the other side, before or after a stage."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from netparity import calls
from netparity.diagnosis import stage
from netparity.diagnosis.stage import UNFIT, Diagnosis, Stage
from netparity.diagnosis.variants import activations
from netparity.diagnosis.variants.variant import SIDES, number
from netparity.torch_side import Change

_Attempts = Iterator[tuple[str, str, Callable[..., stage.Alone]]]  # a text, a mistake's key, and what runs the stage


def added(one: Stage, side: str) -> Diagnosis | None:
    """What a side has more than PyTorch's stage as it is computed here.

    Args:
      one: the stage.
      side: ``"jax"`` or ``"torch"``: whose numbers are looked for.
    """
    wanted = one.found.get(side)
    if wanted is None:
        return None
    other = SIDES["torch" if side == "jax" else "jax"]
    for attempts in (_skips, _unused, _after, _before, _moved, _exchanged, _halves):
        for text, key, run in attempts(one):
            with contextlib.suppress(*UNFIT):
                if one.fits(run(), wanted):
                    return Diagnosis(text.format(me=SIDES[side], other=other), key)
    return None


def _with(alone: stage.Alone, change: Callable[..., torch.Tensor]) -> stage.Alone:
    return stage.Alone(change(alone.output), alone.leaves, alone.weights)


def _skips(one: Stage) -> _Attempts:
    """What a side is computed from and the other is not, added to a call's argument or to the output."""
    made, alone = one.watched(), one.run()
    reached = calls.leaves(alone.output)
    for parent in one.pair.graph(one.mode).parents[one.name]:
        if parent not in alone.leaves or id(alone.leaves[parent]) in reached:  # integers are no leaves
            continue
        said = f"{{other}}: the skip connection from {parent} left out"
        yield said, "skip", lambda p=parent: _with_leaf(one.run(), p)
        for call in made:
            if call.args and isinstance(call.args[0], torch.Tensor):
                yield said, "skip", lambda c=call, p=parent: one.run(_adding(c, p))
                for text, factor in _sizes(one.given.get(parent)).items():
                    more = f"{said} (times {text})"
                    yield more, "skip", lambda c=call, p=parent, f=factor: one.run(_adding(c, p, f))
            if call.name == "add":
                other = f"{{me}}: the skip connection from {parent}, where {{other}} adds something else"
                for place in (0, 1):
                    yield other, "skip", lambda c=call, p=parent, i=place: one.run(_exchanging(c, p, i))


def _adding(call: stage.Call, parent: str, factor: float = 1.0) -> stage.Watch:
    """In which a call's first argument has a parent's value added."""

    def run(c: stage.Call) -> Any:
        leaf = watch.leaves[parent]
        if leaf.shape != c.x.shape:
            raise ValueError("another shape")
        return c.func(c.x + factor * leaf, *c.args[1:], **c.kwargs)

    watch = stage.altered(call, run)
    return watch


def _exchanging(call: stage.Call, parent: str, place: int) -> stage.Watch:
    """In which one summand is a parent's value."""

    def run(c: stage.Call) -> Any:
        args = list(c.args)
        args[place] = watch.leaves[parent]
        return c.func(*args, **c.kwargs)

    watch = stage.altered(call, run)
    return watch


def _unused(one: Stage) -> _Attempts:
    """A parameter of the stage that PyTorch does not use, added to or multiplied with what a call gives."""
    made, alone = one.watched(), one.run()
    reached = calls.leaves(alone.output)
    for name, torch_names in _sources(one, alone).items():
        for torch_name in (n for n in torch_names if id(alone.weights[n]) not in reached):
            for call in reversed(made):
                for product in (False, True):
                    yield (
                        f"{{other}}: {name} left out", "bias" if name.endswith("bias") else "position-embedding",
                        lambda c=call, n=torch_name, p=product: one.run(_using(c, n, p)),
                    )  # fmt: skip


def _sources(one: Stage, alone: stage.Alone) -> dict[str, list[str]]:
    """The PyTorch parameters that each of the stage's JAX parameters is made of."""
    side, names = one.pair.torch, list(alone.weights)
    numbered = {name: np.full(weight.shape, 1.0 + i) for i, (name, weight) in enumerate(alone.weights.items())}
    found = (side.pull_back or side.to_common)(numbered)
    places = {name: {round(float(n)) - 1 for n in np.unique(found[name])} for name in one.params}
    return {name: [names[i] for i in sorted(where) if 0 <= i < len(names)] for name, where in places.items()}


def _using(call: stage.Call, name: str, product: bool) -> stage.Watch:
    """In which what a call gives has a parameter added to it, or is multiplied by it."""

    def run(c: stage.Call) -> Any:
        out, weight = c.plain(), watch.weights[name]
        if not isinstance(out, torch.Tensor) or not out.is_floating_point():
            raise ValueError("no array")
        if out.ndim > 2 and weight.ndim == 1 and weight.shape[0] == out.shape[1] != out.shape[-1]:
            weight = weight.reshape(-1, *[1] * (out.ndim - 2))
        made = out * weight if product else out + weight
        if made.shape != out.shape:
            raise ValueError("another shape")
        return made

    watch = stage.altered(call, run)
    return watch


def _with_leaf(alone: stage.Alone, parent: str) -> stage.Alone:
    if alone.leaves[parent].shape != alone.output.shape:
        raise ValueError("another shape")
    return stage.Alone(alone.output + alone.leaves[parent], alone.leaves, alone.weights)


def _after(one: Stage) -> _Attempts:
    """A function of single values after the stage."""
    for name, function, key in activations.after("after it"):
        yield f"{{me}}: {name}", key, lambda f=function: _with(one.run(), f)
    for size, alpha, k in ((5, 1e-4, 2.0), (5, 5e-4, 2.0), (5, 1e-4, 1.0), (5, 5e-4, 1.0)):
        said = f"local response normalisation after it (n {size}, alpha {alpha:g} divided by n, beta 0.75, k {k:g})"
        yield (
            f"{{me}}: {said}", "lrn",
            lambda n=size, a=alpha, k=k: _with(one.run(), lambda y: F.local_response_norm(y, n, a, 0.75, k)),
        )  # fmt: skip
    shape = one.found["jax"]["output"].shape
    factors = {"1/2": 0.5, "2": 2.0, "-1": -1.0}
    for n in dict.fromkeys(shape[1:]):
        factors |= {f"sqrt({n})": math.sqrt(n), f"1/sqrt({n})": 1 / math.sqrt(n), f"{n}": float(n), f"1/{n}": 1 / n}
    for text, factor in factors.items():
        said = f"a factor of {text}" + (f" = {number(factor)}" if "(" in text else "")
        yield f"{{me}}: {said}", "attention-scale", lambda f=factor: _with(one.run(), lambda y: y * f)
    yield "{me}: no gradient through it", "gradient-cut", lambda: _with(one.run(), lambda y: y.detach() + 0 * y)


def _before(one: Stage) -> _Attempts:
    """A function of single values before the stage, in one of the things that it is computed from."""
    for parent in one.parents:
        where = f"before it, on {parent}"
        for name, function, key in activations.after(where):
            yield f"{{me}}: {name}", key, lambda p=parent, f=function: one.run(None, {p: f})
        for said, factor in _sizes(one.given.get(parent)).items():
            text = f"{{me}}: a factor of {said} = {number(factor)} before it, on {parent}"
            yield text, "embedding-scale", lambda p=parent, f=factor: one.run(None, {p: lambda x, f=f: x * f})
        for axis in range(1, one.given[parent].ndim) if parent in one.given else ():
            said = f"{{me}}: {parent} with axis {axis} of PyTorch's layout reversed"
            key = "channel-order" if axis == 1 else ""
            yield (
                said + (" (channels)" if axis == 1 else ""),
                key,
                lambda p=parent, a=axis: one.run(None, {p: _flip(a)}),
            )
        yield (
            f"{{me}}: no gradient to {parent}", "gradient-cut",
            lambda p=parent: one.run(None, {p: lambda x: x.detach() + 0 * x}),
        )  # fmt: skip


def _sizes(x: np.ndarray | None) -> dict[str, float]:
    """Factors that an array may have been multiplied by, such as the root of its width."""
    width = 1 if x is None else x.shape[-1]
    return {
        f"sqrt({width})": math.sqrt(width),
        f"1/sqrt({width})": 1 / math.sqrt(width),
        "2": 2.0,
        "1/2": 0.5,
        "-1": -1.0,
    }


def _exchanged(one: Stage) -> _Attempts:
    """Two of the things that it is computed from, each in the other's place."""
    shapes = {name: value.shape for name, value in one.given.items()}
    for a, b in itertools.combinations([name for name in one.parents if name in shapes], 2):
        if shapes[a] == shapes[b]:
            yield f"{{me}}: {a} and {b} exchanged", "gate-order", lambda a=a, b=b: one.run(None, {a: b, b: a})


def _flip(axis: int) -> Change:
    return lambda x: x.flip(axis)


def _moved(one: Stage) -> _Attempts:
    """A function of single values before another of the stage's calls, not after it."""
    made = one.watched()
    for act in (call for call in made if call.name in activations.FUNCTIONS):
        for other in (call for call in made if call.number < act.number and call.name not in activations.FUNCTIONS):
            for place, x in enumerate(other.args[:2]):
                if isinstance(x, torch.Tensor) and x.is_floating_point():
                    name = other.name.replace("_", " ")
                    where = f" (on its {('first', 'second')[place]} argument)" if other.name == "add" else ""
                    text = f"{{me}}: {activations.kind(act)} before the {name}{where}, not after it"
                    yield text, "activation-order", lambda a=act, o=other, i=place: one.run(_earlier(a, o, i))


def _earlier(act: stage.Call, other: stage.Call, place: int) -> stage.Watch:
    """In which an activation is applied to an argument of an earlier call."""

    def run(call: stage.Call) -> Any:
        args = list(call.args)
        args[place] = act.func(args[place].clone(), *act.args[1:], **act.kwargs)
        return call.func(*args, **call.kwargs)

    return stage.Watch({act.number: lambda call: call.x * 1, other.number: run})


def _halves(one: Stage) -> _Attempts:
    """Rotary positions on pairs that lie beside one another, or half a head apart."""
    for parents in _by_parent(one.parents):
        for said, change in _rotary(one, parents[0]):
            text = f"{{me}}: rotary positions {said} of {' and '.join(parents)}"
            yield text, "rope", lambda ps=parents, f=change: one.run(None, _all(ps, f))


def _by_parent(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Each of a stage's parents alone, and the first two together, as queries and keys come.

    >>> _by_parent(["q", "k", "v"])
    [('q', 'k'), ('q',), ('k',), ('v',)]
    """
    return [*([tuple(names[:2])] if len(names) > 2 else []), *((name,) for name in names)]


def _rotary(one: Stage, parent: str) -> Iterator[tuple[str, Change]]:
    given = one.given.get(parent)
    if given is None or given.ndim < 3:
        return
    width = given.shape[-1]
    for depth in range(2, width + 1, 2):
        if width % depth == 0:
            yield (
                f"of pairs beside one another, for pairs half a head apart (heads of {depth})",
                lambda x, d=depth: x.unflatten(-1, (-1, d // 2, 2)).transpose(-1, -2).flatten(-3),
            )
            yield (
                f"of pairs half a head apart, for pairs beside one another (heads of {depth})",
                lambda x, d=depth: x.unflatten(-1, (-1, 2, d // 2)).transpose(-1, -2).flatten(-3),
            )


def _all(parents: tuple[str, ...], change: Change) -> dict[str, Change]:
    return dict.fromkeys(parents, change)
