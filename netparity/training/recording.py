"""What two optimizers were fed and what they made of it, step by step, so that their steps can be taken again.

Optimizers work number by number, and where they do not, as in clipping, only norms matter. So of every parameter only
some numbers are kept, evenly spread, beside the norms of whole gradients: networks of any size are recorded.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TypeGuard

import numpy as np
import torch

from netparity.measure import Arrays

KEPT = 256  # numbers of each parameter
# Each kind of optimizer whose steps are known, and what it can be told.
_KINDS: dict[type[torch.optim.Optimizer], str] = {
    torch.optim.SGD: "SGD",
    torch.optim.Adam: "Adam",  # AdamW is one of them
    torch.optim.RMSprop: "RMSprop",
    torch.optim.Adagrad: "Adagrad",
}
_OPTIONS = (
    *("lr", "weight_decay", "eps", "momentum", "dampening", "nesterov", "alpha", "centered", "amsgrad", "maximize"),
    *("decoupled_weight_decay", "lr_decay", "initial_accumulator_value"),
)

Options = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Side:
    """What one side did in ``steps`` steps; float64.

    Attributes:
      params: ``[steps + 1, numbers]``, before the first step and after each.
      grads: ``[steps, numbers]``, as the networks gave them.
      norms: ``[steps, parameters]``, of the whole gradient of each parameter.
    """

    params: np.ndarray
    grads: np.ndarray
    norms: np.ndarray

    @property
    def deltas(self) -> np.ndarray:
        """By how much the numbers moved in each step, ``[steps, numbers]``."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.diff(self.params, axis=0)


@dataclasses.dataclass(frozen=True)
class Recording:
    """The training of both sides in float64, in JAX's names and layout.

    Attributes:
      shapes: of the parameters, by JAX name.
      owner: ``[numbers]``, int: which parameter a number belongs to, counted as in ``shapes``.
      group: ``[numbers]``, int: which of PyTorch's parameter groups it belongs to; -1 if it is not optimized.
      merged: ``[numbers]``, bool: whether it is the sum of several of PyTorch's numbers.
      kind: ``"SGD"``, ``"Adam"``, ``"RMSprop"``, ``"Adagrad"``; empty for any other optimizer.
      options: of PyTorch's optimizer, by group, before each step and after the last.
      used: ``[steps, numbers]``: PyTorch's gradients as its optimizer got them, clipped for instance.
      jax, torch: what the sides did.
      moved: ``[steps]``, the norm of JAX's whole step.
      batch: images or whatever is in a batch; 0 if that is not known.
    """

    shapes: dict[str, tuple[int, ...]]
    owner: np.ndarray
    group: np.ndarray
    merged: np.ndarray
    kind: str
    options: list[list[Options]]
    used: np.ndarray
    jax: Side
    torch: Side
    moved: np.ndarray
    batch: int = 0

    @property
    def names(self) -> list[str]:
        return list(self.shapes)


def kind_of(optimizer: torch.optim.Optimizer) -> str:
    """``"SGD"``, ``"Adam"``, ``"RMSprop"``, ``"Adagrad"``, of subclasses as well; empty for any other optimizer."""
    return next((kind for known, kind in _KINDS.items() if isinstance(optimizer, known)), "")


def options_of(optimizer: torch.optim.Optimizer) -> list[Options]:
    """What each of an optimizer's parameter groups is told: numbers, truths as 1.0 and 0.0, the betas one by one."""
    found = []
    for group in optimizer.param_groups:
        named = [(name, group.get(name)) for name in _OPTIONS]
        named += [(f"beta{i + 1}", beta) for i, beta in enumerate(group.get("betas", ()))]
        found.append({name: float(value) for name, value in named if _is_number(value)})
    return found


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) or (isinstance(value, torch.Tensor) and value.numel() == 1)


class Recorder:
    """Collects a `Recording` while two networks are trained.

    Args:
      batch: images or whatever is in a batch; 0 if that is not known.
    """

    def __init__(self, batch: int = 0):
        self._batch = batch
        self._options: list[list[Options]] = []
        self._used: list[np.ndarray] = []
        self._got: np.ndarray | None = None
        self._moved: list[float] = []
        self._sides: dict[str, dict[str, list[np.ndarray]]] = {
            side: {"params": [], "grads": [], "norms": []} for side in ("jax", "torch")
        }

    def start(self, kind: str, params: Mapping[str, Arrays], groups: Arrays, merged: Arrays) -> None:
        """Before the first step.

        Args:
          kind: of PyTorch's optimizer (`kind_of`).
          params: by ``"jax"`` and ``"torch"``, the parameters by JAX name.
          groups, merged: by JAX name, what `Recording` has of them.
        """
        self._kind = kind
        self._shapes = {name: value.shape for name, value in params["jax"].items()}
        self._last = params["jax"]
        self._group, self._merged = self._some(groups).astype(np.int64), self._some(merged).astype(bool)
        for side, arrays in params.items():
            self._sides[side]["params"].append(self._some(arrays))

    def before(self, grads: Mapping[str, Arrays], zeroed: Mapping[str, np.ndarray]) -> None:
        """Before a step.

        Args:
          grads: by side and JAX name.
          zeroed: by JAX name, bool: the numbers that the optimizers get as zero.
        """
        for side, arrays in grads.items():
            self._sides[side]["grads"].append(self._some(arrays, zeroed))
            self._sides[side]["norms"].append(np.array([_norm(arrays[name]) for name in self._shapes]))

    def used(self, grads: Arrays) -> None:
        """In a step: PyTorch's gradients by JAX name, as its optimizer gets them. Without it, they are those before."""
        self._got = self._some(grads)

    def after(self, params: Mapping[str, Arrays], options: Sequence[list[Options]]) -> None:
        """After a step.

        Args:
          params: by side and JAX name.
          options: of PyTorch's optimizer, before the step and after it.
        """
        for side, arrays in params.items():
            self._sides[side]["params"].append(self._some(arrays))
        self._used.append(self._sides["torch"]["grads"][-1] if self._got is None else self._got)
        self._got = None
        before, after = options
        self._options = [*self._options[:-1], before, after]
        with np.errstate(over="ignore", invalid="ignore"):
            steps = [_norm(np.subtract(params["jax"][name], self._last[name])) for name in self._shapes]
            self._moved.append(float(np.linalg.norm(steps)))
        self._last = params["jax"]

    def recording(self) -> Recording:
        """All that was collected, of at least one step."""
        sizes = [min(math.prod(shape), KEPT) for shape in self._shapes.values()]
        jax, torch = (
            Side(**{name: np.stack(rows) for name, rows in self._sides[side].items()}) for side in ("jax", "torch")
        )
        owner = np.repeat(np.arange(len(sizes)), sizes)
        return Recording(
            self._shapes,
            owner,
            self._group,
            self._merged,
            self._kind,
            self._options,
            np.stack(self._used),
            jax,
            torch,
            np.array(self._moved),
            self._batch,
        )

    def _some(self, arrays: Arrays, zeroed: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """The numbers that are kept of every array, one after another, float64."""
        kept = []
        for name in self._shapes:
            numbers = _spread(np.asarray(arrays[name]))
            kept.append(np.where(_spread(zeroed[name]), 0.0, numbers) if zeroed and name in zeroed else numbers)
        return np.concatenate(kept).astype(np.float64)


def _norm(array: np.ndarray) -> float:
    with np.errstate(over="ignore", invalid="ignore"):  # training may end in infinities
        return float(np.linalg.norm(np.asarray(array, np.float64).ravel("K")))


def _spread(array: np.ndarray) -> np.ndarray:
    """At most `KEPT` of an array's numbers, evenly spread."""
    if array.size <= KEPT:
        return array.ravel()
    return array[np.unravel_index(np.linspace(0, array.size - 1, KEPT).astype(np.int64), array.shape)]
