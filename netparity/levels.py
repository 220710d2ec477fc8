"""Levels 1 to 3 of the comparison: shapes, forward pass, loss and gradients of one pair of networks.

The stages of both networks must form a chain: each is computed from the one before.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np

from netparity import bounds
from netparity.jax_side import Isolated, JaxSide
from netparity.measure import Arrays, Error, ParityError, error, require_same_names
from netparity.results import Check, Flips, StageResult, check, failures, reported
from netparity.torch_side import TorchSide

DTYPES = ("float64", "float32")
_NOTHING = 1e-6  # a gradient that is smaller than its stage's output's by so much has cancelled
_NOT_JUDGED = "not judged: one choice that flips at a near-tie changes it by far more than rounding does"


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two sides and what both are fed.

    Attributes:
      jax, torch: the sides.
      params: by common name, in float32.
      images: float32 ``[batch, height, width, channel]``.
      labels: int ``[batch]``.
      seed: of dropout and of the random cotangents.
    """

    jax: JaxSide
    torch: TorchSide
    params: Arrays
    images: np.ndarray
    labels: np.ndarray
    seed: int = 0

    def params_as(self, dtype: str) -> Arrays:
        """The parameters in a dtype."""
        return {name: value.astype(dtype) for name, value in self.params.items()}

    def masks(self, dtype: str) -> Arrays:
        """The dropout masks that the JAX side draws in a dtype."""
        if not self.jax.dropouts:
            return {}
        return self.jax.masks(self.params_as(dtype), self.images.astype(dtype), self.seed)


def stage_of(parameter: str, stages: Iterable[str]) -> str:
    """The stage that a parameter belongs to: the longest name that the parameter's begins with.

    Raises:
      ParityError: if there is none.

    >>> stage_of("block1.conv.kernel", ["block1", "block1.conv", "block1.conv2"])
    'block1.conv'
    """
    owners = [stage for stage in stages if parameter.startswith(f"{stage}.")]
    if not owners:
        raise ParityError(f"the parameter {parameter} belongs to no stage: a parameter's name begins with its stage's")
    return max(owners, key=len)


def network(pair: Pair, dtypes: Collection[str] = DTYPES) -> tuple[list[StageResult], list[Check], list[Flips]]:
    """All three levels; stops after the shapes if they differ.

    Returns:
      every stage in isolation, the other checks, and the choices that float32 flips.

    Raises:
      ParityError: if the two sides' stages or parameters have different names.
    """
    checks = list(shapes(pair))
    if failures(checks):
        return [], checks, []
    truth = pair.torch.forward(pair.params_as("float64"), pair.images.astype(np.float64))
    alone = layers(pair, feed(truth, pair.seed), dtypes)
    checks += forward(pair, dtypes, truth)
    checks += gradients(pair, dtypes)
    cumulative = {c.stage: c.error for c in checks if c.level == "forward" and c.dtype == "float64"}
    alone = [
        dataclasses.replace(row, float64_cumulative_error=cumulative.get(row.stage))
        if row.quantity == "output"
        else row
        for row in alone
    ]
    return alone, checks, flips(pair, truth) if "float32" in dtypes else []


def shapes(pair: Pair) -> Iterator[Check]:
    """Level 1: the shape of every stage, each fed a right one.

    Raises:
      ParityError: if the two sides' stages have different names.
    """
    found = pair.jax.shapes(pair.params, pair.images)
    require_same_names(found, pair.torch.stages, "stages")
    reference = pair.torch.shapes(pair.params, pair.images, found)
    for ours, theirs in zip(found, reference, strict=False):  # the reference ends where it cannot go on
        if ours != theirs:
            note = f"the order differs: JAX {', '.join(found)}; PyTorch {', '.join(reference)}"
            yield Check("shapes", theirs, "order of the stages", False, note=note)
            return
        same = found[ours] == reference[theirs]
        note = "" if same else f"JAX {list(found[ours])}, PyTorch {list(reference[theirs])}"
        yield Check("shapes", ours, ours, same, note=note)
    for name in list(found)[len(reference) :]:
        yield Check("shapes", name, name, False, note="PyTorch never gets there")


@dataclasses.dataclass(frozen=True)
class Fed:
    """What every stage is fed in isolation, exactly representable in float32: activations and cotangents by stage."""

    inputs: Arrays
    cotangents: Arrays


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


def isolated(pair: Pair, fed: Fed, side: str, dtype: str, masks: Arrays) -> Isolated:
    """One side's stages in isolation, in a dtype; ``masks`` are the PyTorch side's."""
    params, images = pair.params_as(dtype), pair.images.astype(dtype)
    inputs = {name: value.astype(dtype) for name, value in fed.inputs.items()}
    cotangents = {name: value.astype(dtype) for name, value in fed.cotangents.items()}
    if side == "jax":
        return pair.jax.isolated(params, images, inputs, cotangents, pair.seed)
    return pair.torch.isolated(params, images, inputs, cotangents, masks)


def layers(pair: Pair, fed: Fed, dtypes: Collection[str]) -> list[StageResult]:
    """Level 2 and 3 in isolation: every stage's output and vector-Jacobian products, fed the reference's input."""
    by_dtype: dict[str, dict[tuple[str, str], tuple[Error, Error, tuple[int, ...]]]] = {}
    exact = None  # what the JAX side gives in float64, if that was asked for
    for dtype in DTYPES:
        if dtype not in dtypes:
            continue
        masks = pair.masks(dtype)
        truth = quantities(isolated(pair, fed, "torch", "float64", masks))
        jax = quantities(isolated(pair, fed, "jax", dtype, masks))
        require_same_names(jax, truth)
        exact = jax if dtype == "float64" else exact
        torch = quantities(isolated(pair, fed, "torch", "float32", masks)) if dtype == "float32" else truth
        by_dtype[dtype] = {
            key: (error(jax[key], truth[key]), error(torch[key], truth[key]), truth[key].shape) for key in truth
        }
    in_shapes = dict(zip(fed.inputs, [pair.images.shape, *(v.shape for v in fed.inputs.values())], strict=False))
    kernels: dict[str, tuple[int, ...]] = {}  # of each stage's parameters, the shape with most axes
    for name, value in pair.params.items():
        stage = stage_of(name, fed.inputs)
        kernels[stage] = max(kernels.get(stage, ()), value.shape, key=len)
    pools = pair.torch.max_pools
    explained = _explained(pair, fed, exact) if "float32" in dtypes else {}
    rows = []
    for key in next(iter(by_dtype.values())):
        stage, quantity = key
        shape = fed.inputs[stage].shape
        n = bounds.contraction_length(quantity, in_shapes[stage], shape, kernels.get(stage), pools.get(stage))
        found = {dtype: errors[key] for dtype, errors in by_dtype.items()}
        row = StageResult(stage, quantity, next(iter(found.values()))[2], n, bounds.bound(n))
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
    return rows


def _explained(pair: Pair, fed: Fed, exact: dict[tuple[str, str], np.ndarray] | None) -> dict[tuple[str, str], Error]:
    """What simulated rounding does to the stages that `netparity.bounds` has no bound for, by stage and quantity.

    Args:
      exact: the JAX side's quantities in float64; None where they are yet to be computed.
    """
    others = set(fed.inputs) - pair.torch.plain - set(pair.jax.dropouts)
    if not others:
        return {}
    params, images = pair.params_as("float64"), pair.images.astype(np.float64)
    inputs = {name: value.astype(np.float64) for name, value in fed.inputs.items()}
    cotangents = {name: value.astype(np.float64) for name, value in fed.cotangents.items()}
    if exact is None:
        exact = quantities(pair.jax.isolated(params, images, inputs, cotangents, pair.seed))
    moved = quantities(pair.jax.rounded(params, images, inputs, cotangents, pair.seed))
    return {key: error(moved[key], exact[key]) for key in exact if key[0] in others}


def quantities(result: Isolated) -> dict[tuple[str, str], np.ndarray]:
    """All arrays of a result by stage and quantity, stage by stage.

    Raises:
      ParityError: for a parameter whose name begins with no stage.
    """
    by_stage: dict[str, dict[str, np.ndarray]] = {
        stage: {"output": out, "vjp_input": result.vjp_inputs[stage]} for stage, out in result.outputs.items()
    }
    for name, value in result.vjp_params.items():
        stage = stage_of(name, by_stage)
        by_stage[stage]["vjp_" + name.removeprefix(f"{stage}.")] = value
    return {(stage, quantity): value for stage, all_of in by_stage.items() for quantity, value in all_of.items()}


def forward(pair: Pair, dtypes: Collection[str], truth: Arrays) -> Iterator[Check]:
    """Level 2, cumulative, in evaluation mode; ``truth`` is the PyTorch side in float64."""
    for dtype in dtypes:
        jax = pair.jax.forward(pair.params_as(dtype), pair.images.astype(dtype))
        require_same_names(jax, truth, "stages")
        for name in truth:
            worst = error(jax[name], truth[name])
            if dtype == "float64":
                yield check("forward", name, name, worst.max, bounds.FLOAT64_LIMIT)
            else:
                yield reported("forward", name, name, worst.max, dtype, f"JAX, {worst.ulps:.1f} ulps; not judged")


def gradients(pair: Pair, dtypes: Collection[str]) -> Iterator[Check]:
    """Level 3, cumulative, in training mode with the same dropout masks: loss, activations, parameters."""
    for dtype in dtypes:
        masks, labels = pair.masks(dtype), pair.labels
        truth = pair.torch.gradients(pair.params_as("float64"), pair.images.astype(np.float64), labels, masks)
        jax = pair.jax.gradients(pair.params_as(dtype), pair.images.astype(dtype), labels, pair.seed)
        require_same_names(jax.params, truth.params, "parameters")
        require_same_names(jax.activations, truth.activations, "stages")
        wanted = [("loss", "loss", np.array(jax.loss), np.array(truth.loss))]
        # From the last stage back: an error in a gradient spreads towards the first.
        wanted += [
            (n, f"d loss / d {n}", jax.activations[n], truth.activations[n]) for n in reversed(truth.activations)
        ]
        stages = list(truth.activations)
        wanted += [(stage_of(n, stages), f"d loss / d {n}", jax.params[n], truth.params[n]) for n in truth.params]
        for stage, name, found, true in wanted:
            worst = error(found, true).max
            if name.removeprefix("d loss / d ") in truth.params and math.isfinite(worst):
                worst = _of_nothing(found, true, truth.activations[stage], worst)
            if dtype == "float64":
                yield check("gradients", stage, name, worst, bounds.FLOAT64_LIMIT)
            else:
                yield reported("gradients", stage, name, worst, dtype, f"JAX; {_NOT_JUDGED}")
        if dtype == "float32":
            torch = pair.torch.gradients(pair.params_as(dtype), pair.images, labels, masks)
            for name in truth.params:
                worst = error(torch.params[name], truth.params[name]).max
                yield reported(
                    "gradients", stage_of(name, stages), f"d loss / d {name}", worst, dtype, f"PyTorch; {_NOT_JUDGED}"
                )


def _of_nothing(found: np.ndarray, true: np.ndarray, output: np.ndarray, worst: float) -> float:
    """The error of a parameter's gradient that is zero but for rounding, such as a bias's before a normalisation.

    Its own scale is rounding, too, so it is held against the gradient of its stage's output, whose sum it is.
    """
    scale = float(np.abs(output).max())
    if float(np.abs(true).max()) >= _NOTHING * scale:
        return worst
    return float(np.abs(found.astype(np.float64) - true).max()) / scale


def flips(pair: Pair, truth: Arrays) -> list[Flips]:
    """How many choices of the cumulative float32 forward pass differ from the float64 truth, on each side."""
    true = pair.torch.choices(truth)
    sides = {
        "jax": pair.jax.forward(pair.params, pair.images),
        "torch": pair.torch.forward(pair.params, pair.images),
    }
    return [
        Flips(stage, side, int((choice != true[stage]).sum()), choice.size)
        for side, seen in sides.items()
        for stage, choice in pair.torch.choices(seen).items()
    ]
