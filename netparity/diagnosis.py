"""When something differs: which known mistake, on which side, gives exactly the numbers that were found."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from netparity import explanations, isolation, pairs
from netparity.explanations import Explanation
from netparity.measure import error
from netparity.pairs import Pair
from netparity.results import Check, StageResult

_SAME = 1e-9  # an explanation fits when nothing is left of the difference but rounding
_TOLD = ("dropout", "state")  # levels whose checks say themselves what is wrong
_SIDES = {"jax": "JAX", "torch": "PyTorch"}

# What each side gave: arrays by name, by ``"jax"`` and ``"torch"``.
Found = Mapping[str, Mapping[Any, np.ndarray]]
# By stage that is none of the networks' own, such as an optimizer: names the known mistake that explains it, if any.
Others = Mapping[str, Callable[[], str | None]]


def diagnose(failure: StageResult | Check, pair: Pair, others: Others | None = None) -> str | None:
    """The known mistake under which the difference vanishes.

    Args:
      failure: the first thing that did not pass.
      pair: the two sides and what they were fed.
      others: what explains failures of other stages than the networks'.

    Returns:
      ``"PyTorch: padding 0 for 1"``, naming the side whose numbers the mistake gives; None where no known one does.
    """
    if isinstance(failure, StageResult) and failure.float64_passed:
        worst = max(failure.float32_jax_max or 0, failure.float32_torch_max or 0)
        if worst <= failure.bound:  # one side errs less than the other: no sign of a coarser number
            return None
        side = "JAX" if worst == failure.float32_jax_max else "PyTorch"
        return f"{side}: rounds more coarsely than float32, while float64 agrees (TF32, bfloat16?)"
    level = failure.level if isinstance(failure, Check) else None
    if level in _TOLD:
        return None
    evaluation = level == "forward" or (isinstance(failure, StageResult) and failure.mode == "evaluation")
    if evaluation and failure.stage in pair.jax.dropouts:
        return _evaluation_dropout(failure.stage, pair)
    if failure.stage in pair.torch.stages:
        mode = failure.mode if isinstance(failure, StageResult) else "training"
        return _shapes(failure.stage, pair) if level == "shapes" else _layer(failure.stage, pair, mode)
    if failure.stage == "loss":
        return _loss(pair)
    return others[failure.stage]() if others and failure.stage in others else None


def describe(failure: StageResult | Check, pair: Pair, others: Others | None = None) -> str:
    """One line: the first diverging stage, and the known mistake under which the difference vanishes."""
    explanation = diagnose(failure, pair, others)
    what = failure.quantity if isinstance(failure, StageResult) else failure.name
    said = failure.note if isinstance(failure, Check) and failure.level in _TOLD else ""
    return f"first diverging stage: {failure.stage} ({what}); " + (
        f"the difference vanishes under: {explanation}" if explanation else said or "no known mistake explains it"
    )


def match(found: Found, known: Iterable[Explanation], limit: float = _SAME) -> str | None:
    """The first explanation that gives one side's numbers and not the other's, and not the plain ones.

    Args:
      found: what each side gave.
      known: each computes, without arguments, some of the arrays that were found.
      limit: largest error, relative to an array's scale, with which an explanation still fits.

    Returns:
      ``"PyTorch: bias left out"``, or None where nothing fits.
    """
    plain: Mapping[Any, np.ndarray] = {}
    for one in sorted(known, key=lambda one: not one.is_plain):
        try:
            made = one.compute()
        except (RuntimeError, ValueError, IndexError):  # it does not fit these shapes
            continue
        if one.is_plain:
            plain = made
            continue
        fits = [side for side, seen in found.items() if _equal(seen, made, limit)]
        if len(fits) == 1 and not (plain and _equal(plain, made, limit)):
            return f"{_SIDES[fits[0]]}: {one.text}"
    return None


def _equal(seen: Mapping[Any, np.ndarray], made: Mapping[Any, np.ndarray], limit: float) -> bool:
    return all(
        seen[key].shape == made[key].shape and error(seen[key], made[key]).max <= limit for key in made if key in seen
    )


def _with(known: Iterable[Explanation], numbers: Callable[[Any], Mapping[Any, np.ndarray]]) -> Iterable[Explanation]:
    """The same explanations, each of which computes the ``numbers`` of what it computed before."""
    return [dataclasses.replace(one, compute=functools.partial(numbers, one.compute)) for one in known]


def _layer(stage: str, pair: Pair, mode: str = "training") -> str | None:
    """Tries the explanations of one stage on its isolated output and vector-Jacobian products, in float64."""
    truth = pair.torch.forward(pair.params_as("float64"), pair.inputs_as("float64"))
    fed, masks = pairs.feed(truth, pair.seed), pair.masks("float64")
    groups = isolation.groups(pair, fed, mode, [stage])
    found = {}
    for side in _SIDES:
        everything = isolation.quantities(pair.isolated(fed, side, "float64", masks, groups, mode), groups)
        found[side] = {quantity: value for (_, quantity), value in everything.items()}
    graph = pair.graph(mode)
    if len(graph.parents[stage]) != 1:
        return None
    x = values(pair, fed.inputs)[graph.parents[stage][0]].astype(np.float64)
    cotangent = fed.cotangents[stage].astype(np.float64)
    params = {
        name.removeprefix(f"{stage}."): value
        for name, value in pair.params_as("float64").items()
        if name in graph.params[stage]
    }
    known = _known(pair.torch.modules[stage], params.get("kernel"), masks.get(stage))
    return match(found, _with(known, lambda layer: _products(layer, x, params, cotangent)))


def values(pair: Pair, by_stage: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Stages' values and the inputs, by name."""
    return {**pair.named_inputs(), **by_stage}


def _known(module: nn.Module, kernel: np.ndarray | None, mask: np.ndarray | None) -> Iterable[Explanation]:
    """What is tried on a stage."""
    if kernel is not None and kernel.ndim == 4:
        size = kernel.shape[0]
        if not isinstance(module, nn.Conv2d):
            return explanations.convolutions(size, 1, size // 2)
        padding = size // 2 if isinstance(module.padding, str) else int(module.padding[0])
        return explanations.convolutions(size, module.stride[0], padding, module.dilation[0])
    if kernel is not None:
        return explanations.dense() if kernel.ndim == 2 else ()
    if mask is not None:
        return explanations.dropouts(_turned(mask).numpy())
    if isinstance(module, nn.LocalResponseNorm):
        return explanations.local_response_normalisations()
    return [
        *explanations.relus(isinstance(module, nn.ReLU)),
        *explanations.poolings(_max_pool(module) if isinstance(module, nn.MaxPool2d) else None),
        *explanations.local_response_normalisations(),
    ]


def _max_pool(module: nn.MaxPool2d) -> explanations.MaxPool:
    window, stride, padding = (_one(value) for value in (module.kernel_size, module.stride, module.padding))
    return explanations.MaxPool(window, stride, padding, module.ceil_mode)


def _products(layer: Any, x: np.ndarray, params: Mapping[str, np.ndarray], cotangent: np.ndarray) -> dict[str, Any]:
    """A layer's output and vector-Jacobian products in the common layout."""
    tensor = _turned(x).requires_grad_()
    kernel = params.get("kernel")
    if kernel is None:
        weight = torch.zeros(1, dtype=torch.float64)
    elif kernel.ndim == 4:
        weight = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    else:
        rows = kernel.reshape(*x.shape[1:], -1) if x.ndim == 4 else kernel
        weight = torch.from_numpy(np.moveaxis(rows, -1, 0).copy())
        weight = weight.permute(0, 3, 1, 2).flatten(1) if x.ndim == 4 else weight
    weight = weight.clone().requires_grad_()
    bias = torch.from_numpy(np.array(params.get("bias", np.zeros(1)))).requires_grad_()
    out = layer(tensor, weight, bias)
    grads = torch.autograd.grad(out, [tensor, weight, bias], _turned(cotangent), allow_unused=True)
    made = {"output": _back(out)}
    made["vjp_input"] = np.zeros_like(x) if grads[0] is None else _back(grads[0])
    if "bias" in params:
        made["vjp_bias"] = np.zeros_like(params["bias"]) if grads[2] is None else grads[2].numpy()
    if kernel is not None and grads[1] is None:
        made["vjp_kernel"] = np.zeros_like(kernel)
    elif kernel is not None and kernel.ndim == 4:
        made["vjp_kernel"] = grads[1].numpy().transpose(2, 3, 1, 0)
    elif kernel is not None:
        grad = grads[1]
        if x.ndim == 4:
            grad = grad.unflatten(1, (x.shape[3], *x.shape[1:3])).permute(0, 2, 3, 1).flatten(1)
        made["vjp_kernel"] = grad.numpy().T
    return made


def _turned(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array.transpose(0, 3, 1, 2) if array.ndim == 4 else array, order="C"))


def _back(tensor: torch.Tensor) -> np.ndarray:
    array = tensor.detach().numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def _shapes(stage: str, pair: Pair) -> str | None:
    """Which one change of the PyTorch stage gives the JAX stage's size: the sides differ by that."""
    ours = pair.jax.shapes(pair.params, pair.inputs)
    theirs = pair.torch.shapes(pair.params, pair.inputs, ours)
    if stage in theirs and list(theirs).index(stage) != list(ours).index(stage):
        return f"{stage} stands elsewhere in the network"
    parents = pair.graph("evaluation").parents[stage]
    if len(parents) != 1 or stage not in theirs:
        return None
    in_hw = {**{name: x.shape for name, x in pair.named_inputs().items()}, **ours}[parents[0]][1:3]
    module, wanted = pair.torch.modules[stage], ours[stage][1:3]
    if not isinstance(module, nn.Conv2d | nn.MaxPool2d) or len(wanted) != 2 or isinstance(module.padding, str):
        return None
    kernel, stride, padding = (_one(v) for v in (module.kernel_size, module.stride, module.padding))
    kernel = _one(module.dilation) * (kernel - 1) + 1  # what it extends over

    def size(k: int, s: int, p: int, up: bool = False) -> tuple[int, ...]:
        return tuple(-(-(n - k + 2 * p) // s) + 1 if up else (n - k + 2 * p) // s + 1 for n in in_hw)

    up = bool(getattr(module, "ceil_mode", False))
    candidates = [(f"sizes rounded {'down' if up else 'up'}", size(kernel, stride, padding, not up))]
    candidates += [(f"padding {p} for {padding}", size(kernel, stride, p)) for p in range(6) if p != padding]
    candidates += [(f"stride {s} for {stride}", size(kernel, s, padding)) for s in range(1, 6) if s != stride]
    candidates += [(f"window {k} for {kernel}", size(k, stride, padding)) for k in range(1, 12) if k != kernel]
    candidates += [('"SAME" padding', tuple(-(-n // stride) for n in in_hw))]
    if size(kernel, stride, padding, up) == wanted:  # JAX has what PyTorch's attributes say: explain PyTorch's
        side, wanted = "PyTorch", theirs[stage][1:3]
    else:
        side = "JAX"
    return next((f"{side}: {text}" for text, made in candidates if made == wanted), None)


def _one(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


def _evaluation_dropout(stage: str, pair: Pair) -> str | None:
    """In evaluation mode a dropout gives what it gets."""
    params, inputs = pair.params_as("float64"), pair.inputs_as("float64")
    parents = pair.graph("training").parents[stage]
    for side, seen in (("JAX", pair.jax.forward(params, inputs)), ("PyTorch", pair.torch.forward(params, inputs))):
        before = values(pair, seen)[parents[0]]
        if before.shape == seen[stage].shape and error(seen[stage], before).max > _SAME:
            return f"{side}: dropout active in evaluation mode"
    return None


def _loss(pair: Pair) -> str | None:
    arrays, inputs = pair.params_as("float64"), pair.inputs_as("float64")
    masks = pair.masks("float64")
    found = {side: {"loss": np.array(pair.gradients(side, "float64", masks, "training").loss)} for side in _SIDES}
    outputs = torch.from_numpy(list(pair.torch.forward(arrays, inputs, masks).values())[-1])
    if not isinstance(pair.labels, np.ndarray) or outputs.ndim != 2:
        return None
    labels = torch.from_numpy(pair.labels).long()
    return match(found, _with(explanations.losses(), lambda loss: {"loss": loss(outputs, labels).numpy()}))
