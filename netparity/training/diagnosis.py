"""When training differs and the networks agree: which known mistake in the optimizer gives exactly what was found.

PyTorch's optimizer says what it is told. Its steps are taken again from the numbers and the gradients of the JAX side,
with one thing changed at a time. A change explains the difference only if it gives every number that was recorded, in
every step, and the unchanged optimizer does not. No network is run.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from netparity import bounds
from netparity.training import learning_rates, replay
from netparity.training import mistakes as optimizer_mistakes
from netparity.training.mistakes import Mistake, Value, number
from netparity.training.recording import Recording
from netparity.training.replay import Judged, Told
from netparity.training.update_rules import Rule, deltas

_SURE = 0.1  # an explanation leaves less than this share of what is wrong without it
_FEW = 160  # numbers on which mistakes are tried first
_FIRST = 2  # and steps
_ENOUGH = 4  # numbers to solve for an option's value from
_ROUNDS = 20  # of solving for it
_LINES = 3  # explanations that are told, where all fit
_NAMES = 3  # parameters that are named


def explain(recording: Recording) -> str | None:
    """The known mistake in the optimizer that explains why training differs.

    Args:
      recording: of both sides' training in float64.

    Returns:
      ``"JAX has epsilon 1e-07 where PyTorch has 1e-08 (Adam)"``; several, joined by ``", or "``, where the numbers do
      not tell which; of a single step, in which optimizers resemble each other, it is said that it is one. None where
      no known mistake gives every step, or where the optimizers agree.
    """
    with np.errstate(all="ignore"):  # what is not finite is explained by nothing
        told = replay.told(recording)
        line = None if told is None else _explain(recording, told)
    return f"{line} (as far as one step tells)" if line and len(recording.used) == 1 else line


def _explain(recording: Recording, told: Told) -> str | None:
    ours, theirs = replay.judged(recording, "jax"), replay.judged(recording, "torch")
    plain, torch_line = ours.off(deltas(told.of(ours), ours.fed)), _torch(theirs, told)
    if plain.max(initial=0.0) <= 1:
        name = optimizer_mistakes.title(told.rule)
        if torch_line is None:
            first = _first_apart(recording)
            if first is None or first[2]:
                return None
            return f"JAX takes the steps that PyTorch's options ask of {name}, and PyTorch does not"
        if told.altered:
            return f"PyTorch alters its gradients before {name} gets them, and JAX does not"
        return "; ".join(line for line in (torch_line, _merged(recording)) if line) or None
    if torch_line is None or told.altered:
        return None  # how JAX differs from what is not known cannot be told
    trial = _trial(ours, told)
    jax_line = _alone(trial, told, recording) or _partly(ours, told, recording, plain) or _more(trial, told)
    return "; ".join(line for line in (jax_line, torch_line, _merged(recording)) if line) if jax_line else None


def _torch(theirs: Judged, told: Told) -> str | None:
    """What PyTorch does otherwise than its options say: empty if nothing, None if it is no known mistake."""
    unclipped = dataclasses.replace(told, rule=dataclasses.replace(told.rule, clip=None))  # it got clipped gradients
    if theirs.misfit(unclipped.of(theirs)) <= 1:
        return ""
    return _single(_trial(theirs, unclipped), unclipped, "PyTorch")


@dataclasses.dataclass(frozen=True)
class _Trial:
    """A side and the rule that does not give its steps, to try others on: first on a few numbers, then on all.

    Attributes:
      judged, few: all of its numbers, and a few.
      chosen: int, which the few are.
      rule: PyTorch's.
      plain: the rule's misfit.
    """

    judged: Judged
    few: Judged
    chosen: np.ndarray
    rule: Rule
    plain: float

    def fits(self, rule: Rule) -> bool:
        few = rule.some(self.chosen)
        if self.few.first(_FIRST).misfit(few) > 1 or self.few.misfit(few) > 1:
            return False
        return self.judged.misfit(rule) <= min(1.0, _SURE * self.plain)

    def known(self) -> Iterator[Mistake]:
        return optimizer_mistakes.known(self.rule, self.judged.kernels)


def _trial(judged: Judged, told: Told) -> _Trial:
    rule = told.of(judged)
    off = judged.off(deltas(rule, judged.fed))
    order = np.argsort(off, kind="stable")  # the few are some of those that the rule gives best, to the worst
    chosen = np.unique(order[np.linspace(0, len(order) - 1, min(_FEW, len(order))).astype(int)])
    return _Trial(judged, judged.some(chosen), chosen, rule, float(off.max(initial=0.0)))


def _single(trial: _Trial, told: Told, side: str) -> str | None:
    """The one mistake that gives a side's steps, or the few that do."""
    lines: dict[str, str] = {}  # the commonest of each kind
    for one in trial.known():
        line = one.jax if side == "JAX" else one.torch
        if line and one.axis not in lines and trial.fits(one.change(trial.rule)):
            lines[one.axis] = line
    if "sign" not in lines:  # which is a learning rate as well
        lines["rate"] = _rate(trial, told, trial.rule, side, named=True) or ""
    return ", or ".join([line for line in lines.values() if line][:_LINES]) or None


def _rate(trial: _Trial, told: Told, rule: Rule, side: str, named: bool) -> str | None:
    """What is wrong with the learning rates, if the rule gives the steps with others.

    ``named`` leaves out what is no known mistake.
    """
    asked = rule.options["lr"]
    own = asked[:, :1]  # of the first number
    share = np.divide(asked, own, out=np.ones_like(asked), where=own != 0)
    if not np.isclose(share, share[0], rtol=replay.SAME).all():  # groups with schedules of their own
        return None
    rated = rule.told(lr=share)
    if _rates(trial.few, rated.some(trial.chosen), own[:-1, 0], 1.0) is None:
        return None
    taken = _rates(trial.judged, rated, own[:-1, 0], min(1.0, _SURE * trial.plain))
    if taken is None:
        return None
    said = learning_rates.difference(taken, own[:, 0], side, told.batch, alike=bool((share == 1).all()))
    return said[0] if said is not None and (said[1] or not named) else None


def _rates(judged: Judged, rule: Rule, asked: np.ndarray, limit: float) -> np.ndarray | None:
    """With which learning rates ``[steps]`` a rule for a rate of 1 gives the steps; as asked where nothing tells.

    None where none do, to ``limit``, or where steps are no multiples of them.
    """
    if rule.velocity == "scaled" or rule.decay in ("unscaled", "unscheduled") or not judged.fed.grads.any():
        return None
    made = deltas(rule, judged.fed)
    if not np.isfinite(made).all():
        return None
    weighed, seen = made / judged.limit, judged.seen / judged.limit
    size = (weighed**2).sum(1)
    taken = np.divide((weighed * seen).sum(1), size, out=asked.copy(), where=size > 0)
    return taken if judged.off(taken[:, None] * made).max(initial=0.0) <= limit else None


def _alone(trial: _Trial, told: Told, recording: Recording) -> str | None:
    """What one thing explains JAX's steps: a known mistake, or an option's value."""
    return (
        _single(trial, told, "JAX")
        or _solved(trial, rounded=True)
        or _clipped_step(trial, recording)
        or _without_steps(trial)
    )


def _more(trial: _Trial, told: Told) -> str | None:
    """What else explains JAX's steps: two mistakes at once, an option's odd value, learning rates by step.

    One step is too little to tell these by.
    """
    if len(trial.judged.seen) < 2:
        return None
    return (
        next(_pairs(trial, told), None)
        or _solved(trial, rounded=False)
        or _rate(trial, told, trial.rule, "JAX", named=False)
    )


def _solved(trial: _Trial, rounded: bool) -> str | None:
    """Which option explains the steps with another value, of few digits if it is ``rounded``."""
    if np.count_nonzero(trial.few.seen) < _ENOUGH:
        return None
    for value in optimizer_mistakes.values(trial.rule):
        x = _solve(trial, value)
        if x is None:
            continue
        one = float(number(x)) if rounded else x
        if trial.fits(value.change(trial.rule, one)):
            return value.said(number(one) if rounded else repr(one))
    return None


def _solve(trial: _Trial, value: Value) -> float | None:
    """An option's value by Gauss and Newton's method, from the usual value that comes closest."""

    def residual(x: float) -> np.ndarray:
        rule = value.change(trial.rule, x).some(trial.chosen)
        return np.asarray(((deltas(rule, trial.few.fed) - trial.few.seen) / trial.few.limit).ravel())

    x = min(value.starts, key=lambda start: float(np.nan_to_num(residual(start) ** 2, nan=np.inf).sum()))
    for _ in range(_ROUNDS):
        now, by = residual(x), max(abs(x) * 1e-7, 1e-12)
        slope = (residual(x + by) - now) / by
        step = float(slope @ now / (slope @ slope))
        if not np.isfinite(step):
            return None
        x -= step
        if abs(step) <= 1e-12 * abs(x):
            break
    return x


def _pairs(trial: _Trial, told: Told) -> Iterator[str]:
    """Two mistakes at once, of different kinds."""
    known = list(trial.known())
    for one in known:
        line = _rate(trial, told, one.change(trial.rule), "JAX", named=True)
        if line:
            yield f"{one.jax}; {line}"
    for one, other in itertools.combinations(known, 2):
        if one.axis != other.axis and trial.fits(other.change(one.change(trial.rule))):
            yield f"{one.jax}; {other.jax}"


def _clipped_step(trial: _Trial, recording: Recording) -> str | None:
    """Whether JAX clips its steps where PyTorch clips gradients."""
    clip = trial.rule.clip
    if clip is None or clip.how != "norm":
        return None
    made = deltas(dataclasses.replace(trial.rule, clip=None), trial.judged.fed)
    weighed, seen = made / trial.judged.limit, trial.judged.seen / trial.judged.limit
    factor = np.divide((weighed * seen).sum(1), (weighed**2).sum(1), out=np.ones(len(made)), where=made.any(1))
    if trial.judged.off(factor[:, None] * made).max(initial=0.0) > 1:
        return None
    clipped = factor < 1 - replay.SAME
    if not np.isclose(factor[~clipped], 1.0, rtol=replay.SAME).all():
        return None
    for when, scale in (("", np.ones(1)), (" before the learning rate", trial.rule.options["lr"][:-1, 0])):
        reached = np.abs(recording.moved - clip.limit * scale) <= 2 * optimizer_mistakes.CLIP_EPSILON * scale
        if clipped.any() and (clipped <= reached).all():
            return f"JAX clips its steps{when} where PyTorch clips gradients (to norm {number(clip.limit)})"
    return None


def _without_steps(trial: _Trial) -> str | None:
    """Whether JAX does not move at all."""
    return None if trial.judged.seen.any() else "JAX takes no steps"


def _partly(judged: Judged, told: Told, recording: Recording, plain: np.ndarray) -> str | None:
    """What explains the steps of the parameters that PyTorch's rule does not give, where it gives some."""
    wrong = np.unique(judged.fed.owner[plain > 1])
    where = np.flatnonzero(np.isin(judged.fed.owner, wrong))
    if len(where) == len(judged.which):
        return None
    names = _listed([recording.names[i] for i in wrong])
    if (recording.group[judged.which[where]] < 0).all():
        return f"JAX trains {names}, which PyTorch's optimizer does not have"
    if not told.rule.trained[judged.which[where]].any():
        return f"JAX decays {names}, of which PyTorch has no gradient, so that its optimizer skips it"
    if not judged.seen[:, where].any() and judged.fed.grads[:, where].any():
        return f"JAX does not train {names}"
    trial = _trial(judged.some(where), told)
    line = _alone(trial, told, recording) or _more(trial, told)
    return f"{line}, in {names} alone" if line else None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMES]) + (f" and {len(names) - _NAMES} more" if len(names) > _NAMES else "")


def _merged(recording: Recording) -> str | None:
    """Arrays of JAX's that are several in PyTorch, each of which its optimizer steps."""
    some = recording.merged
    ours, theirs = recording.jax.params[1, some], recording.torch.params[1, some]
    wrong = _apart(ours, theirs, recording.owner[some], bounds.TRAJECTORY_LIMIT)
    if not wrong:
        return None
    names = _listed([recording.names[i] for i in wrong])
    return f"{names}: one array in JAX, the sum of several in PyTorch, each of which PyTorch's optimizer moves"


def pattern(recording: Recording) -> str | None:
    """How the sides' first different step differs, where no known mistake explains it.

    Args:
      recording: of both sides' training in float64.

    Returns:
      ``"step 1: JAX's is 0.5 times PyTorch's"``; None where no step differs.
    """
    with np.errstate(all="ignore"):
        first = _first_apart(recording)
        if first is None:
            return None
        step, wrong, grads = first
        if grads:
            names = _listed([recording.names[i] for i in grads])
            return f"in step {step + 1} the gradients differ, before the optimizers make anything of them: {names}"
        return f"step {step + 1}: {_ratio(recording, step, wrong)}"


def _first_apart(recording: Recording) -> tuple[int, list[int], list[int]] | None:
    """The first step after which parameters differ, which they are, and whose gradients in it differ already."""
    ours, theirs, owner = recording.jax, recording.torch, recording.owner
    for step, (a, b) in enumerate(zip(ours.params[1:], theirs.params[1:], strict=True)):
        wrong = _apart(a, b, owner, bounds.TRAJECTORY_LIMIT)
        if wrong:
            one = ~recording.merged  # PyTorch's gradients of the others are sums
            limit = 10 * bounds.TRAJECTORY_LIMIT
            return step, wrong, _apart(ours.grads[step, one], theirs.grads[step, one], owner[one], limit)
    return None


def _apart(a: np.ndarray, b: np.ndarray, owner: np.ndarray, limit: float) -> list[int]:
    """The parameters of which two arrays of numbers differ by more than the limit, of the second one's scale."""
    found = []
    for one in np.unique(owner):
        mine, other = a[owner == one], b[owner == one]
        if not np.abs(mine - other).max() <= limit * np.abs(other).max():
            found.append(int(one))
    return found


def _ratio(recording: Recording, step: int, wrong: Sequence[int]) -> str:
    """JAX's step over PyTorch's, of the parameters that differ."""
    factors = {}
    for one in wrong:
        mine = recording.owner == one
        ours, theirs = recording.jax.deltas[step, mine], recording.torch.deltas[step, mine]
        size = float((theirs**2).sum())
        factor = float((ours * theirs).sum()) / size if size else np.nan
        same = size and np.abs(ours - factor * theirs).max() <= 1e-6 * np.abs(ours).max(initial=0.0)
        factors[recording.names[one]] = factor if same else np.nan
    only = f" in {_listed(list(factors))} alone" if len(wrong) < len(recording.shapes) else ""
    found = np.array(list(factors.values()))
    if not np.isfinite(found).all():
        return f"JAX's differs from PyTorch's number by number{only}"
    if not found.any():
        return f"JAX takes none{only}"
    if np.abs(found - found[0]).max() <= 1e-6 * abs(found[0]):
        return f"JAX's is {number(float(found[0]))} times PyTorch's{only}"
    told = [f"{name} {number(factor)}" for name, factor in list(factors.items())[:_NAMES]]
    return f"JAX's is PyTorch's times another number for every parameter{only} ({', '.join(told)})"
