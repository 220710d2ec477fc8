"""What a comparison finds: stages in isolation and other checks, in the order in which they were made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from netparity import bounds

# What a diagnosis says before a known mistake.
VANISHES = "the difference vanishes under: "
# What a check of shapes says of the stages after one that PyTorch cannot go on from.
NEVER_REACHED = "PyTorch never gets there"


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How many numbers of a stage's output err by how much in float32; the bins are `netparity.measure.ULP_EDGES`'s.

    Attributes:
      jax, torch: counts by bin, each side against the float64 truth.
    """

    jax: tuple[int, ...]
    torch: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class StageResult:
    """One quantity of one stage in isolation: its output, or a vector-Jacobian product.

    Errors are relative to the scale of the true value; None where that dtype was not asked for.

    Attributes:
      stage: ``"conv2"``.
      quantity: ``"output"``, ``"vjp_input"``, or ``"vjp_"`` and the parameter (``"vjp_kernel"``).
      shape: of the quantity, in the common layout.
      float64_error: JAX in float64 against PyTorch in float64.
      float64_cumulative_error: the same for the whole network up to here (outputs only).
      float32_jax_max, float32_jax_rms, float32_torch_max, float32_torch_rms: each side's float32 against float64.
      float32_simulated_rms: what rounding alone explains (see `netparity.rounding`), where that was simulated.
      contraction_length, bound: see `netparity.bounds`.
      mode: ``"training"`` or ``"evaluation"``.
      histogram: of the float32 errors of both sides (outputs only).
    """

    stage: str
    quantity: str
    shape: tuple[int, ...]
    contraction_length: int
    bound: float
    float64_error: float | None = None
    float64_cumulative_error: float | None = None
    float32_jax_max: float | None = None
    float32_jax_rms: float | None = None
    float32_torch_max: float | None = None
    float32_torch_rms: float | None = None
    float32_simulated_rms: float | None = None
    mode: str = "training"
    histogram: Histogram | None = None

    @property
    def rms_ratio(self) -> float | None:
        """JAX's root-mean-square error over PyTorch's, or over what rounding explains if that is more.

        None where neither errs or there are too few numbers to tell.
        """
        if math.prod(self.shape) < bounds.RMS_MIN_SIZE:
            return None
        if self.float32_jax_rms is None or self.float32_torch_rms is None or self.float32_jax_rms == 0:
            return None
        explained = max(self.float32_torch_rms, self.float32_simulated_rms or 0.0)
        return self.float32_jax_rms / explained if explained else float("inf")

    @property
    def float64_passed(self) -> bool:
        return self.float64_error is None or self.float64_error <= bounds.FLOAT64_LIMIT

    @property
    def float32_passed(self) -> bool:
        if self.float32_jax_max is None or self.float32_torch_max is None:
            return True
        within = max(self.float32_jax_max, self.float32_torch_max) <= self.bound
        return within and (self._is_as_exact or self._errs_as_a_plain_sum)

    @property
    def _is_as_exact(self) -> bool:
        return self.rms_ratio is None or self.rms_ratio <= bounds.RMS_RATIO

    @property
    def _errs_as_a_plain_sum(self) -> bool:
        assert self.float32_jax_rms is not None
        return self.float32_jax_rms <= bounds.PLAIN_SUM_LUCK * bounds.plain_sum_rms(self.contraction_length)

    @property
    def passed(self) -> bool:
        return self.float64_passed and self.float32_passed


@dataclasses.dataclass(frozen=True)
class Check:
    """One comparison of any other kind.

    Attributes:
      level: ``"shapes"``, ``"weights"``, ``"forward"``, ``"gradients"``, ``"dropout"``, ``"state"``, ``"optimizer"``,
        ``"training"``, ``"data"`` or ``"initialisers"``.
      stage: what it checks: a stage of the network, ``"loss"``, ``"normalisation"`` …
      name: for people.
      dtype: ``"float64"``, ``"float32"`` or None.
      error, limit: None where there is no number.
      judged: whether it decides anything, or is only reported.
    """

    level: str
    stage: str
    name: str
    passed: bool
    dtype: str | None = None
    error: float | None = None
    limit: float | None = None
    judged: bool = True
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Flips:
    """How many of a stage's choices (a ReLU's sign, a pooling's maximum) float32 makes otherwise than float64."""

    stage: str
    side: str
    count: int
    of: int


def check(
    level: str, stage: str, name: str, error: float, limit: float, dtype: str | None = "float64", note: str = ""
) -> Check:
    """A judged check of an error against its limit."""
    return Check(level, stage, name, error <= limit, dtype, error, limit, True, note)


def reported(level: str, stage: str, name: str, error: float, dtype: str, note: str) -> Check:
    """An error that is shown and not judged."""
    return Check(level, stage, name, True, dtype, error, None, False, note)


def failures(found: Iterable[StageResult | Check]) -> list[StageResult | Check]:
    """What did not pass, in order."""
    return [one for one in found if not one.passed]


@dataclasses.dataclass(frozen=True)
class Convention:
    """A difference that the attributes of two modules show before any number is computed.

    Attributes:
      stage: whose modules they are.
      what: the attribute, for people: ``"epsilon"``.
      jax, torch: its value on either side.
      note: what to do, or why it may not matter.
    """

    stage: str
    what: str
    jax: str
    torch: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """What training in lockstep found, step by step.

    Attributes:
      float64_difference, float32_difference: of the parameters, JAX against PyTorch.
      controls: three lists: JAX in float32 against itself from perturbed parameters.
      ratio: median over the steps of the float32 difference over the largest control's.
      passed: whether every check on it did.
    """

    float64_difference: list[float]
    float32_difference: list[float]
    controls: list[list[float]]
    ratio: float | None
    passed: bool


@dataclasses.dataclass
class Result:
    """All that the comparison of one network found.

    Attributes:
      batch_size, image_shape: of the passes.
      width: factor on the published network's channels and units.
      steps: of the trajectory.
      images: where they come from, for people.
      diagnosis: the first diverging stage and what explains it, where something differs.
      advice: how the mistake that was found is mended, where it is a known one (see `netparity.diagnosis.mistakes`).
      minimum_tolerance: by stage, the smallest ``rtol``, of the stage's largest value, with which both sides' whole
        forward passes in float32 agree up to there.
      faults: score of mistakes that were planted to see whether they are found; empty where none were.
      conventions: what the modules' attributes show to differ.
      parents: by stage, what JAX computes it from: other stages, and inputs (``"input"``, or ``"input[0]"`` …).
      torch_parents: the same of PyTorch, as far as gradients go, by stage that differs, where it is not the same.
    """

    batch_size: int
    image_shape: tuple[int, ...]
    width: float = 1.0
    steps: int = 0
    images: str = ""
    layers: list[StageResult] = dataclasses.field(default_factory=list)
    checks: list[Check] = dataclasses.field(default_factory=list)
    flips: list[Flips] = dataclasses.field(default_factory=list)
    trajectory: Trajectory | None = None
    diagnosis: str | None = None
    advice: str | None = None
    minimum_tolerance: dict[str, float] = dataclasses.field(default_factory=dict)
    faults: dict[str, Any] = dataclasses.field(default_factory=dict)
    conventions: list[Convention] = dataclasses.field(default_factory=list)
    parents: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    torch_parents: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @property
    def failures(self) -> list[StageResult | Check]:
        """What did not pass: shapes first, then single layers, then everything else in order."""
        first = [one for one in self.checks if one.level == "shapes"]
        return failures([*first, *self.layers, *(one for one in self.checks if one.level != "shapes")])

    @property
    def first_divergence(self) -> tuple[str, str] | None:
        """The stage and the quantity of the first failure; None if there is none."""
        if not self.failures:
            return None
        first = self.failures[0]
        return first.stage, first.quantity if isinstance(first, StageResult) else first.name

    @property
    def verdicts(self) -> dict[str, str]:
        """By stage, what was found of it, in the order of the network.

        ``"passed"``; ``"failed"``: it differs when both sides are fed the same, or is the first to differ at all;
        ``"inherited"``: it agrees when both are fed the same, and its output differs in the whole pass;
        ``"not reached"``: none of its numbers were compared, since the comparison ended before. Gradients of the whole
        pass tell nothing of a stage: they differ in all that come before one that fails.
        """
        compared = {row.stage for row in self.layers}
        checks = [one for one in self.checks if not one.passed and one.note != NEVER_REACHED]
        inherited = {one.stage for one in checks if one.level == "forward"}
        alone = {row.stage for row in failures(self.layers)}
        alone |= {one.stage for one in checks if one.level not in ("forward", "gradients", "state")}
        alone |= {one.stage for one in checks if one.level == "state"} - inherited
        alone |= {self.first_divergence[0]} if self.first_divergence else set()
        found = {}
        for stage in self.parents or dict.fromkeys(row.stage for row in self.layers):
            if stage in alone:
                found[stage] = "failed"
            elif stage in inherited:
                found[stage] = "inherited"
            else:
                found[stage] = "passed" if stage in compared else "not reached"
        return found

    @property
    def passed(self) -> bool:
        f = self.faults
        scored = not f or (f["planted"] == f["caught"] == f["located"] and f["false_alarms"] == 0)
        return bool(self.checks) and not self.failures and scored
