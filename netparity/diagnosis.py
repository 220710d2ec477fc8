"""When something differs: which known mistake, on which side, gives exactly the numbers that were found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from netparity import explanations, levels
from netparity.levels import Pair
from netparity.measure import error
from netparity.results import Check, StageResult
from parity_tests.alexnet import data as data_level
from parity_tests.alexnet import optimizer as optimizer_level

_SAME = 1e-9  # an explanation fits when nothing is left of the difference but rounding
_SIDES = {"jax": "JAX", "torch": "PyTorch"}
Found = dict[str, Mapping[Any, np.ndarray]]  # by side


def diagnose(failure: StageResult | Check, pair: Pair, programs: Any = None, seed: int = 0) -> str | None:
    """The known mistake under which the difference vanishes.

    Args:
      failure: the first thing that did not pass.
      pair: the two sides and what they were fed.
      programs: the other pieces of both sides, where there are any.

    Returns:
      ``"PyTorch: padding 0 for 1"``, naming the side that the mistake gives the numbers of; None where nothing known
      fits.
    """
    if isinstance(failure, StageResult) and failure.float64_passed:
        side = "JAX" if (failure.float32_jax_max or 0) > (failure.float32_torch_max or 0) else "PyTorch"
        return f"{side}: rounds more coarsely than float32, while float64 agrees (TF32, bfloat16?)"
    if _is(failure, "forward") and failure.stage in pair.jax.dropouts:
        return _evaluation_dropout(failure.stage, pair)
    if failure.stage in pair.torch.stages:
        return _shapes(failure, pair) if _is(failure, "shapes") else _layer(failure.stage, pair, seed)
    if failure.stage == "loss":
        return _loss(pair)
    if programs is None:
        return None
    if failure.stage == "normalisation":
        return _normalisation(programs)
    scenario = next((one for one in optimizer_level.SCENARIOS if one.name == failure.stage), None)
    return None if scenario is None else _optimizer(programs, scenario)


def describe(failure: StageResult | Check, pair: Pair, programs: Any = None, seed: int = 0) -> str:
    """One line: the first diverging stage, and the known mistake under which the difference vanishes."""
    explanation = diagnose(failure, pair, programs, seed)
    what = failure.quantity if isinstance(failure, StageResult) else failure.name
    return f"first diverging stage: {failure.stage} ({what}); " + (
        f"the difference vanishes under: {explanation}" if explanation else "no known mistake explains it"
    )


def _is(failure: StageResult | Check, level: str) -> bool:
    return isinstance(failure, Check) and failure.level == level


def _match(found: Found, known: Iterable[tuple[str, Callable[[], Mapping[Any, np.ndarray]]]]) -> str | None:
    """The first explanation that gives one side's numbers and not the other's, and not the plain ones."""
    plain: Mapping[Any, np.ndarray] = {}
    for text, numbers in sorted(known, key=lambda one: not one[0].startswith("plain")):
        try:
            made = numbers()
        except (RuntimeError, ValueError, IndexError):  # it does not fit these shapes
            continue
        if text.startswith("plain"):
            plain = made
            continue
        fits = [side for side, seen in found.items() if _equal(seen, made)]
        if len(fits) == 1 and not (plain and _equal(plain, made)):
            return f"{_SIDES[fits[0]]}: {text}"
    return None


def _equal(seen: Mapping[Any, np.ndarray], made: Mapping[Any, np.ndarray]) -> bool:
    return all(
        seen[key].shape == made[key].shape and error(seen[key], made[key]).max <= _SAME for key in made if key in seen
    )


def _layer(stage: str, pair: Pair, seed: int) -> str | None:
    """Tries the explanations of one stage on its isolated output and vector-Jacobian products, in float64."""
    truth = pair.torch.forward(pair.params_as("float64"), pair.images.astype(np.float64))
    fed, masks = levels.feed(truth, seed), pair.masks("float64")
    found: Found = {}
    for side in _SIDES:
        everything = levels.quantities(levels.isolated(pair, fed, side, "float64", masks))
        found[side] = {quantity: value for (name, quantity), value in everything.items() if name == stage}
    names = list(fed.inputs)
    before = names.index(stage) - 1
    x = (pair.images if before < 0 else fed.inputs[names[before]]).astype(np.float64)
    cotangent = fed.cotangents[stage].astype(np.float64)
    params = {n.removeprefix(f"{stage}."): v for n, v in pair.params_as("float64").items() if n.startswith(f"{stage}.")}
    module = pair.torch.stages[stage]
    known: Iterable[tuple[str, explanations.Operation]]
    if "kernel" in params and params["kernel"].ndim == 4:
        size = params["kernel"].shape[0]
        explicit = isinstance(module, nn.Conv2d) and not isinstance(module.padding, str)
        stride = module.stride[0] if isinstance(module, nn.Conv2d) else 1
        known = explanations.convolutions(size, stride, int(module.padding[0]) if explicit else size // 2)
    elif "kernel" in params:
        known = explanations.dense()
    elif stage in masks:
        known = explanations.dropouts(masks[stage])
    else:
        known = _with_plain(explanations.parameterless(), module)
    return _match(found, [(text, lambda layer=layer: _products(layer, x, params, cotangent)) for text, layer in known])


def _with_plain(known: Iterable[tuple[str, Any]], module: nn.Module) -> list[tuple[str, Any]]:
    """The stage's own published form is no mistake: it is called plain."""
    if isinstance(module, nn.ReLU):
        return [("plain" if text == "ReLU" else text, layer) for text, layer in known]
    if isinstance(module, nn.MaxPool2d):
        plain = f"max-pool {module.kernel_size}/{module.stride}, padding {module.padding}"
        return [("plain" if text == plain else text, layer) for text, layer in known]
    if isinstance(module, nn.LocalResponseNorm):
        return [one for one in known if one[0].startswith("LRN")]
    return list(known)


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


def _shapes(failure: StageResult | Check, pair: Pair) -> str | None:
    """Which one change of the PyTorch stage gives the JAX stage's size: the sides differ by that."""
    fed = pair.jax.shapes(pair.params, pair.images)
    names = list(fed)
    if isinstance(failure, Check) and failure.name == "order of the stages":
        return f"{failure.stage} stands elsewhere in the network"
    before = names.index(failure.stage) - 1
    in_hw = (pair.images.shape if before < 0 else fed[names[before]])[1:3]
    module, wanted = pair.torch.stages[failure.stage], fed[failure.stage][1:3]
    if not isinstance(module, nn.Conv2d | nn.MaxPool2d) or len(wanted) != 2 or isinstance(module.padding, str):
        return None
    kernel, stride, padding = (_one(v) for v in (module.kernel_size, module.stride, module.padding))

    def size(k: int, s: int, p: int, up: bool = False) -> tuple[int, ...]:
        return tuple(-(-(n - k + 2 * p) // s) + 1 if up else (n - k + 2 * p) // s + 1 for n in in_hw)

    up = bool(getattr(module, "ceil_mode", False))
    candidates = [(f"sizes rounded {'down' if up else 'up'}", size(kernel, stride, padding, not up))]
    candidates += [(f"padding {p} for {padding}", size(kernel, stride, p)) for p in range(6) if p != padding]
    candidates += [(f"stride {s} for {stride}", size(kernel, s, padding)) for s in range(1, 6) if s != stride]
    candidates += [(f"window {k} for {kernel}", size(k, stride, padding)) for k in range(1, 12) if k != kernel]
    candidates += [('"SAME" padding', tuple(-(-n // stride) for n in in_hw))]
    if size(kernel, stride, padding, up) == tuple(wanted):  # JAX has what PyTorch's attributes say: explain PyTorch's
        side, wanted = "PyTorch", pair.torch.shapes(pair.params, pair.images, fed)[failure.stage][1:3]
    else:
        side = "JAX"
    return next((f"{side}: {text}" for text, made in candidates if made == tuple(wanted)), None)


def _one(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


def _evaluation_dropout(stage: str, pair: Pair) -> str | None:
    """In evaluation mode a dropout gives what it gets."""
    params, images = pair.params_as("float64"), pair.images.astype(np.float64)
    for side, seen in (("JAX", pair.jax.forward(params, images)), ("PyTorch", pair.torch.forward(params, images))):
        names = list(seen)
        if error(seen[stage], seen[names[names.index(stage) - 1]]).max > _SAME:
            return f"{side}: dropout active in evaluation mode"
    return None


def _loss(pair: Pair) -> str | None:
    params, images = pair.params_as("float64"), pair.images.astype(np.float64)
    masks, seed = pair.masks("float64"), pair.seed if pair.jax.dropouts else None
    found: Found = {
        "jax": {"loss": np.array(pair.jax.gradients(params, images, pair.labels, seed).loss)},
        "torch": {"loss": np.array(pair.torch.gradients(params, images, pair.labels, masks).loss)},
    }
    logits = torch.from_numpy(list(pair.torch.forward(params, images, masks or {}).values())[-1])
    known = explanations.losses(logits, torch.from_numpy(pair.labels).long())
    return _match(found, [(text, lambda value=value: {"loss": np.array(value)}) for text, value in known])


def _normalisation(programs: Any) -> str | None:
    images = data_level.load_digits().splits.train.images[:4]
    pixels = np.stack([images[..., 0], images[:, ::-1, :, 0], images[:, :, ::-1, 0]], -1)  # three different channels
    mean, std = np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.25, 0.3])
    found: Found = {
        side: {"pixels": np.asarray(program.normalize(pixels, mean, std), np.float64)}
        for side, program in zip(_SIDES, programs, strict=True)
    }
    for text, made in explanations.normalisations(pixels, mean, std):
        fits = [side for side, seen in found.items() if error(seen["pixels"], made).max <= 1e-6]
        if len(fits) == 1 and text != "plain":
            return f"{_SIDES[fits[0]]}: {text}"
    return None


def _optimizer(programs: Any, scenario: optimizer_level.Scenario) -> str | None:
    found: Found = {}
    for side, steps, program in zip(
        _SIDES, (optimizer_level.jax_steps, optimizer_level.torch_steps), programs, strict=True
    ):
        rows = steps(program, scenario, "float64")
        found[side] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    known = [(text, lambda step=step: _simulated(step, scenario, 0)) for text, step in explanations.optimizers()]
    plain = next(iter(explanations.optimizers()))[1]
    known += [
        (f"schedule one step {word}", lambda shift=shift: _simulated(plain, scenario, shift))
        for word, shift in (("early", 1), ("late", -1))
    ]
    return _match(found, known)


def _simulated(step: Any, scenario: optimizer_level.Scenario, shift: int) -> dict[str, np.ndarray]:
    p, grads = optimizer_level.gradients("float64")
    v, rows = np.zeros_like(p), []
    for number, grad in enumerate(grads):
        rate = optimizer_level.rate(scenario, number + shift)
        p, v = step(p, v, grad, rate, scenario.momentum, scenario.weight_decay, scenario.nesterov)
        rows.append((p, v))
    made = {"parameters": np.stack([row[0] for row in rows])}
    if scenario.momentum:
        made["momentum buffer"] = np.stack([row[1] for row in rows])
    return made
