"""Mistakes in porting an optimizer, planted on either side, are named; one that is not known is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from netparity import compare, function
from netparity.diagnosis.mistakes import MISTAKES as MISTAKES_TO_MEND
from netparity.table import DenseKernel, Same, Sum
from netparity.training.diagnosis import explain, pattern
from netparity.training.mistakes import key
from netparity.training.recording import KEPT, Recorder, Recording, kind_of, options_of

STEPS, BATCH = 5, 6
RNG = np.random.default_rng(7)
START = {"dense.kernel": RNG.standard_normal((4, 3)), "dense.bias": RNG.standard_normal(3)}
LARGE = {"dense.kernel": RNG.standard_normal((40, 30)), "dense.bias": RNG.standard_normal(30)}


def _slope(step: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng([step, len(name)]).standard_normal(shape)


def _gradients(step: int, params: dict[str, Any]) -> dict[str, Any]:
    """Of no network's loss, but so that the sides' gradients part once their parameters do."""
    return {name: _slope(step, name, value.shape) + 0.3 * np.asarray(value) for name, value in params.items()}


def _jax_steps(transformation: Any, start: dict[str, np.ndarray], steps: int) -> list[dict[str, np.ndarray]]:
    """The parameters before the first step and after each, with the counts of schedules in 64 bits."""
    with jax.enable_x64(True):
        params = {name: jnp.asarray(value) for name, value in start.items()}
        state = transformation.init(params)
        state = jax.tree.map(lambda leaf: leaf.astype(jnp.int64) if leaf.dtype == jnp.int32 else leaf, state)
        seen = [params]
        for step in range(steps):
            grads = {name: jnp.asarray(grad) for name, grad in _gradients(step, params).items()}
            updates, state = transformation.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            seen.append(params)
    return [{name: np.asarray(value) for name, value in row.items()} for row in seen]


def record(transformation: Any, factory: Any, steps: int = STEPS, start: Any = None) -> Recording:
    """Lets both optimizers step from the same parameters, as `netparity.training.steps` does."""
    ours = _jax_steps(transformation, start or START, steps)
    parameters = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in (start or START).items()}
    made = factory(list(parameters.values()))
    optimizer, take = made if isinstance(made, tuple) else (made, made.step)
    groups = {p: i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}

    def now() -> dict[str, np.ndarray]:
        return {name: p.detach().numpy().copy() for name, p in parameters.items()}

    recorder = Recorder(BATCH)
    optimizer.register_step_pre_hook(lambda *_: recorder.used({n: np.asarray(p.grad) for n, p in parameters.items()}))
    recorder.start(
        kind_of(optimizer),
        {"jax": ours[0], "torch": now()},
        {name: np.full(p.shape, groups.get(p, -1)) for name, p in parameters.items()},
        {name: np.zeros(p.shape) for name, p in parameters.items()},
    )
    for step in range(steps):
        grads = _gradients(step, now())
        for name, p in parameters.items():
            p.grad = torch.tensor(grads[name])
        recorder.before({"jax": _gradients(step, ours[step]), "torch": grads}, {})
        before = options_of(optimizer)
        take()
        recorder.after({"jax": ours[step + 1], "torch": now()}, (before, options_of(optimizer)))
    return recorder.recording()


def _clip(limit: float) -> optax.GradientTransformation:
    """PyTorch's ``clip_grad_norm_``."""

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        factor = jnp.minimum(limit / (optax.tree.norm(grads) + 1e-6), 1.0)
        return jax.tree.map(lambda grad: grad * factor, grads), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _first(make: Any, change: Callable[[list[Any]], Any], last: Callable[[list[Any]], Any] = list) -> Any:
    """PyTorch's optimizer, with something done to its parameters before each step, and after it."""

    def factory(parameters: list[Any]) -> Any:
        optimizer = make(parameters)

        def step() -> None:
            change(parameters)
            optimizer.step()
            last(parameters)

        return optimizer, step

    return factory


def _scheduled(schedule: Any, early: bool = False, make: Any = lambda p: torch.optim.SGD(p, 0.2)) -> Any:
    def factory(parameters: list[Any]) -> Any:
        optimizer = make(parameters)
        scheduler = schedule(optimizer)
        order = (scheduler.step, optimizer.step) if early else (optimizer.step, scheduler.step)

        def step() -> None:
            for one in order:
                one()

        return optimizer, step

    return factory


def _groups(parameters: list[Any]) -> list[dict[str, Any]]:
    """Weight decay for kernels alone."""
    return [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]


def _kernels(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, tree)


def _apart(kernels: Any, biases: Any) -> Any:
    labels = {"dense.kernel": "kernels", "dense.bias": "biases"}
    return optax.partition({"kernels": kernels, "biases": biases}, labels)


class Uncorrected(torch.optim.Adam):
    """Adam as it is sometimes written."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * p.grad
                state["v"] = 0.999 * state.get("v", 0.0) + 0.001 * p.grad**2
                p -= group["lr"] * state["m"] / (state["v"].sqrt() + group["eps"])


class Decaying(torch.optim.SGD):
    """No optimizer that is known."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        super().step()
        for group in self.param_groups:
            for p in group["params"]:
                p *= 1 - 0.1 * torch.tanh(p)


def _cosine(period: int) -> Any:
    return lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, period)


def _stairs(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)


DECAYED, CHAIN = optax.add_decayed_weights, optax.chain
SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
RMSPROP, ADAGRAD = torch.optim.RMSprop, torch.optim.Adagrad
RMS = {"decay": 0.99, "eps_in_sqrt": False}
COSINE = optax.cosine_decay_schedule(0.2, 7)
STAIRS = optax.exponential_decay(0.2, 2, 0.5, staircase=True)


def _adam(parameters: list[Any]) -> Any:
    return ADAM(parameters, 0.01)


def _adamw(parameters: list[Any]) -> Any:
    return ADAMW(parameters, 0.01)


def _sgd(parameters: list[Any]) -> Any:
    return SGD(parameters, 0.1, momentum=0.9)


def _rmsprop(parameters: list[Any]) -> Any:
    return RMSPROP(parameters, 0.01)


_NORM = _first(_sgd, lambda p: clip_grad_norm_(p, 0.5))
_ZEROING = _first(_sgd, lambda p: clip_grad_norm_(p, 0.5), lambda p: [one.grad.zero_() for one in p])
_VALUE = _first(_sgd, lambda p: clip_grad_value_(p, 0.5))
_EACH = _first(_sgd, lambda p: [clip_grad_norm_([one], 0.5) for one in p])
_CLIPPED = "gradients clipped by the norm of all (0.5)"

# What is said of each pair.
MISTAKES: dict[str, tuple[Any, Any, str]] = {
    "Keras's epsilon": (optax.adam(0.01, eps=1e-7), _adam, "JAX has epsilon 1e-07 where PyTorch has 1e-08 (Adam)"),
    "epsilon in PyTorch": (
        optax.adam(0.01),
        lambda p: ADAM(p, 0.01, eps=1e-6),
        "JAX has epsilon 1e-08 where PyTorch has 1e-06 (Adam)",
    ),
    "no usual epsilon": (optax.adam(0.01, eps=3e-5), _adam, "JAX has epsilon 3e-05 where PyTorch has 1e-08 (Adam)"),
    "epsilon in Adam's root": (optax.adam(0.01, eps=0.0, eps_root=1e-8), _adam, "JAX: epsilon inside the root (Adam)"),
    "both of Adam's epsilons": (
        optax.adam(0.01, eps_root=1e-8),
        _adam,
        "JAX: epsilon inside the root and outside it (Adam)",
    ),
    "bias of both moments": (
        CHAIN(optax.scale_by_amsgrad(bias_correction_mu=False, bias_correction_nu=False), optax.scale(-0.01)),
        lambda p: ADAM(p, 0.01, amsgrad=True),
        "JAX: bias correction left out (Adam)",
    ),
    "bias of the first moment": (
        CHAIN(optax.adam(0.01), optax.scale_by_schedule(lambda step: 1 - 0.9 ** (step + 1))),
        _adam,
        "JAX: bias correction of the first moment left out (Adam)",
    ),
    "bias in PyTorch": (optax.adam(0.01), lambda p: Uncorrected(p, 0.01), "PyTorch: bias correction left out (Adam)"),
    "b2": (optax.adam(0.01, b2=0.99), _adam, "JAX has b2 0.99 where PyTorch has 0.999 (Adam)"),
    "b2 in PyTorch": (
        optax.adam(0.01),
        lambda p: ADAM(p, 0.01, betas=(0.9, 0.99)),
        "JAX has b2 0.999 where PyTorch has 0.99 (Adam)",
    ),
    "no usual b1": (optax.adam(0.01, b1=0.87), _adam, "JAX has b1 0.87 where PyTorch has 0.9 (Adam)"),
    "betas": (optax.adam(0.01, b1=0.999, b2=0.9), _adam, "JAX: b1 and b2 swapped (Adam)"),
    "NAdam": (optax.nadam(0.01), _adam, "JAX: Nesterov's form (NAdam), PyTorch: Adam's"),
    "AMSGrad": (
        optax.amsgrad(0.01, b2=0.5),
        lambda p: ADAM(p, 0.01, betas=(0.9, 0.5), amsgrad=True),
        "JAX: AMSGrad's maximum taken after the correction of the bias, PyTorch: before it (Adam)",
    ),
    "AMSGrad in PyTorch": (
        optax.adam(0.01, b2=0.5),
        lambda p: ADAM(p, 0.01, betas=(0.9, 0.5), amsgrad=True),
        "JAX: AMSGrad's maximum left out (Adam)",
    ),
    "AMSGrad in JAX": (
        optax.amsgrad(0.01, b2=0.5),
        lambda p: ADAM(p, 0.01, betas=(0.9, 0.5)),
        "JAX: AMSGrad's maximum, after the correction of the bias, PyTorch: none",
    ),
    "optax's decay": (optax.adamw(0.01), _adamw, "JAX has weight decay 0.0001 where PyTorch has 0.01 (AdamW)"),
    "no usual decay": (
        optax.adamw(0.01, weight_decay=0.037),
        _adamw,
        "JAX has weight decay 0.037 where PyTorch has 0.01 (AdamW)",
    ),
    "no usual coupled decay": (
        CHAIN(DECAYED(0.037), optax.adam(0.01)),
        lambda p: ADAM(p, 0.01, weight_decay=0.01),
        "JAX has weight decay 0.037 where PyTorch has 0.01 (Adam)",
    ),
    "another decay of kernels": (
        optax.adamw(0.01, weight_decay=0.02, mask=_kernels),
        lambda p: ADAMW(_groups(p), 0.01),
        "JAX has weight decay 0.02 where PyTorch has 0.01 (AdamW)",
    ),
    "no decay": (optax.adam(0.01), _adamw, "JAX: weight decay left out, PyTorch: weight decay 0.01 (AdamW)"),
    "AdamW for Adam": (
        optax.adamw(0.01),
        _adam,
        "JAX has weight decay 0.0001 where PyTorch has 0 (Adam); JAX's is decoupled from the gradient",
    ),
    "L2 for AdamW": (
        CHAIN(DECAYED(0.01), optax.adam(0.01)),
        _adamw,
        "JAX: weight decay coupled with the gradient (L2), PyTorch: decoupled (AdamW)",
    ),
    "L2 in PyTorch": (
        optax.adamw(0.01, weight_decay=0.01),
        lambda p: ADAM(p, 0.01, weight_decay=0.01),
        "JAX: weight decay decoupled from the gradient (AdamW), PyTorch: coupled with the gradient (L2, Adam)",
    ),
    "decay after the rate": (
        CHAIN(optax.scale_by_adam(), optax.scale(-0.01), DECAYED(-0.01)),
        _adamw,
        "JAX: weight decay not multiplied by the learning rate (AdamW)",
    ),
    "decay by the first rate": (
        CHAIN(optax.scale_by_adam(), optax.scale_by_learning_rate(STAIRS), DECAYED(-0.2 * 0.01)),
        _scheduled(_stairs, make=lambda p: ADAMW(p, 0.2)),
        "JAX: weight decay multiplied by the first learning rate throughout, PyTorch: by each step's (AdamW)",
    ),
    "decay after the momentum": (
        CHAIN(optax.trace(0.9), DECAYED(0.1), optax.scale(-0.1)),
        lambda p: SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
        "JAX: weight decay decoupled from the gradient, PyTorch: coupled with the gradient (L2, SGD)",
    ),
    "decay of kernels alone": (
        optax.adamw(0.01, weight_decay=0.01, mask=_kernels),
        _adamw,
        "JAX: weight decay on kernels alone, PyTorch: on every parameter (AdamW)",
    ),
    "decay of everything": (
        optax.adamw(0.01, weight_decay=0.01),
        lambda p: ADAMW(_groups(p), 0.01),
        "JAX: weight decay on every parameter, PyTorch: on kernels alone (AdamW)",
    ),
    "no momentum": (optax.sgd(0.1), _sgd, "JAX: momentum left out, PyTorch: momentum 0.9 (SGD)"),
    "momentum": (optax.sgd(0.1, 0.9), lambda p: SGD(p, 0.1), "JAX has momentum 0.9 where PyTorch has 0 (SGD)"),
    "Nesterov": (
        optax.sgd(0.1, 0.9, nesterov=True),
        _sgd,
        "JAX: Nesterov's momentum, PyTorch: plain momentum (SGD)",
    ),
    "Nesterov in PyTorch": (
        optax.sgd(0.1, 0.9),
        lambda p: SGD(p, 0.1, momentum=0.9, nesterov=True),
        "JAX: Nesterov's momentum left out (SGD)",
    ),
    "dampening in PyTorch": (
        optax.sgd(0.1, 0.9),
        lambda p: SGD(p, 0.1, momentum=0.9, dampening=0.9),
        "JAX has dampening 0 where PyTorch has 0.9 (SGD)",
    ),
    # A learning rate of a tenth does the same, step for step.
    "average": (
        CHAIN(optax.ema(0.9, debias=False), optax.scale(-0.1)),
        _sgd,
        "JAX: velocity as an average, (1 - m) g (SGD), or JAX has learning rate 0.01 where PyTorch has 0.1",
    ),
    "corrected average": (
        CHAIN(optax.ema(0.9), optax.scale(-0.1)),
        _sgd,
        "JAX: velocity as an average, corrected for its beginning at zero (SGD)",
    ),
    "gradient's sign": (optax.sgd(-0.1, 0.9), _sgd, "JAX: gradient's sign (SGD)"),
    "sign in PyTorch": (optax.sgd(0.1), lambda p: SGD(p, 0.1, maximize=True), "JAX: gradient's sign (SGD)"),
    "optax's RMSprop": (
        optax.rmsprop(0.01),
        _rmsprop,
        "JAX: epsilon inside the root (RMSprop); JAX has alpha 0.9 where PyTorch has 0.99 (RMSprop)",
    ),
    "RMSprop's alpha": (
        optax.rmsprop(0.01, eps_in_sqrt=False),
        _rmsprop,
        "JAX has alpha 0.9 where PyTorch has 0.99 (RMSprop)",
    ),
    "RMSprop's epsilon": (optax.rmsprop(0.01, 0.99), _rmsprop, "JAX: epsilon inside the root (RMSprop)"),
    "RMSprop's beginning": (
        optax.rmsprop(0.01, **RMS, initial_scale=1.0),
        _rmsprop,
        "JAX's average of squares begins at 1 (initial_scale) where PyTorch's begins at 0",
    ),
    "RMSprop's centre": (
        optax.rmsprop(0.01, **RMS, centered=True),
        _rmsprop,
        "JAX: centred, PyTorch: not centred (RMSprop)",
    ),
    "RMSprop's centre in PyTorch": (
        optax.rmsprop(0.01, **RMS),
        lambda p: RMSPROP(p, 0.01, centered=True),
        "JAX: not centred, PyTorch: centred (RMSprop)",
    ),
    "RMSprop's bias": (
        optax.rmsprop(0.01, **RMS, bias_correction=True),
        _rmsprop,
        "JAX: bias correction, PyTorch: none (RMSprop)",
    ),
    "RMSprop's momentum": (
        optax.rmsprop(0.01, **RMS),
        lambda p: RMSPROP(p, 0.01, momentum=0.9),
        "JAX: momentum left out, PyTorch: momentum 0.9 (RMSprop)",
    ),
    "optax's Adagrad": (
        optax.adagrad(0.1),
        lambda p: ADAGRAD(p, 0.1),
        "JAX: epsilon 1e-07 inside the root, PyTorch: 1e-10 outside it (Adagrad); JAX's sum of squares begins at 0.1 "
        "(initial_accumulator_value) where PyTorch's begins at 0",
    ),
    "optax's norm": (
        CHAIN(optax.clip_by_global_norm(0.5), optax.sgd(0.1, 0.9)),
        _NORM,
        "JAX: gradients clipped by the norm alone (0.5), PyTorch: by the norm plus epsilon 1e-06",
    ),
    "no clipping": (
        optax.sgd(0.1, 0.9),
        _NORM,
        f"JAX: gradient clipping left out, PyTorch: {_CLIPPED}",
    ),
    "no clipping, and no gradients left": (
        optax.sgd(0.1, 0.9),
        _ZEROING,
        f"JAX: gradient clipping left out, PyTorch: {_CLIPPED}",
    ),
    "clipping": (
        CHAIN(optax.clip_by_global_norm(1.7), optax.sgd(0.1, 0.9)),
        _sgd,
        "JAX clips gradients to norm 1.7 where PyTorch does not clip",
    ),
    "clipping by value": (
        CHAIN(optax.clip(0.5), optax.sgd(0.1, 0.9)),
        _NORM,
        f"JAX: gradients clipped by value (0.5), PyTorch: {_CLIPPED}",
    ),
    "clipping by value in PyTorch": (
        CHAIN(optax.clip_by_global_norm(0.5), optax.sgd(0.1, 0.9)),
        _VALUE,
        f"JAX: {_CLIPPED}, PyTorch: gradients clipped by value (0.5)",
    ),
    "clipping one by one in PyTorch": (
        CHAIN(_clip(0.5), optax.sgd(0.1, 0.9)),
        _EACH,
        f"JAX: {_CLIPPED}, PyTorch: each parameter's gradient clipped by its own norm (0.5)",
    ),
    "clipping of steps": (
        CHAIN(optax.sgd(0.1, 0.9), optax.clip_by_global_norm(0.5)),
        _NORM,
        "JAX clips its steps where PyTorch clips gradients (to norm 0.5)",
    ),
    "clipping of velocities": (
        CHAIN(optax.trace(0.9), _clip(0.5), optax.scale(-0.1)),
        _NORM,
        "JAX clips its steps before the learning rate where PyTorch clips gradients (to norm 0.5)",
    ),
    "halved gradients in PyTorch": (
        optax.sgd(0.1, 0.9),
        _first(_sgd, lambda p: [one.grad.mul_(0.5) for one in p]),
        "PyTorch alters its gradients before SGD gets them, and JAX does not",
    ),
    "another step in PyTorch": (
        optax.sgd(0.1, 0.9),
        lambda p: Decaying(p, 0.1, momentum=0.9),
        "JAX takes the steps that PyTorch's options ask of SGD, and PyTorch does not",
    ),
    "rate": (optax.sgd(0.1001), lambda p: SGD(p, 0.1), "JAX has learning rate 0.1001 where PyTorch has 0.1"),
    "sum for mean": (
        optax.sgd(0.6),
        lambda p: SGD(p, 0.1),
        "JAX has learning rate 0.6 where PyTorch has 0.1 (the batch is of 6: are gradients summed?)",
    ),
    "float32 rate": (
        optax.sgd(np.float32(0.1)),
        lambda p: SGD(p, 0.1),
        "JAX's learning rate 0.1 is rounded to float32",
    ),
    "early": (
        optax.sgd(lambda step: COSINE(step + 1)),
        _scheduled(_cosine(7)),
        "JAX's learning rate runs one step early",
    ),
    "late": (
        optax.sgd(lambda step: COSINE(step - 1)),
        _scheduled(_cosine(7)),
        "JAX's learning rate runs one step late",
    ),
    "late, first in PyTorch": (
        optax.sgd(STAIRS),
        _scheduled(_stairs, early=True),
        "PyTorch's learning rate runs one step early",
    ),
    "no schedule": (
        optax.sgd(0.2),
        _scheduled(_stairs),
        "JAX's learning rate stays 0.2 where PyTorch's is 0.2, 0.2, 0.1, 0.1, …",
    ),
    "schedule": (
        optax.sgd(STAIRS),
        lambda p: SGD(p, 0.2),
        "JAX's learning rate is 0.2, 0.2, 0.1, 0.1, … where PyTorch's stays 0.2",
    ),
    "length": (
        optax.sgd(COSINE),
        _scheduled(_cosine(8)),
        "JAX's cosine schedule runs over 7 steps where PyTorch's runs over 8",
    ),
    "rate inside the velocity": (
        CHAIN(optax.scale_by_learning_rate(STAIRS), optax.trace(0.9)),
        _scheduled(_stairs, make=lambda p: SGD(p, 0.2, momentum=0.9)),
        "JAX: learning rate inside the velocity (SGD)",
    ),
    "two": (
        optax.adamw(0.02),
        _adamw,
        "JAX has weight decay 0.0001 where PyTorch has 0.01 (AdamW); JAX has learning rate 0.02 where PyTorch has 0.01",
    ),
    "frozen": (_apart(optax.adam(0.01), optax.set_to_zero()), _adam, "JAX does not train dense.bias"),
    "frozen in PyTorch": (
        optax.adam(0.01),
        lambda p: ADAM([one for one in p if one.ndim > 1], 0.01),
        "JAX trains dense.bias, which PyTorch's optimizer does not have",
    ),
    "another rate": (
        _apart(optax.adam(0.01), optax.adam(0.1)),
        _adam,
        "JAX has learning rate 0.1 where PyTorch has 0.01, in dense.bias alone",
    ),
    "another rate in a group": (
        _apart(optax.adam(0.01), optax.adam(0.02)),
        lambda p: ADAM([{"params": p[:1]}, {"params": p[1:], "lr": 0.1}], 0.01),
        "JAX has learning rate 0.02 where PyTorch has 0.1, in dense.bias alone",
    ),
    "half of every rate": (
        _apart(optax.adam(0.005), optax.adam(0.05)),
        lambda p: ADAM([{"params": p[:1]}, {"params": p[1:], "lr": 0.1}], 0.01),
        "JAX's learning rate is 0.5 times PyTorch's",
    ),
    "one rate for all": (
        optax.adam(0.01),
        lambda p: ADAM([{"params": p[:1]}, {"params": p[1:], "lr": 0.1}], 0.01),
        "JAX: one learning rate 0.01, PyTorch: 0.01 and 0.1 by group",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")  # which is the mistake
def test_a_known_mistake_is_named(name):
    transformation, factory, line = MISTAKES[name]
    assert explain(record(transformation, factory)) == line


RIGHT: dict[str, tuple[Any, Any]] = {
    "Adam": (optax.adam(0.01), _adam),
    "AdamW": (optax.adamw(0.01, weight_decay=0.01, mask=_kernels), lambda p: ADAMW(_groups(p), 0.01)),
    "SGD": (CHAIN(DECAYED(0.1), optax.sgd(0.1, 0.9)), lambda p: SGD(p, 0.1, momentum=0.9, weight_decay=0.1)),
    "RMSprop": (
        optax.rmsprop(0.01, **RMS, momentum=0.9, centered=True),
        lambda p: RMSPROP(p, 0.01, momentum=0.9, centered=True),
    ),
    "clipping": (CHAIN(_clip(0.5), optax.sgd(0.1, 0.9)), _NORM),
    "schedule": (optax.sgd(COSINE), _scheduled(_cosine(7))),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_pair_has_nothing_to_explain(name):
    recording = record(*RIGHT[name])
    assert explain(recording) is None
    assert pattern(recording) is None


# Optimizers that are none of PyTorch's with another option, and what is seen of them.
UNKNOWN: dict[str, tuple[Any, Any, str]] = {
    "Lion": (optax.lion(0.01), _adam, "step 1: JAX's differs from PyTorch's number by number"),
    "NovoGrad": (
        optax.novograd(0.01),
        lambda p: SGD(p, 0.01),
        "step 1: JAX's is PyTorch's times another number for every parameter",
    ),
    "half": (
        CHAIN(optax.adadelta(0.5, 0.9, 1e-6), optax.scale(0.5)),
        lambda p: torch.optim.Adadelta(p, 0.5, rho=0.9, eps=1e-6),
        "step 1: JAX's is 0.5 times PyTorch's",
    ),
    "two epsilons": (optax.sgd(0.01), torch.optim.Adafactor, "step 1: JAX's differs from PyTorch's number by number"),
    "frozen": (
        _apart(optax.adamax(0.01), optax.set_to_zero()),
        lambda p: torch.optim.Adamax(p, 0.01),
        "step 1: JAX takes none in dense.bias alone",
    ),
    "both": (optax.sgd(0.1, 0.8), lambda p: Decaying(p, 0.1, momentum=0.9), "step 1: JAX's differs from PyTorch's"),
    "infinite": (optax.sgd(1e308), lambda p: SGD(p, 1e308), "step 1: JAX's differs from PyTorch's number by number"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_described_and_not_explained(name):
    transformation, factory, line = UNKNOWN[name]
    recording = record(transformation, factory)
    assert explain(recording) is None
    assert (pattern(recording) or "").startswith(line)


def test_one_step_does_not_tell_everything():
    # -0.1 g where PyTorch steps by -0.1 (g + 0.9 g)
    said = explain(record(optax.sgd(0.1, 0.9), lambda p: SGD(p, 0.1, momentum=0.9, nesterov=True), steps=1))
    assert said is not None
    assert said.endswith(" (as far as one step tells)")
    assert said.split(", or ")[:2] == [
        "JAX: momentum left out, PyTorch: momentum 0.9 (SGD)",
        "JAX: Nesterov's momentum left out (SGD)",
    ]
    assert explain(record(optax.adam(0.01, b2=0.99), _adam, steps=1)) is None


def test_large_parameters_are_told_by_some_of_their_numbers_and_whole_norms():
    recording = record(CHAIN(optax.clip_by_global_norm(0.5), optax.sgd(0.1, 0.9)), _NORM, start=LARGE)
    assert recording.used.shape == (STEPS, KEPT + 30)
    norms = [np.linalg.norm(_gradients(0, LARGE)[name]) for name in LARGE]
    np.testing.assert_allclose(recording.jax.norms[0], norms, rtol=1e-14)
    assert explain(recording) == MISTAKES["optax's norm"][2]


def _forward(params: Any, x: Any) -> Any:
    return jnp.dot(x, params["kernel"], precision="highest") + params["bias"][None]


class TwoBiases(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense, self.extra = torch.nn.Linear(5, 3), torch.nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(x) + self.extra


def _compared(transformation: Any, factory: Any, module: Any = None, bias: Any = None) -> Any:
    module = torch.nn.Sequential(torch.nn.Linear(5, 3)) if module is None else module
    name = "0" if bias is None else "dense"
    table = {"kernel": DenseKernel(f"{name}.weight"), "bias": Same(f"{name}.bias") if bias is None else bias}
    params = {"kernel": RNG.standard_normal((5, 3), np.float32), "bias": RNG.standard_normal(3, np.float32)}
    return compare(
        function(_forward, params),
        module,
        RNG.standard_normal((BATCH, 5), np.float32),
        labels=np.arange(BATCH) % 3,
        table=table,
        modes=["training"],
        dtypes=["float64"],
        optimizer=(transformation, factory),
        steps=3,
    )


def test_a_comparison_names_the_mistake():
    result = _compared(optax.adam(0.01, eps=1e-7), _adam)
    assert not result.passed
    assert result.first_divergence[0] == "training"
    assert result.diagnosis == (
        f"first diverging stage: training ({result.first_divergence[1]}); the difference vanishes under: "
        "JAX has epsilon 1e-07 where PyTorch has 1e-08 (Adam)"
    )
    assert result.advice == MISTAKES_TO_MEND["adam-epsilon"].mend


# What `netparity.diagnosis.mistakes` knows of the mistakes above.
KEYS = {
    "epsilon in Adam's root": "adam-epsilon",
    "bias in PyTorch": "adam-bias-correction",
    "b2": "adam-betas",
    "betas": "adam-betas",
    "optax's decay": "weight-decay",
    "decay of kernels alone": "weight-decay",
    "AdamW for Adam": "weight-decay",
    "L2 for AdamW": "decoupled-decay",
    "L2 in PyTorch": "decoupled-decay",
    "Nesterov": "momentum",
    "dampening in PyTorch": "momentum",
    "average": "momentum",
    "optax's RMSprop": "rmsprop-epsilon",
    "RMSprop's alpha": "rmsprop-decay",
    "RMSprop's centre in PyTorch": "rmsprop-centred",
    "optax's norm": "clip-epsilon",
    "clipping by value": "clip-kind",
    "early": "schedule-shift",
    "late, first in PyTorch": "schedule-shift",
    "length": "schedule-length",
    "rate": "",
}


@pytest.mark.parametrize("name", KEYS)
def test_a_mistake_is_looked_up(name):
    found = key(MISTAKES[name][2])
    assert found == KEYS[name]
    assert not found or found in MISTAKES_TO_MEND


def test_a_comparison_describes_what_it_does_not_know():
    result = _compared(optax.sgd(0.1), lambda p: torch.optim.ASGD(p, 0.05, lambd=0.0))
    assert result.diagnosis.endswith("; no known mistake explains it: step 1: JAX's is 2 times PyTorch's")


def test_a_comparison_tells_of_an_array_that_is_two_in_pytorch():
    result = _compared(optax.sgd(0.1), lambda p: SGD(p, 0.1), TwoBiases(), Sum((Same("dense.bias"), Same("extra"))))
    assert result.diagnosis.endswith(
        "bias: one array in JAX, the sum of several in PyTorch, each of which PyTorch's optimizer moves"
    )
