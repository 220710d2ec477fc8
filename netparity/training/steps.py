"""Training in lockstep: both networks with their own optimizers, step by step on the same data, for any pair.

After every step the loss, the parameters, what the optimizers remember and the networks' state are compared. Float64
is judged by how far the two may drift (`netparity.bounds.TRAJECTORY_LIMIT`). Float32 is judged against chaos: three
controls train the JAX network from parameters moved by one unit in the last place, with the optimizer's own arithmetic
in float64. The latter, because rounding there is no chaos and yet no mistake: optax computes Adam's ``1 - b2**step`` in
float32, 3e-5 off at first, where PyTorch takes a Python float.

Some gradients are zero but for rounding: that of a bias before a batch normalisation, or of the bias of an attention's
keys. Optimizers such as Adam divide by the gradient's own size and make of them steps of random sign, which spread to
the running means. Where both sides' float64 gradients are at most ``FLOAT64_LIMIT`` of the network's largest, which is
what that limit calls rounding, they say nothing, and both sides are given exactly zero in that step, in both
precisions. So the numbers concerned are still trained (weight decay moves them) and still compared. The checks name
them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from netparity import bounds
from netparity.measure import Arrays, ParityError, require_same_names
from netparity.results import Check, Trajectory, check, reported
from netparity.training import optimizers, recording
from netparity.training.runs import JaxProgram, JaxRun, Masks, TorchFactory, TorchProgram, TorchRun

CONTROLS = 3

_QUANTITIES = ("parameters", "loss", "optimizer state", "network state")
_ZEROED = "gradients that are zero but for rounding are taken as zero on both sides: "
_VARIANCES = (
    "only running variances differ: PyTorch updates them with the unbiased variance, n / (n - 1) times the biased one "
    "that Flax takes"
)
_Row = dict[str, dict[str, float]]  # by quantity, by name, how far two runs are apart after a step


def train(
    jax_program: JaxProgram,
    torch_program: TorchProgram,
    optimizer: tuple[optax.GradientTransformation, TorchFactory],
    steps: int,
    dtypes: Collection[str] = ("float64", "float32"),
    progress: Callable[[str], None] = lambda text: None,
    recorder: recording.Recorder | None = None,
) -> tuple[Trajectory, list[Check]]:
    """Trains both networks in lockstep and compares them after every step.

    Float64 is always computed, since only there can a gradient that is nothing but rounding be told from a small one.

    Args:
      jax_program, torch_program: the two networks with their data.
      optimizer: optax's and a function that makes PyTorch's.
      steps: at least 1.
      dtypes: which of ``"float64"`` and ``"float32"`` to judge.
      progress: is told of every step.
      recorder: is given what the optimizers were fed and made of it, in float64, to tell mistakes by.

    Returns:
      the parameters' differences by step; and the checks, at level ``"training"``. In float64 the parameters, the loss,
      the optimizers' and the networks' state are judged; each check names the worst of all steps, and in its note the
      first that is beyond the limit. In float32 the parameters are judged, and the others' ratios to the controls
      reported.

    Raises:
      ParityError: if the two sides' parameters or states differ in name or shape, or in value before the first step.
      ValueError: if no step is to be taken.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    transformation, factory = optimizer
    compiled = jax.jit(jax_program.value_and_grad), jax.jit(_updated(transformation))
    kept = recording.Recorder() if recorder is None else recorder
    exact = (
        JaxRun(jax_program, compiled, transformation, "float64"),
        TorchRun(torch_program, factory, "float64", kept.used),
    )
    _require_same_start(*exact)
    single: list[JaxRun | TorchRun] = []
    if "float32" in dtypes:
        single += [
            JaxRun(jax_program, compiled, transformation, "float32"),
            TorchRun(torch_program, factory, "float32"),
        ]
        seeds = range(CONTROLS)
        single += [JaxRun(jax_program, compiled, transformation, "float32", seed) for seed in seeds]
    rows64: list[_Row] = []
    rows32: list[list[_Row]] = []
    pairing: optimizers.Pairing | None = None
    zeroed: dict[str, np.ndarray] = {}
    kept.start(exact[1].kind(), _params(*exact), exact[1].groups(), exact[1].merged())
    for step in range(steps):
        grads = {"jax": exact[0].backward(step), "torch": exact[1].backward(step)}
        rounding, noise = _rounding_only(grads["jax"], grads["torch"])
        for name, where in noise.items():
            zeroed[name] = zeroed.get(name, False) | where
        kept.before(grads, rounding)
        for run in exact:
            run.update(rounding)
        kept.after(_params(*exact), exact[1].options)
        if pairing is None:
            (ours, unknown), (theirs, unknown_too) = exact[0].remembered(), exact[1].remembered()
            pairing = optimizers.pair(ours, theirs, (*unknown, *unknown_too))
        rows64.append(_row(*exact, pairing))
        if single:
            for run in single:
                run.backward(step)
                run.update(rounding)
            rows32.append([_row(one, single[0], pairing) for one in single[1:]])
        progress(f"step {step + 1} of {steps}: {_worst(rows64[-1]['parameters']):.1e}")
    assert pairing is not None
    checks = []
    if "float64" in dtypes:
        checks += _judged(rows64, pairing, _told(zeroed), exact[1].running_variances)
    apart, controls, ratio = _against_controls(rows32, "parameters")
    if rows32:
        checks += _ratios(rows32, _told(zeroed))
    drift = [_worst(row["parameters"]) for row in rows64] if "float64" in dtypes else []
    return Trajectory(drift, apart, controls, ratio, all(one.passed for one in checks)), checks


def _params(ours: JaxRun, theirs: TorchRun) -> dict[str, Arrays]:
    return {"jax": ours.params(), "torch": theirs.params()}


def _updated(transformation: optax.GradientTransformation) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    def update(grads: Any, memory: Any, params: Any) -> tuple[Any, Any]:
        updates, memory = transformation.update(grads, memory, params)
        return optax.apply_updates(params, updates), memory

    return update


def _require_same_start(ours: JaxRun, theirs: TorchRun) -> None:
    pairs = (("parameters", ours.params(), theirs.params()), ("states", ours.state(), theirs.state()))
    for what, a, b in pairs:
        wrong = [
            f"{name} by {error:.1e}" for name, error in differences(a, b, what).items() if error > bounds.FLOAT64_LIMIT
        ]
        if wrong:
            raise ParityError(f"the {what} differ before the first step: " + "; ".join(wrong))


def _rounding_only(ours: Arrays, theirs: Arrays) -> tuple[Masks, Masks]:
    """Where the float64 gradients of both sides are nothing but rounding.

    Returns:
      for every parameter that has such numbers, where they are, exact zeros included; and the same without those that
      are exact zeros on both sides, such as those of units that are off.
    """
    require_same_names(ours, theirs, "gradients")
    sizes = {name: np.maximum(np.abs(ours[name]), np.abs(theirs[name])) for name in ours}
    limit = bounds.FLOAT64_LIMIT * max((float(size.max(initial=0.0)) for size in sizes.values()), default=0.0)
    masks = {name: size <= limit for name, size in sizes.items()}
    noise = {name: mask & (sizes[name] > 0) for name, mask in masks.items()}
    noise = {name: where for name, where in noise.items() if where.any()}
    return {name: masks[name] for name in noise}, noise


def _row(ours: JaxRun | TorchRun, theirs: JaxRun | TorchRun, pairing: optimizers.Pairing) -> _Row:
    """How far two runs are apart, the second one's numbers giving the scale."""

    def memory(run: JaxRun | TorchRun) -> Arrays:
        remembered, _ = run.remembered()
        return pairing.ours(remembered) if isinstance(run, JaxRun) else pairing.theirs(remembered)

    return {
        "parameters": differences(ours.params(), theirs.params(), "parameters"),
        "loss": differences({"loss": np.asarray(ours.loss)}, {"loss": np.asarray(theirs.loss)}),
        "optimizer state": differences(memory(ours), memory(theirs), "optimizers' states"),
        "network state": differences(ours.state(), theirs.state(), "states"),
    }


def _worst(errors: Mapping[str, float]) -> float:
    return max(errors.values(), default=0.0)


def _told(zeroed: Mapping[str, np.ndarray]) -> str:
    """Which gradients were taken as zero, for people; empty where none were."""
    said = [f"{name} ({int(where.sum())} of {where.size})" for name, where in zeroed.items()]
    return _ZEROED + ", ".join(said) if said else ""


def _judged(
    rows: Sequence[_Row], pairing: optimizers.Pairing, told: str, variances: Callable[[], set[str]]
) -> list[Check]:
    """One check of every quantity that the networks have, in float64."""
    checks, limit = [], bounds.TRAJECTORY_LIMIT
    for quantity in _QUANTITIES:
        notes = {"parameters": told, "optimizer state": pairing.note}
        note = notes.get(quantity, "")
        if not rows[0][quantity]:
            if note:
                checks.append(Check("training", "training", quantity, True, "float64", judged=False, note=note))
            continue
        errors = {name: max(row[quantity][name] for row in rows) for name in rows[0][quantity]}
        worst = max(errors, key=errors.__getitem__)
        beyond = next((i for i, row in enumerate(rows) if _worst(row[quantity]) > limit), None)
        if beyond is not None:
            then = rows[beyond][quantity]
            first = max(then, key=then.__getitem__)
            where = "" if quantity == "loss" else f" at {first}"
            note = "; ".join(part for part in (f"first beyond the limit in step {beyond + 1}{where}", note) if part)
            if quantity == "network state" and {name for name in errors if errors[name] > limit} <= variances():
                note += f"; {_VARIANCES}"
        name = f"{quantity}, worst of {len(rows)} steps" + ("" if quantity == "loss" else f": {worst}")
        checks.append(check("training", "training", name, errors[worst], limit, "float64", note))
    return checks


def _against_controls(
    rows: Sequence[Sequence[_Row]], quantity: str
) -> tuple[list[float], list[list[float]], float | None]:
    """The differences of a quantity in float32, the controls' and the ratio; empty where float32 was not asked for."""
    if not rows:
        return [], [], None
    found, *controls = ([_worst(row[i][quantity]) for row in rows] for i in range(1 + CONTROLS))
    return found, controls, chaos_ratio(found, controls)


def _ratios(rows: Sequence[Sequence[_Row]], told: str) -> list[Check]:
    """The parameters' ratio to chaos, judged, and the others', reported where they can be told."""
    checks, note = [], "median over the steps of the difference over the largest of three controls"
    for quantity in _QUANTITIES:
        _, _, ratio = _against_controls(rows, quantity)
        if ratio is None or not rows[0][0][quantity]:
            continue
        name = f"chaos ratio: {quantity}"
        if quantity == "parameters":
            notes = "; ".join(part for part in (note, told) if part)
            checks.append(check("training", "training", name, ratio, bounds.CHAOS_LIMIT, "float32", notes))
        elif np.isfinite(ratio):
            checks.append(reported("training", "training", name, ratio, "float32", f"not judged: {note}"))
    return checks


def differences(a: Arrays, b: Arrays, what: str = "arrays") -> dict[str, float]:
    """The largest difference of every array relative to the second one's scale; infinite where not finite.

    Raises:
      ParityError: if names or shapes differ.

    >>> differences({"w": np.array([1.0, 4.0]), "b": np.zeros(1)}, {"w": np.array([1.0, 2.0]), "b": np.zeros(1)})
    {'w': 1.0, 'b': 0.0}
    """
    require_same_names(a, b, what)
    wrong = [f"{name}: JAX {np.shape(a[name])}, PyTorch {np.shape(b[name])}" for name in b
             if np.shape(a[name]) != np.shape(b[name])]  # fmt: skip
    if wrong:
        raise ParityError(f"the shapes of the {what} differ: " + "; ".join(wrong))
    found = {}
    for name in b:
        if not (np.isfinite(a[name]).all() and np.isfinite(b[name]).all()):
            found[name] = float("inf")
            continue
        difference = float(np.abs(np.subtract(a[name], b[name])).max(initial=0.0))
        scale = float(np.abs(b[name]).max(initial=0.0))
        found[name] = (difference / scale if scale else float("inf")) if difference else 0.0
    return found


def distance(a: Arrays, b: Arrays) -> float:
    """The largest difference of any array relative to that array's scale; infinite where not finite.

    Raises:
      ParityError: if names or shapes differ.
    """
    return _worst(differences(a, b, "parameters"))


def chaos_ratio(differences: list[float], controls: list[list[float]]) -> float:
    """Median over the steps of a difference over the largest control's; infinite where nothing can be told.

    >>> chaos_ratio([2.0, 3.0, 8.0], [[1.0, 1.0, 1.0], [1.0, 3.0, 2.0]])
    2.0
    """
    largest = np.max(np.array(controls), axis=0)
    known = np.isfinite(differences) & np.isfinite(largest) & (largest > 0)
    ratio = np.divide(differences, largest, out=np.full(len(largest), np.inf), where=known)
    return float(np.median(ratio))
