"""What a recorded side was fed and did, to be compared with the steps of other rules.

Of PyTorch's optimizer it is known what it is told, and of its step whether it clips.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from netparity.training.mistakes import CLIP_EPSILON, number
from netparity.training.recording import Recording, Side
from netparity.training.update_rules import Clip, Fed, Rule, deltas

SAME = 1e-10  # a step is the same to this share of a parameter's largest step
_ROUNDING = 8 * float(np.finfo(np.float64).eps)  # of the parameters themselves


@dataclasses.dataclass(frozen=True)
class Judged:
    """What one side was fed and did, to be compared with what a rule does.

    Attributes:
      fed: what it was fed.
      seen: ``[steps, numbers]``, its steps.
      limit: ``[numbers]``, how far a rule's step may be from them.
      which: ``[numbers]``, int: which of the recorded numbers they are.
      kernels: ``[numbers]``, bool: of parameters with more than one axis.
    """

    fed: Fed
    seen: np.ndarray
    limit: np.ndarray
    which: np.ndarray
    kernels: np.ndarray

    def misfit(self, rule: Rule) -> float:
        """How far a rule's steps are off at most, in units of the limit; infinite where not finite."""
        return float(self.off(deltas(rule, self.fed)).max(initial=0.0))

    def off(self, made: np.ndarray) -> np.ndarray:
        """The same of steps ``[steps, numbers]``, by number."""
        with np.errstate(invalid="ignore", over="ignore"):
            off = np.abs(made - self.seen).max(0) / self.limit
        return np.where(np.isfinite(off), off, np.inf)

    def first(self, steps: int) -> Judged:
        """Of the first steps alone."""
        fed = dataclasses.replace(
            self.fed, params=self.fed.params[:steps], grads=self.fed.grads[:steps], norms=self.fed.norms[:steps]
        )
        return dataclasses.replace(self, fed=fed, seen=self.seen[:steps])

    def some(self, where: np.ndarray) -> Judged:
        """Of some of the numbers alone, int ``[…]``."""
        fed = dataclasses.replace(
            self.fed, params=self.fed.params[:, where], grads=self.fed.grads[:, where], owner=self.fed.owner[where]
        )
        return Judged(fed, self.seen[:, where], self.limit[where], self.which[where], self.kernels[where])


@dataclasses.dataclass(frozen=True)
class Told:
    """What PyTorch's optimizer is told.

    Attributes:
      rule: of all recorded numbers.
      batch: images in a batch; 0 if not known.
      altered: whether PyTorch's step alters gradients otherwise than by clipping them.
    """

    rule: Rule
    batch: int
    altered: bool

    def of(self, judged: Judged) -> Rule:
        """The rule of some numbers."""
        return self.rule.some(judged.which)


def told(recording: Recording) -> Told | None:
    """What PyTorch's optimizer is told; None where its steps are not known."""
    if not recording.kind or len({len(groups) for groups in recording.options}) > 1:
        return None
    names = set.intersection(*(set(group) for group in recording.options[0]))
    options = {}
    for name in names:
        by_group = np.array([[group[name] for group in groups] for groups in recording.options])
        options[name] = by_group[:, recording.group] if by_group.shape[1] > 1 else by_group
    clip = _clip(recording)
    rule = Rule(
        recording.kind,
        options,
        (recording.group >= 0) & ~_skipped(recording, options["weight_decay"]),
        clip,
        "decoupled" if options.get("decoupled_weight_decay", np.zeros(1)).any() else "coupled",
        corrected=(recording.kind == "Adam",) * 2,
        maximum="raw" if options.get("amsgrad", np.zeros(1)).any() else "",
        initial=float(options.get("initial_accumulator_value", np.zeros(1)).max()),
    )
    return Told(rule, recording.batch, clip is None and not _clips(Clip("value", np.inf), recording))


def _skipped(recording: Recording, decay: np.ndarray) -> np.ndarray:
    """``[numbers]``, bool: of parameters that do not decay as they should: PyTorch skips what has no gradient."""
    still = np.asarray(~(recording.torch.deltas.any(0) | recording.torch.grads.any(0)))
    decays = np.asarray((decay[:-1] * recording.torch.params[:-1]).any(0))
    owners = range(len(recording.shapes))
    skipped = [still[recording.owner == i].all() and decays[recording.owner == i].any() for i in owners]
    return np.array(skipped, bool)[recording.owner]


def judged(recording: Recording, name: str) -> Judged:
    """What a side, ``"jax"`` or ``"torch"``, did to the numbers that are one number on both sides."""
    side: Side = getattr(recording, name)
    which = np.flatnonzero(~recording.merged)
    owner = recording.owner[which]
    fed = Fed(
        side.params[:-1, which],
        (side.grads if name == "jax" else recording.used)[:, which],
        side.norms,
        owner,
    )
    seen = side.deltas[:, which]
    largest, scale = np.zeros(len(recording.shapes)), np.zeros(len(recording.shapes))
    np.maximum.at(largest, owner, np.abs(seen).max(0))
    np.maximum.at(scale, owner, np.abs(side.params[:, which]).max(0))
    limit = (SAME * largest + _ROUNDING * scale)[owner] + np.finfo(np.float64).tiny
    kernels = np.array([len(shape) > 1 for shape in recording.shapes.values()], bool)
    return Judged(fed, seen, limit, which, kernels[owner])


def _clip(recording: Recording) -> Clip | None:
    """How PyTorch's step clips gradients, told by what it made of them; None if it does not."""
    grads, used, norms = recording.torch.grads, recording.used, recording.torch.norms
    changed = np.abs(used) < np.abs(grads) * (1 - SAME)
    if not changed.any():
        return None
    factor = np.divide(used, grads, out=np.zeros_like(used), where=changed)
    whole = np.linalg.norm(norms, axis=1)[:, None]
    limits = [("value", 0.0, np.abs(used).max())]
    for how, norm in (("norm", whole), ("each", norms[:, recording.owner])):
        limits += [(how, eps, (factor * (norm + eps)).max()) for eps in (CLIP_EPSILON, 0.0)]
    often = changed.any(1).sum() > 1  # one step's factor alone is any limit's
    for how, epsilon, limit in sorted(limits, key=lambda one: one[0] == "value"):
        for one in (float(number(limit)), float(limit))[: 2 if often else 1]:
            if _clips(Clip(how, one, epsilon), recording):
                return Clip(how, one, epsilon)
    return None


def _clips(clip: Clip, recording: Recording) -> bool:
    """Whether it makes of PyTorch's gradients what its optimizer used."""
    grads, norms = recording.torch.grads, recording.torch.norms
    made = np.stack([clip(grad, norm, recording.owner) for grad, norm in zip(grads, norms, strict=True)])
    return bool(np.abs(made - recording.used).max(initial=0.0) <= SAME * np.abs(grads).max(initial=0.0))
