"""Levels 1 to 3 of the comparison: shapes, forward pass, loss, gradients and state of one pair of networks."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from netparity import bounds
from netparity.graph import Graph, input_names
from netparity.jax_side import Gradients, Groups, Inputs, Isolated, JaxSide, as_tuple, groups_of
from netparity.measure import Arrays, Error, ParityError, error, require_same_names
from netparity.results import Check, Flips, StageResult, check, failures, reported
from netparity.torch_side import TorchSide

DTYPES = ("float64", "float32")
MODES = ("training", "evaluation")
_NOTHING = 1e-6  # a gradient that is smaller than its stage's output's by so much has cancelled
_AMPLIFIED = 10.0  # times what moving everything by one unit in the last place does to a number
_NOT_JUDGED = "not judged: one choice that flips at a near-tie changes it by far more than rounding does"


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two sides and what both are fed.

    Attributes:
      jax, torch: the sides.
      params: parameters and state by common name, in float32.
      inputs: in JAX's layout (float32 ``[batch, height, width, channel]``, tokens ``[batch, time]`` …), one or several.
      labels: what the losses take, such as int ``[batch]``.
      seed: of dropout and of the random cotangents.
    """

    jax: JaxSide
    torch: TorchSide
    params: Arrays
    inputs: Inputs
    labels: Any
    seed: int = 0

    def params_as(self, dtype: str) -> Arrays:
        """Parameters and state in a dtype."""
        return {name: cast(value, dtype) for name, value in self.params.items()}

    def inputs_as(self, dtype: str) -> Inputs:
        """The inputs in a dtype."""
        if isinstance(self.inputs, tuple):
            return tuple(cast(value, dtype) for value in self.inputs)
        return cast(self.inputs, dtype)

    def labels_as(self, dtype: str) -> Any:
        """The labels in a dtype, where they are floating."""
        if isinstance(self.labels, tuple):
            return tuple(cast(value, dtype) for value in self.labels)
        return cast(self.labels, dtype)

    def masks(self, dtype: str) -> Arrays:
        """The dropout masks that the JAX side draws in a dtype."""
        if not self.jax.dropouts:
            return {}
        return self.jax.masks(self.params_as(dtype), self.inputs_as(dtype), self.seed)

    def graph(self, mode: str = "training") -> Graph:
        """Who feeds whom on the JAX side."""
        return self.jax.graph(self.params, self.inputs, mode == "training")

    def isolated(self, fed: Fed, side: str, dtype: str, masks: Arrays, groups: Groups, mode: str) -> Isolated:
        """One side's stages in isolation; ``masks`` are the PyTorch side's, in training mode."""
        args = (self.params_as(dtype), self.inputs_as(dtype), *fed.as_dtype(dtype))
        if side == "jax":
            return self.jax.isolated(*args, self.seed if mode == "training" else None, groups)
        return self.torch.isolated(*args, masks if mode == "training" else None, groups)

    def gradients(self, side: str, dtype: str, masks: Arrays, mode: str) -> Gradients:
        """One side's whole pass; ``masks`` are the PyTorch side's, in training mode."""
        args = (self.params_as(dtype), self.inputs_as(dtype), self.labels_as(dtype))
        if side == "jax":
            return self.jax.gradients(*args, self.seed if mode == "training" else None)
        return self.torch.gradients(*args, masks if mode == "training" else None)


def cast(value: np.ndarray, dtype: str) -> np.ndarray:
    """A floating array in a dtype; any other as it is."""
    return value.astype(dtype) if value.dtype.kind == "f" else value


def stage_of(parameter: str, stages: Iterable[str]) -> str:
    """The stage that a parameter belongs to by its name: the longest name that the parameter's begins with.

    Raises:
      ParityError: if there is none.

    >>> stage_of("block1.conv.kernel", ["block1", "block1.conv", "block1.conv2"])
    'block1.conv'
    """
    owners = [stage for stage in stages if parameter.startswith(f"{stage}.")]
    if not owners:
        raise ParityError(f"the parameter {parameter} belongs to no stage: a parameter's name begins with its stage's")
    return max(owners, key=len)


def owners(graph: Graph, params: Iterable[str]) -> dict[str, str]:
    """The stage that each parameter is used in: of several, the first; of none, the last stage of all."""
    last = list(graph.parents)[-1] if graph.parents else ""
    return {name: next((stage for stage, used in graph.params.items() if name in used), last) for name in params}


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


def modal(pair: Pair, fed: Fed) -> set[str]:
    """The stages that are otherwise in training than in evaluation, on either side."""
    training, evaluation = pair.graph("training"), pair.graph("evaluation")
    found = {name for name, used in training.primitives.items() if used != evaluation.primitives.get(name)}
    args = (pair.params, pair.inputs, fed.inputs, fed.cotangents)
    one, other = pair.torch.isolated(*args, pair.masks("float32")), pair.torch.isolated(*args)
    return found | {name for name, x in one.outputs.items() if not np.array_equal(x, other.outputs[name])}


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
            yield Check("shapes", name, name, False, note="PyTorch never gets there")
            continue
        same = found[name] == reference[name]
        note = "" if same else f"JAX {list(found[name])}, PyTorch {list(reference[name])}"
        yield Check("shapes", name, name, same, note=note)


def _movable(graph: Graph, ours: list[str], theirs: list[str], place: int) -> bool:
    """Whether PyTorch may come to this stage now: all that JAX computes it from is there already."""
    before = {*theirs[:place], *(name for name in graph.parents[theirs[place]] if name not in ours)}
    return theirs[place] in graph.parents and before >= set(graph.parents[theirs[place]])


@dataclasses.dataclass(frozen=True)
class Fed:
    """What every stage is fed in isolation, exactly representable in float32: activations and cotangents by stage."""

    inputs: Arrays
    cotangents: Arrays

    def as_dtype(self, dtype: str) -> tuple[Arrays, Arrays]:
        """Both in a dtype."""
        return (
            {name: value.astype(dtype) for name, value in self.inputs.items()},
            {name: value.astype(dtype) for name, value in self.cotangents.items()},
        )


def feed(truth: Mapping[str, np.ndarray], seed: int) -> Fed:
    """Inputs near the true activations, and random cotangents.

    The first image's activations are rounded to an eighth of their scale, so that exact zeros and exact ties, which
    random numbers never show, reach every ReLU and every pooling.
    """
    rng = np.random.default_rng(seed)
    inputs, cotangents = {}, {}
    for name, value in truth.items():
        inputs[name] = value.astype(np.float32)
        scale = float(np.abs(inputs[name][0]).max())
        if scale > 0 and math.isfinite(scale):
            step = np.float32(2.0 ** (math.floor(math.log2(scale)) - 3))
            inputs[name][0] = np.rint(inputs[name][0] / step) * step + np.float32(0)  # no negative zeros
        cotangents[name] = rng.standard_normal(value.shape).astype(np.float32)
    return Fed(inputs, cotangents)


def layers(
    pair: Pair, fed: Fed, dtypes: Collection[str], mode: str = "training", only: Collection[str] | None = None
) -> list[StageResult]:
    """Level 2 and 3 in isolation: every stage's output and vector-Jacobian products, fed the reference's input.

    Args:
      pair, fed: the networks, and what every stage is fed.
      dtypes: of `DTYPES`.
      mode: of `MODES`.
      only: of these stages; None takes all.
    """
    members = groups(pair, fed, mode, only)
    if not members:
        return []
    graph = pair.graph(mode)
    by_dtype: dict[str, dict[tuple[str, str], tuple[Error, Error, tuple[int, ...]]]] = {}
    exact = None  # what the JAX side gives in float64, if that was asked for
    truth: dict[tuple[str, str], np.ndarray] = {}
    for dtype in DTYPES:
        if dtype not in dtypes:
            continue
        masks = pair.masks(dtype) if mode == "training" else {}
        if masks or not truth:  # each dtype draws masks of its own
            truth = quantities(pair.isolated(fed, "torch", "float64", masks, members, mode), members)
        jax = quantities(pair.isolated(fed, "jax", dtype, masks, members, mode), members)
        require_same_names(jax, truth)
        exact = jax if dtype == "float64" else exact
        torch = (
            quantities(pair.isolated(fed, "torch", "float32", masks, members, mode), members)
            if dtype == "float32"
            else truth
        )
        by_dtype[dtype] = {
            key: (_error(jax[key], true, fed, key), _error(torch[key], true, fed, key), true.shape)
            for key, true in truth.items()
        }
    explained = _explained(pair, fed, exact, members, mode) if "float32" in dtypes else {}
    rows = []
    for key in next(iter(by_dtype.values())):
        found = {dtype: errors[key] for dtype, errors in by_dtype.items()}
        n = _contraction_length(pair, graph, key)
        row = StageResult(*key, next(iter(found.values()))[2], n, bounds.bound(n), mode=mode)
        if key in explained:
            simulated = explained[key]
            row = dataclasses.replace(
                row, bound=max(row.bound, bounds.C * simulated.max), float32_simulated_rms=simulated.rms
            )
        if "float64" in found:
            row = dataclasses.replace(row, float64_error=found["float64"][0].max)
        if "float32" in found:
            jax_error, torch_error, _ = found["float32"]
            row = dataclasses.replace(
                row,
                float32_jax_max=jax_error.max,
                float32_jax_rms=jax_error.rms,
                float32_torch_max=torch_error.max,
                float32_torch_rms=torch_error.rms,
            )
        rows.append(row)
    doubtful = {(row.stage, row.quantity) for row in rows if _doubtful(row)}
    drawn = _drawn(pair, fed, members, mode, doubtful) if doubtful else {}
    return [_excused(row, drawn[key]) if (key := (row.stage, row.quantity)) in drawn else row for row in rows]


_FEW = 64  # numbers


def _doubtful(row: StageResult) -> bool:
    """Whether so few numbers are off in float32 alone that they may just have cancelled, or been summed unluckily."""
    return row.float64_passed and not row.float32_passed and math.prod(row.shape) < _FEW


def _excused(row: StageResult, drawn: Error) -> StageResult:
    """A row with what several draws of rounding explain."""
    rms = max(row.float32_simulated_rms or 0.0, drawn.rms)
    return dataclasses.replace(row, bound=max(row.bound, bounds.C * drawn.max), float32_simulated_rms=rms)


def _drawn(
    pair: Pair, fed: Fed, groups: Groups, mode: str, keys: Collection[tuple[str, str]]
) -> dict[tuple[str, str], Error]:
    """The largest errors that rounding, simulated several times, makes in some quantities."""
    stages = {stage for stage, _ in keys}
    own = tuple(kept for group in groups if (kept := tuple(row for row in group if row[0] in stages)))
    exact = quantities(pair.isolated(fed, "jax", "float64", {}, own, mode), own)
    seed = pair.seed if mode == "training" else None
    args = (pair.params_as("float64"), pair.inputs_as("float64"), *fed.as_dtype("float64"), seed, own)
    draws = [quantities(one, own) for one in pair.jax.redrawn(*args)]
    errors = {key: [_error(one[key], exact[key], fed, key) for one in draws] for key in keys}
    return {key: max(found, key=lambda one: one.max) for key, found in errors.items()}


def _error(found: np.ndarray, truth: np.ndarray, fed: Fed, key: tuple[str, str]) -> Error:
    """The error of a quantity; a product that has cancelled is held against its cotangent."""
    if key[1] == "output" or truth.size == 0:
        return error(found, truth)
    scale = float(np.abs(fed.cotangents[key[0]]).max())
    return error(found, truth, scale if float(np.abs(truth).max()) < _NOTHING * scale else None)


def groups(pair: Pair, fed: Fed, mode: str, only: Collection[str] | None = None) -> Groups:
    """Which stages' products are taken at once; what either side computes a stage from counts."""
    if only is not None and not only:
        return ()
    graph = pair.graph(mode)
    masks = pair.masks("float32") if mode == "training" else None
    theirs = pair.torch.parents(pair.params, pair.inputs, fed.inputs, masks)
    order = (*input_names(len(as_tuple(pair.inputs))), *graph.parents)
    parents = {
        stage: tuple(name for name in order if name in ours or name in theirs.get(stage, ()))
        for stage, ours in graph.parents.items()
        if only is None or stage in only
    }
    merged = dataclasses.replace(graph, parents=parents)
    return groups_of(merged, pair.jax.network.state, as_tuple(pair.inputs))


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
        whole = [a for a in whole if a not in wanted and _chance(mask.shape, a, wanted, pair, stage) < _NOTHING]
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


def _contraction_length(pair: Pair, graph: Graph, key: tuple[str, str]) -> int:
    stage, quantity = key
    given = dict(zip(input_names(len(as_tuple(pair.inputs))), (x.shape for x in as_tuple(pair.inputs)), strict=True))
    sizes = {**given, **graph.shapes}
    of = [name for name in graph.parents[stage] if quantity == f"vjp_input[{name}]"] or graph.parents[stage]
    in_shape = sizes[of[0]] if of else graph.shapes[stage]
    kernel = max((pair.params[name].shape for name in graph.params[stage]), key=len, default=None)
    pools = pair.torch.max_pools
    return bounds.contraction_length(
        quantity.partition("[")[0], in_shape, graph.shapes[stage], kernel, pools.get(stage)
    )


def _explained(
    pair: Pair, fed: Fed, exact: dict[tuple[str, str], np.ndarray] | None, groups: Groups, mode: str
) -> dict[tuple[str, str], Error]:
    """What simulated rounding does to the stages that `netparity.bounds` has no bound for, by stage and quantity.

    Args:
      pair, fed: the networks, and what every stage is fed.
      exact: the JAX side's quantities in float64; None where they are yet to be computed.
      groups: the stages.
      mode: of `MODES`.
    """
    graph = pair.graph(mode)
    plain = {name for name in pair.torch.plain | set(pair.jax.dropouts) if not _functions(pair, graph, name)}
    others = tuple(kept for group in groups if (kept := tuple(row for row in group if row[0] not in plain)))
    if not others:
        return {}
    if exact is None:
        exact = quantities(pair.isolated(fed, "jax", "float64", {}, others, mode), others)
    seed = pair.seed if mode == "training" else None
    moved = pair.jax.rounded(
        pair.params_as("float64"), pair.inputs_as("float64"), *fed.as_dtype("float64"), seed, others
    )
    return {key: _error(value, exact[key], fed, key) for key, value in quantities(moved, others).items()}


def _functions(pair: Pair, graph: Graph, stage: str) -> bool:
    """Whether a stage has more in it than the layer that PyTorch's module is: functions before it, say."""
    return bool(graph.primitives[stage] & bounds.FUNCTIONS - pair.torch.own_functions(stage))


def quantities(result: Isolated, groups: Groups) -> dict[tuple[str, str], np.ndarray]:
    """All arrays of a result by stage and quantity, stage by stage."""
    members = {stage: (parents, params) for group in groups for stage, parents, params in group}
    found = {}
    for stage, output in result.outputs.items():
        if stage not in members:
            continue
        found[stage, "output"] = output
        parents, params = members[stage]
        for name in parents:
            quantity = "vjp_input" if len(parents) == 1 else f"vjp_input[{name}]"
            found[stage, quantity] = result.products[stage, name]
        for name in params:
            found[stage, "vjp_" + name.removeprefix(f"{stage}.")] = result.products[stage, name]
    return found


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
            seed = pair.seed if mode == "training" else None
            again = functools.partial(pair.jax.gradients, *_nudged(pair), pair.labels_as("float64"), seed)
            yield from _judged(found, functools.partial(_named, again, said))
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


def _named(gradients: Callable[[], Gradients], said: str) -> dict[str, np.ndarray]:
    """Gradients under the names of the checks."""
    found = gradients()
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
    if output is None or not math.isfinite(worst) or true.size == 0 or float(np.abs(true).max()) >= _NOTHING * output:
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
