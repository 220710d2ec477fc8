"""The steps that optimizers take, right and wrong, written anew in float64 for numbers that were recorded.

Every step begins at the numbers that were found after the last one. So nothing adds up, and a rule that gives every
step gives the whole training.

Sources: PyTorch 2.14, ``torch/optim/{sgd,adam,rmsprop,adagrad}.py`` and ``torch/nn/utils/clip_grad.py``; optax 0.2.8,
``optax/_src/transform.py``; for Adam's epsilon before the correction, D. P. Kingma and J. Ba, "Adam", 2015, section 2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

Memory = dict[str, Any]  # running averages by name, each zero at first


@dataclasses.dataclass(frozen=True)
class Fed:
    """What an optimizer is fed, step by step.

    Attributes:
      params: ``[steps, numbers]``, before each step.
      grads: ``[steps, numbers]``.
      norms: ``[steps, parameters]``, of whole gradients.
      owner: ``[numbers]``, int: each number's parameter.
    """

    params: np.ndarray
    grads: np.ndarray
    norms: np.ndarray
    owner: np.ndarray


@dataclasses.dataclass(frozen=True)
class Clip:
    """How gradients are clipped.

    Attributes:
      how: ``"norm"`` of all, ``"each"`` parameter's norm, or by ``"value"``.
      limit: the largest norm or magnitude.
      epsilon: what the norm is added to before dividing by it.
    """

    how: str
    limit: float
    epsilon: float = 0.0

    def __call__(self, grad: np.ndarray, norms: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """A step's gradient ``[numbers]``, clipped; ``norms`` are of whole parameters' gradients, ``[parameters]``."""
        if self.how == "value":
            return np.clip(grad, -self.limit, self.limit)
        norm = norms[owner] if self.how == "each" else np.linalg.norm(norms)
        with np.errstate(divide="ignore"):
            return grad * np.minimum(self.limit / (norm + self.epsilon), 1.0)


@dataclasses.dataclass(frozen=True)
class Rule:
    """An optimizer: what it is told, and in what form it computes.

    Attributes:
      kind: ``"SGD"``, ``"Adam"``, ``"RMSprop"`` or ``"Adagrad"``.
      options: as PyTorch calls them, each ``[steps, numbers]`` or broadcast to it.
      trained: ``[numbers]``, bool.
      clip: of gradients; None clips nothing.
      decay: ``"coupled"`` with the gradient, ``"decoupled"``, or decoupled and ``"unscaled"``, not multiplied by the
        learning rate, or ``"unscheduled"``, multiplied by the first one.
      epsilon: ``"outside"`` the root, ``"inside"`` it, ``"both"``, or ``"uncorrected"``: outside, before the correction
        of the bias.
      corrected: whether the bias of Adam's first and second moment is; of RMSprop's average.
      velocity: ``"sum"``, ``"average"``, ``"debiased"`` average, or ``"scaled"``, a sum of steps.
      undamped: whether dampening spares the first gradient, as PyTorch has it.
      maximum: of AMSGrad: ``""``, ``"raw"`` as in PyTorch, or ``"corrected"`` as in optax.
      initial: with what the average of squares begins.
    """

    kind: str
    options: Mapping[str, np.ndarray]
    trained: np.ndarray
    clip: Clip | None = None
    decay: str = "coupled"
    epsilon: str = "outside"
    corrected: tuple[bool, bool] = (True, True)
    velocity: str = "sum"
    undamped: bool = True
    maximum: str = ""
    initial: float = 0.0

    def told(self, **options: Any) -> Rule:
        """The same rule with other options, each a number or an array."""
        arrays = {name: np.broadcast_to(np.asarray(value, np.float64), np.broadcast_shapes((1, 1), np.shape(value)))
                  for name, value in options.items()}  # fmt: skip
        return dataclasses.replace(self, options={**self.options, **arrays})

    def some(self, which: np.ndarray) -> Rule:
        """The rule of some of the numbers alone, int ``[…]``."""
        options = {name: array[:, which] if array.shape[1] > 1 else array for name, array in self.options.items()}
        return dataclasses.replace(self, options=options, trained=self.trained[which])

    def at(self, step: int) -> dict[str, np.ndarray]:
        """The options of one step, each ``[numbers]`` or ``[1]``."""
        return {name: value[min(step, len(value) - 1)] for name, value in self.options.items()}


def deltas(rule: Rule, fed: Fed) -> np.ndarray:
    """By how much a rule moves the numbers in each step, ``[steps, numbers]``.

    >>> fed = Fed(np.ones((1, 1)), np.full((1, 1), 0.5), np.full((1, 1), 0.5), np.zeros(1, int))
    >>> rule = Rule("SGD", {}, np.array([True])).told(lr=0.1, weight_decay=0.2)
    >>> deltas(rule, fed)
    array([[-0.07]])
    """
    memory: Memory = {}
    moved = np.zeros_like(fed.grads)
    with np.errstate(all="ignore"):  # what is not finite fits nothing
        for step, grad in enumerate(fed.grads):
            o = rule.at(step)
            if rule.clip is not None:
                grad = rule.clip(grad, fed.norms[step], fed.owner)
            grad = np.where(o["maximize"] != 0, -grad, grad) if "maximize" in o else grad
            decay = o.get("weight_decay", np.zeros(1)) * fed.params[step]
            if rule.decay == "coupled":
                grad = grad + decay
            moved[step] = -_DIRECTIONS[rule.kind](rule, o, grad, memory, step)
            if rule.decay != "coupled":
                scale = {"unscaled": np.ones(1), "unscheduled": rule.options["lr"][0]}.get(rule.decay, o["lr"])
                moved[step] -= scale * decay
    return np.where(rule.trained, moved, 0.0)


def _average(memory: Memory, name: str, rate: np.ndarray, value: np.ndarray, initial: float = 0.0) -> np.ndarray:
    memory[name] = rate * memory.get(name, initial) + (1 - rate) * value
    return np.asarray(memory[name])


def _velocity(rule: Rule, o: Mapping[str, np.ndarray], grad: np.ndarray, memory: Memory, step: int) -> np.ndarray:
    """The step of what a momentum makes of gradients, or of anything in their place; times the learning rate."""
    momentum = o.get("momentum", np.zeros(1))
    if not momentum.any():
        return np.asarray(o["lr"] * grad)
    if rule.velocity in ("average", "debiased"):
        buffer = _average(memory, "velocity", momentum, grad)
        buffer = buffer / (1 - momentum ** (step + 1)) if rule.velocity == "debiased" else buffer
        share = 1 - momentum
    else:
        scaled = rule.velocity == "scaled"
        grad = o["lr"] * grad if scaled else grad
        share = np.ones(1) if step == 0 and rule.undamped else 1 - o.get("dampening", np.zeros(1))
        buffer = memory["velocity"] = momentum * memory.get("velocity", 0.0) + share * grad
        share = np.ones(1)
    nesterov = o.get("nesterov", np.zeros(1)) != 0
    out = np.where(nesterov, share * grad + momentum * buffer, buffer)
    return np.asarray(out if rule.velocity == "scaled" else o["lr"] * out)


def _sgd(rule: Rule, o: Mapping[str, np.ndarray], grad: np.ndarray, memory: Memory, step: int) -> np.ndarray:
    return _velocity(rule, o, grad, memory, step)


def _adam(rule: Rule, o: Mapping[str, np.ndarray], grad: np.ndarray, memory: Memory, step: int) -> np.ndarray:
    one, two, eps = o["beta1"], o["beta2"], o["eps"]
    m = _average(memory, "first", one, grad)
    v = _average(memory, "second", two, grad**2)
    first = 1 - one ** (step + 1) if rule.corrected[0] else np.ones(1)
    second = 1 - two ** (step + 1) if rule.corrected[1] else np.ones(1)
    if rule.maximum:
        candidate = v / second if rule.maximum == "corrected" else v
        memory["maximum"] = np.maximum(memory.get("maximum", 0.0), candidate)
        v = memory["maximum"] * (second if rule.maximum == "corrected" else 1.0)
    m_hat = m / first
    if "nesterov" in o:  # as in optax: T. Dozat, 2016
        m_hat = one * m / (1 - one ** (step + 2)) + (1 - one) * grad / first
    if rule.epsilon == "uncorrected":
        return np.asarray(o["lr"] * m_hat * np.sqrt(second) / (np.sqrt(v) + eps))
    return np.asarray(o["lr"] * m_hat / _root(rule, v / second, eps))


def _rmsprop(rule: Rule, o: Mapping[str, np.ndarray], grad: np.ndarray, memory: Memory, step: int) -> np.ndarray:
    alpha = o["alpha"]
    correction = 1 - alpha ** (step + 1) if rule.corrected[1] else np.ones(1)
    square = _average(memory, "second", alpha, grad**2, rule.initial) / correction
    if o["centered"].any():
        mean = _average(memory, "first", alpha, grad) / correction
        square = np.where(o["centered"] != 0, square - mean**2, square)
    return _velocity(rule, o, grad / _root(rule, square, o["eps"]), memory, step)


def _adagrad(rule: Rule, o: Mapping[str, np.ndarray], grad: np.ndarray, memory: Memory, step: int) -> np.ndarray:
    memory["sum"] = memory.get("sum", rule.initial) + grad**2
    rate = o["lr"] / (1 + step * o["lr_decay"])
    return np.asarray(rate * np.where(memory["sum"] > 0, grad / _root(rule, memory["sum"], o["eps"]), 0.0))


def _root(rule: Rule, square: np.ndarray, eps: np.ndarray) -> np.ndarray:
    inside = square + eps if rule.epsilon in ("inside", "both") else square
    return np.sqrt(inside) + (eps if rule.epsilon in ("outside", "both", "uncorrected") else 0.0)


_DIRECTIONS = {"SGD": _sgd, "Adam": _adam, "RMSprop": _rmsprop, "Adagrad": _adagrad}
