"""Every stage of two networks by itself: fed the same inputs on both sides, in float64 and in float32."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping

import numpy as np

from netparity import bounds
from netparity.graph import Graph
from netparity.jax_side import Groups, Isolated, as_tuple, groups_of
from netparity.measure import Error, error, require_same_names, ulp_histogram
from netparity.pairs import DTYPES, Fed, Pair
from netparity.results import Histogram, StageResult


def modal(pair: Pair, fed: Fed) -> set[str]:
    """The stages that are otherwise in training than in evaluation, on either side."""
    training, evaluation = pair.graph("training"), pair.graph("evaluation")
    found = {name for name, used in training.primitives.items() if used != evaluation.primitives.get(name)}
    args = (pair.params, pair.inputs, fed.inputs, fed.cotangents)
    one, other = pair.torch.isolated(*args, pair.masks("float32")), pair.torch.isolated(*args)
    return found | {name for name, x in one.outputs.items() if not np.array_equal(x, other.outputs[name])}


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
    graph, pools = pair.graph(mode), pair.torch.max_pools
    by_dtype: dict[str, dict[tuple[str, str], tuple[Error, Error, tuple[int, ...]]]] = {}
    exact = None  # what the JAX side gives in float64, if that was asked for
    truth: dict[tuple[str, str], np.ndarray] = {}
    histograms: dict[tuple[str, str], Histogram] = {}
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
        if dtype == "float32":
            histograms = {
                key: Histogram(ulp_histogram(jax[key], true), ulp_histogram(torch[key], true))
                for key, true in truth.items()
                if key[1] == "output"
            }
    explained = _explained(pair, fed, exact, members, mode) if "float32" in dtypes else {}
    rows = []
    for key in next(iter(by_dtype.values())):
        found = {dtype: errors[key] for dtype, errors in by_dtype.items()}
        n = _contraction_length(pair, graph, pools, key)
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
                histogram=histograms.get(key),
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
    return error(found, truth, scale if float(np.abs(truth).max()) < bounds.CANCELLED * scale else None)


def groups(pair: Pair, fed: Fed, mode: str, only: Collection[str] | None = None) -> Groups:
    """Which stages' products are taken at once; what either side computes a stage from counts."""
    if only is not None and not only:
        return ()
    graph = pair.graph(mode)
    masks = pair.masks("float32") if mode == "training" else None
    theirs = pair.torch.parents(pair.params, pair.inputs, fed.inputs, masks)
    order = (*pair.named_inputs(), *graph.parents)
    parents = {
        stage: tuple(name for name in order if name in ours or name in theirs.get(stage, ()))
        for stage, ours in graph.parents.items()
        if only is None or stage in only
    }
    merged = dataclasses.replace(graph, parents=parents)
    return groups_of(merged, pair.jax.network.state, as_tuple(pair.inputs))


def torch_parents(pair: Pair, stages: Collection[str], mode: str) -> dict[str, tuple[str, ...]]:
    """What PyTorch computes some stages from, as far as gradients go, where that is not what JAX computes them from.

    No gradient goes to integer inputs: they are taken to be those of JAX.

    Args:
      pair: the networks; all their stages are of the same shapes.
      stages: which.
      mode: of `MODES`.
    """
    graph = pair.graph(mode)
    fed = {name: np.zeros(shape, np.float32) for name, shape in graph.shapes.items()}
    masks = pair.masks("float32") if mode == "training" else None
    theirs = pair.torch.parents(pair.params, pair.inputs, fed, masks)
    inputs = pair.named_inputs()
    found = {}
    for stage in stages:
        ours = graph.parents[stage]
        known = {*theirs.get(stage, ()), *(name for name in ours if name in inputs and inputs[name].dtype.kind != "f")}
        if known != set(ours):
            found[stage] = tuple(name for name in (*inputs, *graph.parents) if name in known)
    return found


def _contraction_length(pair: Pair, graph: Graph, pools: Mapping[str, tuple[int, int]], key: tuple[str, str]) -> int:
    stage, quantity = key
    sizes = {**{name: x.shape for name, x in pair.named_inputs().items()}, **graph.shapes}
    of = [name for name in graph.parents[stage] if quantity == f"vjp_input[{name}]"] or graph.parents[stage]
    in_shape = sizes[of[0]] if of else graph.shapes[stage]
    kernel = max((pair.params[name].shape for name in graph.params[stage]), key=len, default=None)
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
