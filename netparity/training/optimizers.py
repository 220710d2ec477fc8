"""What optax's and PyTorch's optimizers remember, matched by meaning.

The two frameworks name the same running averages differently, and nest them differently: optax in tuples of tuples,
PyTorch in one dictionary for each parameter. Only what means the same is matched; the rest is named, and not compared.

How a right port looks, where the defaults of optax and PyTorch are not the same optimizer:

- ``torch.optim.SGD(weight_decay=w)`` adds the decay to the gradient: ``chain(add_decayed_weights(w), sgd(...))``.
- ``torch.optim.Adam(weight_decay=w)`` likewise: ``chain(add_decayed_weights(w), adam(...))``; it is not AdamW.
- ``torch.optim.AdamW`` is ``optax.adamw``, but decays by 1e-2 unless told otherwise, optax by 1e-4.
- ``torch.optim.RMSprop(alpha=a)`` is ``rmsprop(decay=a, eps_in_sqrt=False, initial_scale=0.0)``. The default
  ``eps_in_sqrt=True`` is another optimizer, and so is optax's decay of 0.9 beside PyTorch's alpha of 0.99. With
  momentum, optax's trace takes in the learning rate and PyTorch's buffer does not, so the two are equal only while
  the rate is constant; under a schedule the port is
  ``chain(scale_by_rms(...), trace(m), scale_by_learning_rate(schedule))``.
- ``torch.optim.Adagrad`` adds eps outside the square root, ``optax.adagrad`` inside; they are equal where eps is 0.
- ``torch.optim.Adam(amsgrad=True)`` takes the maximum before the correction of the bias and corrects it by the step at
  hand; no setting of ``optax.amsgrad`` does.
- ``torch.optim.Rprop`` steps by this step's signs, ``optax.rprop`` by those of the step before; no setting changes it.
- ``torch.nn.utils.clip_grad_norm_`` divides by the norm plus 1e-6, ``optax.clip_by_global_norm`` by the norm: clipped
  gradients differ by a factor of ``1 + 1e-6 / norm``, which float64 tells. An exact port is a transformation of one's
  own: ``grads * min(max_norm / (optax.tree.norm(grads) + 1e-6), 1)``.

Sources: optax 0.2.8, ``optax/_src/transform.py`` and ``optax/transforms``; PyTorch 2.14, ``torch/optim`` and
``torch/nn/utils/clip_grad.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax
import torch

from netparity.measure import Arrays, max_error

Remembered = dict[str, Arrays]
"""What an optimizer remembers: by its own word for it, arrays by the parameter's JAX name. Counts have one array."""

SCALED = "-lr * momentum_buffer"
"""PyTorch's momentum buffer times the negated learning rate, as optax has it where the rate comes before the trace."""

_COUNT, _STEP = "count", "step"
# optax's word, and PyTorch's for the same, of which an optimizer has one.
_MEANINGS: dict[str, tuple[str, ...]] = {
    "trace": ("momentum_buffer", SCALED),
    "mu": ("exp_avg", "grad_avg"),
    "nu": ("exp_avg_sq", "square_avg", "exp_inf"),
    "nu_max": ("max_exp_avg_sq",),
    "sum_of_squares": ("sum",),
    "e_g": ("square_avg",),
    "e_x": ("acc_delta",),
    "step_sizes": ("step_size",),
    _COUNT: (_STEP,),
}


@dataclasses.dataclass(frozen=True)
class Pairing:
    """Which memories of the two optimizers mean the same.

    Attributes:
      pairs: optax's word and PyTorch's.
      unpaired: those that have no counterpart, with their side.
    """

    pairs: tuple[tuple[str, str], ...]
    unpaired: tuple[str, ...]

    def ours(self, remembered: Remembered) -> Arrays:
        """The paired memories of optax's optimizer, flat."""
        return _flat({field: remembered[field] for field, _ in self.pairs})

    def theirs(self, remembered: Remembered) -> Arrays:
        """The paired memories of PyTorch's optimizer, flat, under the same names."""
        return _flat({field: remembered[key] for field, key in self.pairs})

    @property
    def note(self) -> str:
        """The pairing in words."""
        said = [", ".join(f"{field} is {key}" for field, key in self.pairs)]
        said += [f"not compared: {', '.join(self.unpaired)}"] if self.unpaired else []
        return "; ".join(part for part in said if part)


def pair(ours: Remembered, theirs: Remembered, unknown: tuple[str, ...] = ()) -> Pairing:
    """Matches what the two optimizers remember after their first step.

    Where optax's trace can be either of two things in PyTorch (`SCALED`), it is what it is closer to in this step.

    Args:
      ours: of `optax_state`.
      theirs: of `torch_state`.
      unknown: what neither function could read, for people.
    """
    pairs = []
    for field, meanings in _MEANINGS.items():
        if field not in ours:
            continue
        candidates = [key for key in meanings if key in theirs]
        if candidates:
            pairs.append((field, min(candidates, key=lambda key: max_error(ours[field], theirs[key]))))
    fields, keys = {field for field, _ in pairs}, {key for _, key in pairs}
    keys |= {"momentum_buffer", SCALED} if SCALED in keys else {SCALED}  # two forms of one memory
    unpaired = [f"optax's {field}" for field in ours if field not in fields]
    unpaired += [f"PyTorch's {key}" for key in theirs if key not in keys]
    return Pairing(tuple(pairs), (*unpaired, *unknown))


def optax_state(state: Any, params: Any, flat: Callable[[Any], Arrays]) -> tuple[Remembered, tuple[str, ...]]:
    """What an optax optimizer remembers of each parameter.

    The state is searched for trees with the structure and the shapes of the parameters, through chains,
    ``inject_hyperparams``, ``masked`` and ``partition``. A tree is known by the name of its field; parts of the same
    name, each for some of the parameters, are put together. It is zero for parameters that have none.

    Args:
      state: of any `optax.GradientTransformation`.
      params: the parameters, or anything of their structure and shapes.
      flat: turns a tree like them into arrays by JAX name.

    Returns:
      float64 arrays by field, with ``count`` (the least and the largest, ``[2]``) of the optimizers that have such a
      field beside; and the fields that keep something else, or the same for one parameter twice.
    """
    leaves, structure = jax.tree.flatten(params)
    found, counts, unknown = _Search(params).run(state)
    remembered: Remembered = {}
    for field, trees in found.items():
        merged: list[Any] = [None] * len(leaves)
        for tree in trees:
            if any(old is not None and new is not None for old, new in zip(merged, tree, strict=True)):
                unknown.append(f"optax's {field}, which there is more than one of")
                break
            merged = [new if old is None else old for old, new in zip(merged, tree, strict=True)]
        else:
            zeros = (np.zeros(np.shape(leaf)) for leaf in leaves)
            whole = [
                zero if one is None else np.asarray(one, np.float64) for one, zero in zip(merged, zeros, strict=True)
            ]
            remembered[field] = flat(jax.tree.unflatten(structure, whole))
    if counts:
        remembered[_COUNT] = {"steps": np.array([min(counts), max(counts)], np.float64)}
    return remembered, tuple(dict.fromkeys(unknown))


class _Search:
    """Collects from an optax state the trees like the parameters, as leaves, None where they are masked."""

    def __init__(self, params: Any):
        leaves, self._structure = jax.tree.flatten(params)
        self._shapes = [np.shape(leaf) for leaf in leaves]
        self._found: dict[str, list[list[Any]]] = {}
        self._counts: list[int] = []
        self._unknown: list[str] = []

    def run(self, state: Any) -> tuple[dict[str, list[list[Any]]], list[int], list[str]]:
        self._visit(state, type(state).__name__, "")
        return self._found, self._counts, self._unknown

    def _visit(self, node: Any, owner: str, field: str) -> bool:
        """Whether the node is a tree like the parameters; looks into it otherwise."""
        leaves, structure = jax.tree.flatten(node, is_leaf=_masked)
        if structure is not None and structure == self._structure:
            kept = [None if _masked(leaf) else leaf for leaf in leaves]
            shaped = zip(kept, self._shapes, strict=True)
            fits = all(leaf is None or np.shape(leaf) == shape for leaf, shape in shaped)
            if fits and any(_floating(leaf) for leaf in kept):
                self._found.setdefault(field, []).append(kept)
                return True
            if not fits and not jax.tree_util.treedef_is_leaf(structure):  # one number for each parameter, say
                self._unknown.append(f"optax's {owner}.{field}")
                return False
        inside = list(_parts(node))
        if not inside:
            if _floating(node) and np.ndim(node):
                self._unknown.append(f"optax's {owner}.{field}")
            return False
        named = hasattr(node, "_fields") or dataclasses.is_dataclass(node)
        like = [
            self._visit(part, type(node).__name__ if named else owner, name if named else field)
            for name, part in inside
        ]
        count = dict(inside).get(_COUNT) if named else None
        if any(like) and count is not None and np.ndim(count) == 0:
            self._counts.append(int(count))
        return False


def _parts(node: Any) -> Iterator[tuple[str, Any]]:
    """What a state consists of, with the name of the field."""
    if hasattr(node, "_fields"):
        yield from ((name, getattr(node, name)) for name in node._fields)
    elif isinstance(node, Mapping):
        yield from ((str(name), part) for name, part in node.items())
    elif isinstance(node, tuple | list):
        yield from (("", part) for part in node)
    elif dataclasses.is_dataclass(node):
        yield from ((one.name, getattr(node, one.name)) for one in dataclasses.fields(node))


def _masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _floating(leaf: Any) -> bool:
    return leaf is not None and hasattr(leaf, "dtype") and jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating)


def rates(optimizer: torch.optim.Optimizer) -> dict[torch.Tensor, float]:
    """The learning rate of every parameter that a PyTorch optimizer has."""
    return {p: float(group["lr"]) for group in optimizer.param_groups for p in group["params"] if "lr" in group}


def torch_state(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, torch.Tensor],
    used: Mapping[torch.Tensor, float],
    to_common: Callable[[Arrays], Arrays],
) -> tuple[Remembered, tuple[str, ...]]:
    """What a PyTorch optimizer remembers of each parameter; zero where it remembers nothing.

    Args:
      optimizer: after a step.
      parameters: by PyTorch name.
      used: the learning rates of that step (`rates`).
      to_common: turns arrays by PyTorch name into arrays by JAX name.

    Returns:
      float64 arrays by key, with ``step`` (the least and the largest, ``[2]``) and `SCALED`; and the keys that keep
      something else than one number for each of a parameter's.
    """
    kept: dict[str, Arrays] = {}
    steps: list[float] = []
    unknown: list[str] = []
    for name, p in parameters.items():
        for key, value in optimizer.state.get(p, {}).items():
            if value is None:
                continue
            if key == _STEP:
                steps.append(float(value))
            elif isinstance(value, torch.Tensor) and value.shape == p.shape:
                kept.setdefault(key, {})[name] = value.detach().cpu().to(torch.float64).numpy()
            else:
                unknown.append(f"PyTorch's {key}")
    if "momentum_buffer" in kept:
        kept[SCALED] = {name: -used[parameters[name]] * value for name, value in kept["momentum_buffer"].items()}
    zeros = {name: np.zeros(tuple(p.shape)) for name, p in parameters.items()}
    remembered = {key: to_common({**zeros, **arrays}) for key, arrays in kept.items()}
    if steps:
        remembered[_STEP] = {"steps": np.array([min(steps), max(steps)])}
    return remembered, tuple(dict.fromkeys(unknown))


def _flat(remembered: Remembered) -> Arrays:
    return {f"{key} of {name}": array for key, arrays in remembered.items() for name, array in arrays.items()}
