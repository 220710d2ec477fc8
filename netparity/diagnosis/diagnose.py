"""When something differs: which known mistake, on which side, gives exactly the numbers that were found.

PyTorch's stage is run again in float64, with one of its calls made another way (`netparity.diagnosis.variants`), until
it gives JAX's numbers: output and every product. What is told is true of both sides, whichever is meant to be right:
``JAX has epsilon 1e-06 where PyTorch has 1e-05``. Where a layer of PyTorch's has a forward of its own while its class's
would agree with JAX, the other way is looked for on PyTorch's side: ``PyTorch: bias left out``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from netparity import calls
from netparity.diagnosis import insertions, patterns, stage, variants
from netparity.diagnosis.stage import UNFIT, Diagnosis, Stage
from netparity.diagnosis.variants.variant import SIDES
from netparity.measure import Arrays, error
from netparity.pairs import Pair
from netparity.results import VANISHES, Check, StageResult

_TOLD = ("dropout", "state")  # levels whose checks say themselves what is wrong
_NOTES = {"biased": "bn-biased-variance", "momentum": "bn-momentum", "drops": "dropout-shape"}  # by a word of theirs
_MANY = 8  # calls that may all be made another way

# By stage that is none of the networks' own, such as an optimizer: names the known mistake that explains it, if any.
Others = Mapping[str, Callable[[], str | None]]


def diagnose(failure: StageResult | Check, pair: Pair, others: Others | None = None) -> Diagnosis | None:
    """The known mistake under which the difference vanishes.

    Args:
      failure: the first thing that did not pass.
      pair: the two sides and what they were fed.
      others: what explains failures of other stages than the networks'.

    Returns:
      None where no known mistake explains it.
    """
    return _explained(failure, pair, others)[0]


def _explained(
    failure: StageResult | Check, pair: Pair, others: Others | None
) -> tuple[Diagnosis | None, Stage | None]:
    """What explains a failure, and the stage as it was tried on, if it was."""
    if isinstance(failure, StageResult) and failure.float64_passed:
        return _coarse(failure), None
    level = failure.level if isinstance(failure, Check) else None
    if level in _TOLD:
        return None, None
    evaluation = level == "forward" or (isinstance(failure, StageResult) and failure.mode == "evaluation")
    if evaluation and failure.stage in pair.jax.dropouts:
        return _evaluation_dropout(failure.stage, pair), None
    if failure.stage in pair.torch.stages:
        if level == "shapes":
            return _shapes(failure.stage, pair), None
        one = stage.of_failure(pair, failure.stage, failure.mode if isinstance(failure, StageResult) else "training")
        return _layer(one), one
    if failure.stage == "loss":
        return _loss(pair), None
    text = others[failure.stage]() if others and failure.stage in others else None
    return None if text is None else Diagnosis(text), None


def describe(failure: StageResult | Check, pair: Pair, others: Others | None = None) -> Diagnosis:
    """One line: the first diverging stage, and the known mistake under which the difference vanishes."""
    found, one = _explained(failure, pair, others)
    what = failure.quantity if isinstance(failure, StageResult) else failure.name
    what += ", in evaluation" if isinstance(failure, StageResult) and failure.mode == "evaluation" else ""
    key = ""
    if found is not None:
        said, key = f"{VANISHES}{found.text}", found.key
    elif isinstance(failure, Check) and failure.level in _TOLD and failure.note:
        said, key = failure.note, next((key for word, key in _NOTES.items() if word in failure.note), "")
    else:
        said = "no known mistake explains it"
        said += _pattern(failure, one) if isinstance(failure, StageResult) and one is not None else ""
    return Diagnosis(f"first diverging stage: {failure.stage} ({what}); {said}", key)


def _coarse(failure: StageResult) -> Diagnosis | None:
    worst = max(failure.float32_jax_max or 0, failure.float32_torch_max or 0)
    if worst <= failure.bound:  # one side errs less than the other: no sign of a coarser number
        return None
    side = "JAX" if worst == failure.float32_jax_max else "PyTorch"
    return Diagnosis(f"{side}: rounds more coarsely than float32, while float64 agrees (TF32, bfloat16?)", "precision")


def _layer(one: Stage) -> Diagnosis | None:
    """Tries the known mistakes on one stage."""
    if one.name in one.pair.jax.dropouts and one.mode == "training" and (found := _dropout(one)) is not None:
        return found
    for path in dict.fromkeys((one.path, "")):  # the stage's own layer; else what is before it, too
        with calls.own_forwards(one.pair.torch.module, path) as any_own:
            if any_own and _fits(one, {}, one.found["jax"]):
                found = _altered(one, "torch") or insertions.added(one, "torch")
                return found or _cut(one)
    found = _altered(one, "jax")
    return found or insertions.added(one, "jax") or _cut(one)


def _cut(one: Stage) -> Diagnosis | None:
    """Whether one side alone passes no gradient to something, while the outputs agree."""
    ours, theirs = one.found["jax"], one.found.get("torch", {})
    if "output" not in theirs or error(ours["output"], theirs["output"]).max > stage.SAME:
        return None
    for name in (*one.parents, *one.params):
        quantity = one.quantity(name)
        zero = [side for side in ("jax", "torch") if not one.found[side][quantity].any()]
        if len(zero) == 1:
            return Diagnosis(f"{SIDES[zero[0]]}: no gradient to {name}", "gradient-cut")
    return None


def _altered(one: Stage, side: str) -> Diagnosis | None:
    """The first other way to make one of the stage's calls that gives a side's numbers, or several calls alike."""
    wanted = one.found.get(side)
    if wanted is None:
        return None
    # Layers first: of several ways to tell the same, what a porter knows.
    made = sorted(one.watched(), key=lambda call: not variants.special(call))
    ways = {call.number: list(_of(call)) for call in made}
    for call in made:
        for variant in ways[call.number]:
            if _fits(one, {call.number: variant.run}, wanted):
                return Diagnosis(variant.told(side), variant.key)
    for group in _alike(made):
        for several in zip(*(ways[call.number] for call in group), strict=False):
            runs = {call.number: variant.run for call, variant in zip(group, several, strict=True)}
            if len({variant.what for variant in several}) == 1 and _fits(one, runs, wanted):
                return Diagnosis(several[0].told(side), several[0].key)
    return None


def _fits(one: Stage, runs: Mapping[int, Callable[..., object]], wanted: Arrays) -> bool:
    """Whether the stage gives these numbers with some of its calls made another way."""
    with contextlib.suppress(*UNFIT):
        return one.fits(one.run(stage.Watch(runs)), wanted)
    return False


def _alike(made: Sequence[stage.Call]) -> list[list[stage.Call]]:
    """Calls of the same function on arrays of the same shape, as of queries and of keys."""
    found: dict[tuple[str, object], list[stage.Call]] = {}
    for call in made:
        shape = getattr(call.args[0] if call.args else None, "shape", None)
        found.setdefault((call.name, shape), []).append(call)
    return [group for group in found.values() if 1 < len(group) <= _MANY]


def _of(call: stage.Call) -> Iterator[variants.Variant]:
    """The variants of a call; fewer where one cannot be made of its arguments."""
    with contextlib.suppress(*UNFIT):
        yield from variants.of(call)


def _dropout(one: Stage) -> Diagnosis | None:
    """Of a dropout, PyTorch's mask is JAX's: what may differ is the scale, or whether it drops at all."""
    mask = (one.masks or {}).get(one.name)
    if mask is None or "torch" not in one.found:
        return None
    given, found = list(one.given.values()), {side: seen["output"] for side, seen in one.found.items()}
    if len(given) == 1 and given[0].shape == mask.shape:
        for side, output in found.items():
            if error(output, given[0]).max <= stage.SAME:
                return Diagnosis(f"{SIDES[side]}: dropout left out", "dropout-mode")
    ratio = float(np.vdot(found["torch"], found["jax"]) / np.vdot(found["torch"], found["torch"]))
    if not ratio > 0 or error(found["jax"], ratio * found["torch"]).max > stage.SAME:
        return None
    torch_scale = 1 / (1 - float(one.pair.torch.modules[one.name].p))  # type: ignore[arg-type]
    scales = {"jax": ratio * torch_scale, "torch": torch_scale}
    for side, scale in scales.items():
        if abs(scale - 1) <= stage.SAME:
            return Diagnosis(f"{SIDES[side]}: what dropout keeps is not scaled", "dropout-scale")
    rates = {side: f"{1 - 1 / scale:.4g}" for side, scale in scales.items()}
    return Diagnosis(f"JAX has dropout rate {rates['jax']} where PyTorch has {rates['torch']}", "dropout-rate")


def _shapes(name: str, pair: Pair) -> Diagnosis | None:
    """Of a stage whose shapes differ: which other way to make a call gives JAX's shape and numbers."""
    ours = pair.jax.shapes(pair.params, pair.inputs)
    theirs = pair.torch.shapes(pair.params, pair.inputs, ours)
    if name in theirs and list(theirs).index(name) != list(ours).index(name):
        return Diagnosis(f"{name} stands elsewhere in the network", "norm-order")
    return _layer(stage.of_shapes(pair, name)) if name in theirs else None


def _evaluation_dropout(name: str, pair: Pair) -> Diagnosis | None:
    """In evaluation mode a dropout gives what it gets."""
    params, inputs = pair.params_as("float64"), pair.inputs_as("float64")
    parents = pair.graph("training").parents[name]
    for side, seen in (("JAX", pair.jax.forward(params, inputs)), ("PyTorch", pair.torch.forward(params, inputs))):
        before = {**pair.named_inputs(), **seen}[parents[0]]
        if before.shape == seen[name].shape and error(seen[name], before).max > stage.SAME:
            return Diagnosis(f"{side}: dropout active in evaluation mode", "dropout-mode")
    return None


def _loss(pair: Pair) -> Diagnosis | None:
    """Tries the known mistakes on PyTorch's loss."""
    masks = pair.masks("float64")
    ours = pair.gradients("jax", "float64", masks, "training").loss

    def fits(value: float) -> bool:
        return abs(value - ours) <= stage.SAME * abs(ours)

    loss = pair.torch.losses(pair.params_as("float64"), pair.inputs_as("float64"), pair.labels_as("float64"), masks)
    made = stage.Watch(note=True)
    loss(made)
    for call in sorted(made.calls, key=lambda call: not variants.special(call)):
        for variant in _of(call):
            with contextlib.suppress(*UNFIT):
                if fits(loss(stage.altered(call, variant.run))):
                    return Diagnosis(variant.told("jax"), variant.key)
    return None


def _pattern(failure: StageResult, one: Stage) -> str:
    """What is seen of a difference that no known mistake explains, for people; empty where nothing is."""
    ours, theirs = (one.found[side].get(failure.quantity) for side in SIDES)
    if ours is None or theirs is None:
        return ""
    seen = patterns.relation(ours, theirs)
    size = f"relative error {failure.float64_error:.1e}"
    return f": JAX's {failure.quantity} is {seen}; {size}" if seen else f"; {size}"
