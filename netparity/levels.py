"""Levels 1 to 3 of the comparison: shapes, forward pass, loss, gradients and state of one pair of networks."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np

from netparity import bounds
from netparity.graph import Graph
from netparity.isolation import layers, modal
from netparity.jax_side import Inputs, as_tuple
from netparity.measure import Arrays, error, require_same_names
from netparity.pairs import DTYPES, Pair, feed, owners
from netparity.results import NEVER_REACHED, Check, Flips, StageResult, check, failures, reported

_CHANCE = 1e-6  # that a mask of single values looks like one of whole channels
_AMPLIFIED = 10.0  # times what moving everything by one unit in the last place does to a number
_NOT_JUDGED = "not judged: one choice that flips at a near-tie changes it by far more than rounding does"
States = dict[str, tuple[Arrays, Arrays]]  # by dtype, the state of both sides after a pass in training mode


def network(
    pair: Pair,
    dtypes: Collection[str] = DTYPES,
    modes: Sequence[str] = ("training",),
    whole: Collection[str] | None = None,
    states: States | None = None,
    tolerance: dict[str, float] | None = None,
) -> tuple[list[StageResult], list[Check], list[Flips]]:
    """All three levels; stops after the shapes if they differ.

    Args:
      pair: the networks.
      dtypes: of `DTYPES`.
      modes: of `MODES`: in which stages are isolated, gradients and state compared; the shapes and the forward pass
        are compared in evaluation mode anyway.
      whole: the dtypes in which the gradients of the whole pass are compared; None is all. In float32 they are not
        judged.
      states: gets the state of both sides after a pass in training mode.
      tolerance: gets `tolerances`.

    Returns:
      every stage in isolation, the other checks, and the choices that float32 flips.

    Raises:
      ParityError: if the two sides' stages or parameters have different names.
    """
    checks = list(shapes(pair))
    if failures(checks):
        return [], checks, []
    truth = pair.torch.forward(pair.params_as("float64"), pair.inputs_as("float64"))
    fed = feed(truth, pair.seed)
    alone = layers(pair, fed, dtypes) if "training" in modes else []
    if "evaluation" in modes:
        alone += layers(pair, fed, dtypes, "evaluation", modal(pair, fed) if "training" in modes else None)
    single = float32_forward(pair) if "float32" in dtypes else {}
    checks += forward(pair, dtypes, truth, single.get("jax"))
    for mode in modes:
        checks += gradients(pair, dtypes if whole is None else whole, mode, len(modes) > 1, states)
    checks += dropouts(pair) if "training" in modes else []
    cumulative = {c.stage: c.error for c in checks if c.level == "forward" and c.dtype == "float64"}
    alone = [
        dataclasses.replace(row, float64_cumulative_error=cumulative.get(row.stage))
        if row.quantity == "output" and row.mode == modes[0]
        else row
        for row in alone
    ]
    if "float32" not in dtypes:
        return alone, checks, []
    if tolerance is not None:
        tolerance |= tolerances(single)
    return alone, checks, flips(pair, truth, single)


def has_modes(pair: Pair) -> bool:
    """Whether anything on either side is otherwise in training than in evaluation."""
    if pair.graph("training").primitives != pair.graph("evaluation").primitives:
        return True
    inputs = pair.params, pair.inputs
    evaluation, training = pair.torch.forward(*inputs), pair.torch.forward(*inputs, {})
    return any(not np.array_equal(evaluation[name], training[name]) for name in evaluation)


def shapes(pair: Pair) -> Iterator[Check]:
    """Level 1: the shape of every stage, each fed a right one.

    Raises:
      ParityError: if the two sides' stages have different names.
    """
    found = pair.jax.shapes(pair.params, pair.inputs)
    require_same_names(found, pair.torch.stages, "stages")
    reference = pair.torch.shapes(pair.params, pair.inputs, found)
    graph = pair.graph("evaluation")
    for place, (ours, theirs) in enumerate(zip(found, reference, strict=False)):  # it ends where it cannot go on
        if ours != theirs and not _movable(graph, list(found), list(reference), place):
            note = f"the order differs: JAX {', '.join(found)}; PyTorch {', '.join(reference)}"
            yield Check("shapes", theirs, "order of the stages", False, note=note)
            return
    for name in found:
        if name not in reference:
            yield Check("shapes", name, name, False, note=NEVER_REACHED)
            continue
        same = found[name] == reference[name]
        note = "" if same else f"JAX {list(found[name])}, PyTorch {list(reference[name])}"
        yield Check("shapes", name, name, same, note=note)


def _movable(graph: Graph, ours: list[str], theirs: list[str], place: int) -> bool:
    """Whether PyTorch may come to this stage now: all that JAX computes it from is there already."""
    before = {*theirs[:place], *(name for name in graph.parents[theirs[place]] if name not in ours)}
    return theirs[place] in graph.parents and before >= set(graph.parents[theirs[place]])


def dropouts(pair: Pair) -> Iterator[Check]:
    """Whether both sides drop the same things together: single values, whole channels, whole images.

    PyTorch gets JAX's masks, so nothing else would show it.
    """
    for stage, mask in pair.masks("float32").items():
        wanted = pair.torch.dropped_together(stage, mask.ndim)
        if wanted is None:
            continue
        whole = [a for a in range(mask.ndim) if mask.shape[a] > 1 and (mask == mask.take([0], a)).all()]
        single = [a for a in wanted if mask.shape[a] > 1 and a not in whole]
        whole = [a for a in whole if a not in wanted and _chance(mask.shape, a, wanted, pair, stage) < _CHANCE]
        kind = type(pair.torch.modules[stage]).__name__
        note = f"JAX drops single values along axis {_listed(single)}, PyTorch's {kind} all of them" if single else ""
        note = note or (
            f"JAX drops all values along axis {_listed(whole)}, PyTorch's {kind} single ones" if whole else ""
        )
        yield Check("dropout", stage, f"what {stage} drops together", not note, note=note)


def _chance(shape: Sequence[int], axis: int, shared: Sequence[int], pair: Pair, stage: str) -> float:
    """That a mask of single values is the same all along an axis."""
    rate = float(pair.torch.modules[stage].p)  # type: ignore[arg-type]
    rows = math.prod(size for i, size in enumerate(shape) if i != axis and i not in shared)
    return float((rate ** shape[axis] + (1 - rate) ** shape[axis]) ** rows)


def _listed(axes: Sequence[int]) -> str:
    return " and ".join(map(str, axes))


def forward(pair: Pair, dtypes: Collection[str], truth: Arrays, single: Arrays | None = None) -> Iterator[Check]:
    """Level 2, cumulative, in evaluation mode.

    Args:
      pair: the networks.
      dtypes: of `DTYPES`.
      truth: the PyTorch side in float64.
      single: the JAX side in float32; None computes it.
    """
    for dtype in dtypes:
        jax = single if dtype == "float32" else None
        if jax is None:
            jax = pair.jax.forward(pair.params_as(dtype), pair.inputs_as(dtype))
        require_same_names(jax, truth, "stages")
        if dtype == "float64":
            found = [("forward", name, name, jax[name], truth[name], None) for name in truth]
            yield from _judged(found, lambda: pair.jax.forward(*_nudged(pair)))
            continue
        for name in truth:
            worst = error(jax[name], truth[name])
            yield reported("forward", name, name, worst.max, dtype, f"JAX, {worst.ulps:.1f} ulps; not judged")


def gradients(
    pair: Pair,
    dtypes: Collection[str],
    mode: str = "training",
    outputs: bool = False,
    states: States | None = None,
) -> Iterator[Check]:
    """Level 3, cumulative, with the same dropout masks: loss, activations, parameters, and the state afterwards.

    Args:
      pair: the networks.
      dtypes: of `DTYPES`.
      mode: of `MODES`.
      outputs: whether to compare every stage's output, too, and to name the mode.
      states: gets the state of both sides after a pass in training mode.
    """
    said = f", in {mode}" if outputs else ""
    owner = owners(pair.graph(mode), pair.params)
    for dtype in dtypes:
        masks = pair.masks(dtype) if mode == "training" else {}
        truth = pair.gradients("torch", "float64", masks, mode)
        jax = pair.gradients("jax", dtype, masks, mode)
        require_same_names(jax.params, truth.params, "parameters")
        require_same_names(jax.activations, truth.activations, "stages")
        if states is not None and mode == "training":
            states[dtype] = jax.state, truth.state
        found: list[_Numbers] = []
        scale: float | None
        if outputs and mode == "training":
            found += [("forward", n, f"{n}{said}", jax.outputs[n], value, None) for n, value in truth.outputs.items()]
        found += [("gradients", "loss", f"loss{said}", np.array(jax.loss), np.array(truth.loss), None)]
        # From the last stage back: an error in a gradient spreads towards the first.
        for n in reversed(truth.activations):
            found += [("gradients", n, f"d loss / d {n}{said}", jax.activations[n], truth.activations[n], None)]
        for n in truth.params:
            scale = float(np.abs(truth.activations[owner[n]]).max())
            found += [("gradients", owner[n], f"d loss / d {n}{said}", jax.params[n], truth.params[n], scale)]
        if dtype == "float64":
            yield from _judged(found, functools.partial(_nudged_gradients, pair, mode, said))
            continue
        for level, stage, name, value, true, scale in found:
            yield reported(level, stage, name, _worst(value, true, scale), dtype, f"JAX; {_NOT_JUDGED}")
        torch = pair.gradients("torch", dtype, masks, mode)
        for n in truth.params:
            worst = error(torch.params[n], truth.params[n]).max
            yield reported("gradients", owner[n], f"d loss / d {n}{said}", worst, dtype, f"PyTorch; {_NOT_JUDGED}")


# Level, stage, name, found, true, and the scale of the stage's output where the number may have cancelled.
_Numbers = tuple[str, str, str, np.ndarray, np.ndarray, float | None]


def _judged(found: Sequence[_Numbers], nudged: Callable[[], Mapping[str, np.ndarray]]) -> Iterator[Check]:
    """Checks in float64. A network that amplifies rounding gets as much more as it amplifies it.

    Args:
      found: the numbers, by name.
      nudged: gives those of the JAX side with everything moved by one unit in the last place; computed if needed.
    """
    errors = [_worst(value, true, scale) for _, _, _, value, true, scale in found]
    limits = [bounds.FLOAT64_LIMIT] * len(found)
    notes = [""] * len(found)
    if any(math.isfinite(worst) and worst > bounds.FLOAT64_LIMIT for worst in errors):
        moved = nudged()
        for i, (_, _, name, value, _, scale) in enumerate(found):
            own = _AMPLIFIED * _worst(moved[name], value, scale)
            if bounds.FLOAT64_LIMIT < own < bounds.AMPLIFIED_LIMIT:
                limits[i] = own
                notes[i] = "limit: ten times what one unit in the last place of parameters and inputs does"
    for (level, stage, name, *_), worst, limit, note in zip(found, errors, limits, notes, strict=True):
        yield check(level, stage, name, worst, limit, note=note)


def _nudged_gradients(pair: Pair, mode: str, said: str) -> dict[str, np.ndarray]:
    """What the JAX side gives if everything is moved by one unit in the last place, under the names of the checks."""
    seed = pair.seed if mode == "training" else None
    found = pair.jax.gradients(*_nudged(pair), pair.labels_as("float64"), seed)
    return {
        **{f"{name}{said}": value for name, value in found.outputs.items()},
        f"loss{said}": np.array(found.loss),
        **{f"d loss / d {name}{said}": value for name, value in (*found.activations.items(), *found.params.items())},
    }


def _nudged(pair: Pair) -> tuple[Arrays, Inputs]:
    """Parameters and inputs in float64, each moved by one unit in the last place, up or down at random."""
    rng = np.random.default_rng(pair.seed)

    def moved(value: np.ndarray) -> np.ndarray:
        if value.dtype.kind != "f":
            return value
        return value.astype(np.float64) * (1 + rng.choice([-1.0, 1.0], value.shape) * np.finfo(np.float64).eps)

    inputs = tuple(moved(x) for x in as_tuple(pair.inputs))
    arrays = {name: moved(value) for name, value in pair.params.items()}
    return arrays, inputs if isinstance(pair.inputs, tuple) else inputs[0]


def _worst(found: np.ndarray, true: np.ndarray, output: float | None) -> float:
    """The largest error of a number.

    A parameter's gradient that is zero but for rounding, such as a bias's before a normalisation, has rounding for
    its own scale, too: it is held against the gradient of its stage's output, whose sum it is.
    """
    worst = error(found, true).max
    if (
        output is None
        or not math.isfinite(worst)
        or true.size == 0
        or float(np.abs(true).max()) >= bounds.CANCELLED * output
    ):
        return worst
    return float(np.abs(found.astype(np.float64) - true).max()) / output


def flips(pair: Pair, truth: Arrays, single: Mapping[str, Arrays] | None = None) -> list[Flips]:
    """How many choices of the cumulative float32 forward pass differ from the float64 truth, on each side.

    Args:
      pair: the networks.
      truth: the PyTorch side's forward pass in float64.
      single: by side, the forward pass in float32; None computes it.
    """
    parents = pair.graph("evaluation").parents
    true = pair.torch.choices(truth, parents)
    return [
        Flips(stage, side, int((choice != true[stage]).sum()), choice.size)
        for side, seen in (float32_forward(pair) if single is None else single).items()
        for stage, choice in pair.torch.choices(seen, parents).items()
    ]


def float32_forward(pair: Pair) -> dict[str, Arrays]:
    """Every stage's output in float32, in evaluation mode, by side."""
    return {
        "jax": pair.jax.forward(pair.params, pair.inputs),
        "torch": pair.torch.forward(pair.params, pair.inputs),
    }


def tolerances(single: Mapping[str, Arrays]) -> dict[str, float]:
    """By stage, the largest difference of the two sides in float32 over PyTorch's largest value."""
    return {name: error(single["jax"][name], true).max for name, true in single["torch"].items()}
