"""Two networks in training, one on either side: a step's loss and gradients, and what the optimizer makes of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch import nn

from netparity.measure import Arrays
from netparity.training import optimizers, recording

TorchFactory = Callable[
    [list[nn.Parameter]], torch.optim.Optimizer | tuple[torch.optim.Optimizer, Callable[[], object]]
]
"""Makes the optimizer of a module's parameters; or the optimizer and what is called in place of its ``step``, for
clipping and for schedules. Gradients are cleared before every step."""


@dataclasses.dataclass(frozen=True)
class JaxProgram:
    """A network in JAX as it is trained.

    Attributes:
      params: a tree of float32 arrays.
      state: a tree that the network updates, such as batch statistics; may be empty.
      value_and_grad: ``(params, state, step) -> (loss, gradients, new state)``, pure. It is compiled: ``step``,
        counted from 0, is an integer scalar, with which the step's data are looked up and random keys folded. Its
        floating arguments are float64 or float32; data of its own must be cast to theirs.
      flat: turns a tree like ``params`` or ``state`` into NumPy arrays by JAX name, without changing their numbers.
    """

    params: Any
    state: Any
    value_and_grad: Callable[[Any, Any, Any], tuple[Any, Any, Any]]
    flat: Callable[[Any], Arrays]


@dataclasses.dataclass(frozen=True)
class TorchProgram:
    """The same network in PyTorch.

    Attributes:
      make: a fresh module of a dtype, with the values that the JAX network begins with.
      loss: of the step, counted from 0, on the same data and with the same masks; puts the module into the mode that
        it is trained in.
      params_to_common: turns arrays by the names of ``module.named_parameters()`` into arrays by JAX name. It may move
        and drop numbers and do nothing else with them, since gradients go through it as well.
      state_to_common: the same for the names of ``module.named_buffers()`` and the JAX network's state.
    """

    make: Callable[[torch.dtype], nn.Module]
    loss: Callable[[nn.Module, int], torch.Tensor]
    params_to_common: Callable[[Arrays], Arrays]
    state_to_common: Callable[[Arrays], Arrays]


Masks = dict[str, np.ndarray]  # by JAX name, where a gradient is nothing but rounding


class JaxRun:
    """A JAX program in training, its functions compiled.

    A control computes gradients in its dtype, beginning with moved parameters, and everything else in float64.
    """

    def __init__(
        self,
        program: JaxProgram,
        compiled: tuple[Callable[..., Any], Callable[..., Any]],
        transformation: optax.GradientTransformation,
        dtype: str,
        control: int | None = None,
    ):
        self._flat, (self._gradients, self._update) = program.flat, compiled
        self._dtype, self._x64 = dtype, dtype == "float64" or control is not None
        with jax.enable_x64(self._x64):
            params, self._state = _cast(program.params, dtype), _cast(program.state, dtype)
            if control is not None:
                leaves, structure = jax.tree.flatten(params)
                start = {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)}
                moved = perturbed(start, control)
                # A zero stays: the unit in its last place is infinitely far from it by its own scale.
                moved_leaves = [np.where(start[name] == 0, 0, value) for name, value in moved.items()]
                params = _cast(jax.tree.unflatten(structure, moved_leaves), "float64")
            self._params = params
            self._memory = _wide(transformation.init(params)) if self._x64 else transformation.init(params)

    @functools.cached_property
    def _names(self) -> list[str]:
        """The JAX name of every leaf of the parameters."""
        leaves, structure = jax.tree.flatten(self._params)
        numbered = [np.full(np.shape(leaf), i, np.float64) for i, leaf in enumerate(leaves)]
        names = {
            int(value.max(initial=-1)): name
            for name, value in self._named(jax.tree.unflatten(structure, numbered)).items()
        }
        return [names[i] for i in range(len(leaves))]

    def _named(self, tree: Any) -> Arrays:
        with jax.enable_x64(self._x64):
            return (
                {name: np.asarray(value) for name, value in self._flat(tree).items()} if jax.tree.leaves(tree) else {}
            )

    def backward(self, step: int) -> Arrays:
        """Computes the loss and the gradients of a step; returns the gradients."""
        with jax.enable_x64(self._x64):
            params = _cast(self._params, self._dtype)
        with jax.enable_x64(self._dtype == "float64"):
            self.loss, self._grads, self._state = self._gradients(params, self._state, jnp.asarray(step))
        return self._named(self._grads)

    def update(self, rounding: Masks) -> None:
        """Takes the step, with the gradients' numbers under the masks as zero."""
        with jax.enable_x64(self._x64):
            grads = _cast(self._grads, "float64") if self._x64 else self._grads
            if rounding:
                leaves, structure = jax.tree.flatten(grads)
                grads = jax.tree.unflatten(structure, [
                    jnp.where(jnp.asarray(rounding[name]), jnp.zeros_like(leaf), leaf) if name in rounding else leaf
                    for name, leaf in zip(self._names, leaves, strict=True)
                ])  # fmt: skip
            self._params, self._memory = self._update(grads, self._memory, self._params)

    def params(self) -> Arrays:
        return self._named(self._params)

    def state(self) -> Arrays:
        return self._named(self._state)

    def remembered(self) -> tuple[optimizers.Remembered, tuple[str, ...]]:
        return optimizers.optax_state(self._memory, self._params, self._named)


class TorchRun:
    """A PyTorch program in training; ``watch`` is given the gradients, by JAX name, that its optimizer gets."""

    def __init__(
        self,
        program: TorchProgram,
        factory: TorchFactory,
        dtype: str,
        watch: Callable[[Arrays], None] | None = None,
    ):
        self._program = program
        self._module = program.make(getattr(torch, dtype))
        self._parameters = dict(self._module.named_parameters())
        made = factory(list(self._parameters.values()))
        self._optimizer, self._step = made if isinstance(made, tuple) else (made, made.step)
        if watch is not None:
            self._optimizer.register_step_pre_hook(lambda *_: watch(self._grads()))

    def backward(self, step: int) -> Arrays:
        """Computes the loss and the gradients of a step; returns the gradients."""
        self._module.zero_grad()
        loss = self._program.loss(self._module, step)
        loss.backward()
        self.loss = loss.detach().cpu().numpy()
        return self._grads()

    def _grads(self) -> Arrays:
        return self._common(
            {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in self._parameters.items()}
        )

    def update(self, rounding: Masks) -> None:
        """Takes the step, with the gradients' numbers under the masks as zero."""
        if rounding:
            zeroed = np.zeros(sum(p.numel() for p in self._parameters.values()), bool)
            for name, mask in rounding.items():
                zeroed[self._places[name][mask]] = True
            parts = np.split(zeroed, np.cumsum([p.numel() for p in self._parameters.values()])[:-1])
            for p, part in zip(self._parameters.values(), parts, strict=True):
                if p.grad is not None and part.any():
                    p.grad.masked_fill_(torch.from_numpy(part.reshape(p.shape)).to(p.device), 0.0)
        self._rates = optimizers.rates(self._optimizer)  # a schedule may change them in the step
        before = recording.options_of(self._optimizer)
        self._step()
        self.options = before, recording.options_of(self._optimizer)

    def kind(self) -> str:
        return recording.kind_of(self._optimizer)

    def groups(self) -> Arrays:
        """By JAX name, which of the optimizer's parameter groups each number belongs to; -1 if none."""
        groups = {p: i for i, group in enumerate(self._optimizer.param_groups) for p in group["params"]}
        numbered = {
            name: np.full(tuple(p.shape), groups.get(p, -1) if p.requires_grad else -1, np.float64)
            for name, p in self._parameters.items()
        }
        return self._program.params_to_common(numbered)

    def merged(self) -> Arrays:
        """By JAX name, whether each number is the sum of several of PyTorch's."""
        ones = {name: np.ones(tuple(p.shape)) for name, p in self._parameters.items()}
        return {name: counts > 1 for name, counts in self._program.params_to_common(ones).items()}

    @functools.cached_property
    def _places(self) -> dict[str, np.ndarray]:
        """Where each number of a JAX parameter lies when all of PyTorch's are laid end to end."""
        numbered, first = {}, 0
        for name, p in self._parameters.items():
            numbered[name] = np.arange(first, first + p.numel(), dtype=np.float64).reshape(p.shape)
            first += p.numel()
        return {name: places.astype(np.int64) for name, places in self._program.params_to_common(numbered).items()}

    def _common(self, tensors: Mapping[str, torch.Tensor]) -> Arrays:
        return self._program.params_to_common({name: t.detach().cpu().numpy() for name, t in tensors.items()})

    def params(self) -> Arrays:
        return self._common(self._parameters)

    def state(self) -> Arrays:
        buffers = {name: buffer.detach().cpu().numpy() for name, buffer in self._module.named_buffers()}
        return self._program.state_to_common(buffers)

    def remembered(self) -> tuple[optimizers.Remembered, tuple[str, ...]]:
        return optimizers.torch_state(self._optimizer, self._parameters, self._rates, self._program.params_to_common)

    def running_variances(self) -> set[str]:
        """The JAX names of what PyTorch's batch normalisations call running_var."""
        marked = {
            name: np.full(tuple(buffer.shape), float(name.rpartition(".")[2] == "running_var"))
            for name, buffer in self._module.named_buffers()
        }
        return {name for name, value in self._program.state_to_common(marked).items() if value.any()}


def perturbed(params: Arrays, seed: int) -> Arrays:
    """Every parameter moved by one unit in the last place, up or down at random."""
    rng = np.random.default_rng(seed)
    moved = {}
    for name, value in params.items():
        direction = np.where(rng.integers(0, 2, value.shape, dtype=np.int8), np.inf, -np.inf).astype(value.dtype)
        moved[name] = np.nextafter(value, direction)
    return moved


def _cast(tree: Any, dtype: str) -> Any:
    """What is floating, in a dtype."""

    def cast(leaf: Any) -> Any:
        array = jnp.asarray(leaf)
        return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array

    return jax.tree.map(cast, tree)


def _wide(memory: Any) -> Any:
    """An optimizer's state with its counts in int64: JAX divides an int32 in float32, and so schedules round to it."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.int64) if leaf.dtype == jnp.int32 else leaf, memory)
