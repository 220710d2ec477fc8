"""Training in lockstep: both networks with their own optimizers, step by step on the same data, for any pair.

After every step the loss, the parameters, what the optimizers remember and the networks' state are compared. Float64
is judged by how far the two may drift (`netparity.bounds.TRAJECTORY_LIMIT`). Float32 is judged against chaos: three
controls train the JAX network from parameters moved by one unit in the last place, with the optimizer's own arithmetic
in float64. The latter, because rounding there is no chaos and yet no mistake: optax computes Adam's ``1 - b2**step`` in
float32, 3e-5 off at first, where PyTorch takes a Python float.

Some gradients are zero but for rounding: that of a bias before a batch normalisation, or of the bias of an attention's
keys. Optimizers such as Adam divide by the gradient's own size and make of them steps of random sign, which spread to
the running means. Where both sides' float64 gradients are at most ``FLOAT64_LIMIT`` of the network's largest, which is
what that limit calls rounding, they say nothing, and both sides are given exactly zero in that step, in both
precisions. So the numbers concerned are still trained (weight decay moves them) and still compared. The checks name
them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch import nn

from netparity import bounds, optimizers, recording
from netparity.measure import Arrays, ParityError, require_same_names
from netparity.results import Check, Trajectory, check, reported

CONTROLS = 3

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


_Masks = dict[str, np.ndarray]  # by JAX name, where a gradient is nothing but rounding
_QUANTITIES = ("parameters", "loss", "optimizer state", "network state")
_ZEROED = "gradients that are zero but for rounding are taken as zero on both sides: "
_VARIANCES = (
    "only running variances differ: PyTorch updates them with the unbiased variance, n / (n - 1) times the biased one "
    "that Flax takes"
)


class _JaxRun:
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

    def update(self, rounding: _Masks) -> None:
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


class _TorchRun:
    """A PyTorch program in training."""

    def __init__(self, program: TorchProgram, factory: TorchFactory, dtype: str):
        self._program = program
        self._module = program.make(getattr(torch, dtype))
        self._parameters = dict(self._module.named_parameters())
        made = factory(list(self._parameters.values()))
        self._optimizer, self._step = made if isinstance(made, tuple) else (made, made.step)

    def backward(self, step: int) -> Arrays:
        """Computes the loss and the gradients of a step; returns the gradients."""
        self._module.zero_grad()
        loss = self._program.loss(self._module, step)
        loss.backward()
        self.loss = loss.detach().cpu().numpy()
        return self._common(
            {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in self._parameters.items()}
        )

    def update(self, rounding: _Masks) -> None:
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

    def used(self) -> Arrays | None:
        """The gradients as the step left them, by JAX name; None where it left none."""
        left = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        if not any(grad.any() for grad in left.values()):
            return None
        return self._common({name: left.get(name, torch.zeros_like(p)) for name, p in self._parameters.items()})

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


_Row = dict[str, dict[str, float]]  # by quantity, by name, how far two runs are apart after a step


def train(
    jax_program: JaxProgram,
    torch_program: TorchProgram,
    optimizer: tuple[optax.GradientTransformation, TorchFactory],
    steps: int,
    dtypes: Collection[str] = ("float64", "float32"),
    progress: Callable[[str], None] = lambda text: None,
    recorder: recording.Recorder | None = None,
) -> tuple[Trajectory, list[Check]]:
    """Trains both networks in lockstep and compares them after every step.

    Float64 is always computed, since only there can a gradient that is nothing but rounding be told from a small one.

    Args:
      jax_program, torch_program: the two networks with their data.
      optimizer: optax's and a function that makes PyTorch's.
      steps: at least 1.
      dtypes: which of ``"float64"`` and ``"float32"`` to judge.
      progress: is told of every step.
      recorder: is given what the optimizers were fed and made of it, in float64, to tell mistakes by.

    Returns:
      the parameters' differences by step; and the checks, at level ``"training"``. In float64 the parameters, the loss,
      the optimizers' and the networks' state are judged; each check names the worst of all steps, and in its note the
      first that is beyond the limit. In float32 the parameters are judged, and the others' ratios to the controls
      reported.

    Raises:
      ParityError: if the two sides' parameters or states differ in name or shape, or in value before the first step.
      ValueError: if no step is to be taken.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    transformation, factory = optimizer
    compiled = jax.jit(jax_program.value_and_grad), jax.jit(_updated(transformation))
    exact = (_JaxRun(jax_program, compiled, transformation, "float64"), _TorchRun(torch_program, factory, "float64"))
    _require_same_start(*exact)
    single: list[_JaxRun | _TorchRun] = []
    if "float32" in dtypes:
        single += [
            _JaxRun(jax_program, compiled, transformation, "float32"),
            _TorchRun(torch_program, factory, "float32"),
        ]
        seeds = range(CONTROLS)
        single += [_JaxRun(jax_program, compiled, transformation, "float32", seed) for seed in seeds]
    rows64: list[_Row] = []
    rows32: list[list[_Row]] = []
    pairing: optimizers.Pairing | None = None
    zeroed: dict[str, np.ndarray] = {}
    if recorder is not None:
        starts = {"jax": exact[0].params(), "torch": exact[1].params()}
        recorder.start(exact[1].kind(), starts, exact[1].groups(), exact[1].merged())
    for step in range(steps):
        grads = {"jax": exact[0].backward(step), "torch": exact[1].backward(step)}
        rounding, noise = _rounding_only(grads["jax"], grads["torch"])
        for name, where in noise.items():
            zeroed[name] = zeroed.get(name, False) | where
        if recorder is not None:
            recorder.before(grads, rounding)
        for run in exact:
            run.update(rounding)
        if recorder is not None:
            params = {"jax": exact[0].params(), "torch": exact[1].params()}
            recorder.after(params, exact[1].used(), exact[1].options)
        if pairing is None:
            (ours, unknown), (theirs, unknown_too) = exact[0].remembered(), exact[1].remembered()
            pairing = optimizers.pair(ours, theirs, (*unknown, *unknown_too))
        rows64.append(_row(*exact, pairing))
        if single:
            for run in single:
                run.backward(step)
                run.update(rounding)
            rows32.append([_row(one, single[0], pairing) for one in single[1:]])
        progress(f"step {step + 1} of {steps}: {_worst(rows64[-1]['parameters']):.1e}")
    assert pairing is not None
    checks = []
    if "float64" in dtypes:
        checks += _judged(rows64, pairing, _told(zeroed), exact[1].running_variances)
    apart, controls, ratio = _against_controls(rows32, "parameters")
    if rows32:
        checks += _ratios(rows32, _told(zeroed))
    drift = [_worst(row["parameters"]) for row in rows64] if "float64" in dtypes else []
    return Trajectory(drift, apart, controls, ratio, all(one.passed for one in checks)), checks


def _updated(transformation: optax.GradientTransformation) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    def update(grads: Any, memory: Any, params: Any) -> tuple[Any, Any]:
        updates, memory = transformation.update(grads, memory, params)
        return optax.apply_updates(params, updates), memory

    return update


def _cast(tree: Any, dtype: str) -> Any:
    """What is floating, in a dtype."""

    def cast(leaf: Any) -> Any:
        array = jnp.asarray(leaf)
        return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array

    return jax.tree.map(cast, tree)


def _wide(memory: Any) -> Any:
    """An optimizer's state with its counts in int64: JAX divides an int32 in float32, and so schedules round to it."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.int64) if leaf.dtype == jnp.int32 else leaf, memory)


def _require_same_start(ours: _JaxRun, theirs: _TorchRun) -> None:
    pairs = (("parameters", ours.params(), theirs.params()), ("states", ours.state(), theirs.state()))
    for what, a, b in pairs:
        wrong = [
            f"{name} by {error:.1e}" for name, error in differences(a, b, what).items() if error > bounds.FLOAT64_LIMIT
        ]
        if wrong:
            raise ParityError(f"the {what} differ before the first step: " + "; ".join(wrong))


def _rounding_only(ours: Arrays, theirs: Arrays) -> tuple[_Masks, _Masks]:
    """Where the float64 gradients of both sides are nothing but rounding.

    Returns:
      for every parameter that has such numbers, where they are, exact zeros included; and the same without those that
      are exact zeros on both sides, such as those of units that are off.
    """
    require_same_names(ours, theirs, "gradients")
    sizes = {name: np.maximum(np.abs(ours[name]), np.abs(theirs[name])) for name in ours}
    limit = bounds.FLOAT64_LIMIT * max((float(size.max(initial=0.0)) for size in sizes.values()), default=0.0)
    masks = {name: size <= limit for name, size in sizes.items()}
    noise = {name: mask & (sizes[name] > 0) for name, mask in masks.items()}
    noise = {name: where for name, where in noise.items() if where.any()}
    return {name: masks[name] for name in noise}, noise


def _row(ours: _JaxRun | _TorchRun, theirs: _JaxRun | _TorchRun, pairing: optimizers.Pairing) -> _Row:
    """How far two runs are apart, the second one's numbers giving the scale."""

    def memory(run: _JaxRun | _TorchRun) -> Arrays:
        remembered, _ = run.remembered()
        return pairing.ours(remembered) if isinstance(run, _JaxRun) else pairing.theirs(remembered)

    return {
        "parameters": differences(ours.params(), theirs.params(), "parameters"),
        "loss": differences({"loss": np.asarray(ours.loss)}, {"loss": np.asarray(theirs.loss)}),
        "optimizer state": differences(memory(ours), memory(theirs), "optimizers' states"),
        "network state": differences(ours.state(), theirs.state(), "states"),
    }


def _worst(errors: Mapping[str, float]) -> float:
    return max(errors.values(), default=0.0)


def _told(zeroed: Mapping[str, np.ndarray]) -> str:
    """Which gradients were taken as zero, for people; empty where none were."""
    said = [f"{name} ({int(where.sum())} of {where.size})" for name, where in zeroed.items()]
    return _ZEROED + ", ".join(said) if said else ""


def _judged(
    rows: Sequence[_Row], pairing: optimizers.Pairing, told: str, variances: Callable[[], set[str]]
) -> list[Check]:
    """One check of every quantity that the networks have, in float64."""
    checks, limit = [], bounds.TRAJECTORY_LIMIT
    for quantity in _QUANTITIES:
        notes = {"parameters": told, "optimizer state": pairing.note}
        note = notes.get(quantity, "")
        if not rows[0][quantity]:
            if note:
                checks.append(Check("training", "training", quantity, True, "float64", judged=False, note=note))
            continue
        errors = {name: max(row[quantity][name] for row in rows) for name in rows[0][quantity]}
        worst = max(errors, key=errors.__getitem__)
        beyond = next((i for i, row in enumerate(rows) if _worst(row[quantity]) > limit), None)
        if beyond is not None:
            then = rows[beyond][quantity]
            first = max(then, key=then.__getitem__)
            where = "" if quantity == "loss" else f" at {first}"
            note = "; ".join(part for part in (f"first beyond the limit in step {beyond + 1}{where}", note) if part)
            if quantity == "network state" and {name for name in errors if errors[name] > limit} <= variances():
                note += f"; {_VARIANCES}"
        name = f"{quantity}, worst of {len(rows)} steps" + ("" if quantity == "loss" else f": {worst}")
        checks.append(check("training", "training", name, errors[worst], limit, "float64", note))
    return checks


def _against_controls(
    rows: Sequence[Sequence[_Row]], quantity: str
) -> tuple[list[float], list[list[float]], float | None]:
    """The differences of a quantity in float32, the controls' and the ratio; empty where float32 was not asked for."""
    if not rows:
        return [], [], None
    found, *controls = ([_worst(row[i][quantity]) for row in rows] for i in range(1 + CONTROLS))
    return found, controls, chaos_ratio(found, controls)


def _ratios(rows: Sequence[Sequence[_Row]], told: str) -> list[Check]:
    """The parameters' ratio to chaos, judged, and the others', reported where they can be told."""
    checks, note = [], "median over the steps of the difference over the largest of three controls"
    for quantity in _QUANTITIES:
        _, _, ratio = _against_controls(rows, quantity)
        if ratio is None or not rows[0][0][quantity]:
            continue
        name = f"chaos ratio: {quantity}"
        if quantity == "parameters":
            notes = "; ".join(part for part in (note, told) if part)
            checks.append(check("training", "training", name, ratio, bounds.CHAOS_LIMIT, "float32", notes))
        elif np.isfinite(ratio):
            checks.append(reported("training", "training", name, ratio, "float32", f"not judged: {note}"))
    return checks


def differences(a: Arrays, b: Arrays, what: str = "arrays") -> dict[str, float]:
    """The largest difference of every array relative to the second one's scale; infinite where not finite.

    Raises:
      ParityError: if names or shapes differ.

    >>> differences({"w": np.array([1.0, 4.0]), "b": np.zeros(1)}, {"w": np.array([1.0, 2.0]), "b": np.zeros(1)})
    {'w': 1.0, 'b': 0.0}
    """
    require_same_names(a, b, what)
    wrong = [f"{name}: JAX {np.shape(a[name])}, PyTorch {np.shape(b[name])}" for name in b
             if np.shape(a[name]) != np.shape(b[name])]  # fmt: skip
    if wrong:
        raise ParityError(f"the shapes of the {what} differ: " + "; ".join(wrong))
    found = {}
    for name in b:
        if not (np.isfinite(a[name]).all() and np.isfinite(b[name]).all()):
            found[name] = float("inf")
            continue
        difference = float(np.abs(np.subtract(a[name], b[name])).max(initial=0.0))
        scale = float(np.abs(b[name]).max(initial=0.0))
        found[name] = (difference / scale if scale else float("inf")) if difference else 0.0
    return found


def distance(a: Arrays, b: Arrays) -> float:
    """The largest difference of any array relative to that array's scale; infinite where not finite.

    Raises:
      ParityError: if names or shapes differ.
    """
    return _worst(differences(a, b, "parameters"))


def perturbed(params: Arrays, seed: int) -> Arrays:
    """Every parameter moved by one unit in the last place, up or down at random."""
    rng = np.random.default_rng(seed)
    moved = {}
    for name, value in params.items():
        direction = np.where(rng.integers(0, 2, value.shape, dtype=np.int8), np.inf, -np.inf).astype(value.dtype)
        moved[name] = np.nextafter(value, direction)
    return moved


def chaos_ratio(differences: list[float], controls: list[list[float]]) -> float:
    """Median over the steps of a difference over the largest control's; infinite where nothing can be told.

    >>> chaos_ratio([2.0, 3.0, 8.0], [[1.0, 1.0, 1.0], [1.0, 3.0, 2.0]])
    2.0
    """
    largest = np.max(np.array(controls), axis=0)
    known = np.isfinite(differences) & np.isfinite(largest) & (largest > 0)
    ratio = np.divide(differences, largest, out=np.full(len(largest), np.inf), where=known)
    return float(np.median(ratio))
