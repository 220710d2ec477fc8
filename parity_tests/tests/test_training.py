"""Training in lockstep: right ports of optimizers pass, and the mistakes that are made in porting them do not."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as fnn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax.traverse_util import flatten_dict
from jax import lax
from torch import nn
from torch.nn.utils import clip_grad_norm_

from netparity import bounds
from netparity.measure import Arrays, ParityError
from netparity.optimizers import SCALED, optax_state, pair, torch_state
from netparity.results import Check, Trajectory
from netparity.training import JaxProgram, TorchProgram, distance, train

RNG = np.random.default_rng(3)
STEPS, BATCH = 7, 6


def _random(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (scale * RNG.standard_normal(shape)).astype(np.float32)


FEATURES, LABELS = _random(STEPS, BATCH, 5), RNG.integers(0, 3, (STEPS, BATCH))
IMAGES = _random(STEPS, BATCH, 5, 7, 2)
MLP = {
    "hidden": {"kernel": _random(5, 8), "bias": _random(8)},
    "out": {"kernel": _random(8, 3), "bias": _random(3)},
}
# The biases before the batch normalisation begin at zero, as Flax has them.
CNN = {
    "conv": {"kernel": _random(3, 3, 2, 4), "bias": np.zeros(4, np.float32)},
    "norm": {"scale": 1 + _random(4, scale=0.1), "bias": _random(4)},
    "out": {"kernel": _random(4, 3), "bias": _random(3)},
}
STATISTICS = {"norm": {"mean": np.zeros(4, np.float32), "var": np.ones(4, np.float32)}}


def _flat(tree: Any) -> Arrays:
    return {name: np.asarray(value) for name, value in flatten_dict(tree, sep=".").items()}


def _cross_entropy(logits: jax.Array, step: Any) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(LABELS)[step]).mean()


def _mlp_loss(params: Any, state: Any, step: Any) -> Any:
    x = jnp.asarray(FEATURES)[step].astype(params["out"]["bias"].dtype)
    x = jnp.tanh(jnp.dot(x, params["hidden"]["kernel"], precision="highest") + params["hidden"]["bias"][None])
    logits = jnp.dot(x, params["out"]["kernel"], precision="highest") + params["out"]["bias"][None]
    return _cross_entropy(logits, step), state


def _cnn_loss(params: Any, state: Any, step: Any) -> Any:
    kernel = params["conv"]["kernel"]
    x = jnp.asarray(IMAGES)[step].astype(kernel.dtype)
    x = lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )
    x = x + params["conv"]["bias"][None, None, None]
    mean, var, n = x.mean((0, 1, 2)), x.var((0, 1, 2)), x.size / x.shape[-1]
    x = (x - mean[None, None, None]) * lax.rsqrt(var + 1e-5)[None, None, None]
    x = nn_relu(x * params["norm"]["scale"][None, None, None] + params["norm"]["bias"][None, None, None])
    logits = jnp.dot(x.mean((1, 2)), params["out"]["kernel"], precision="highest") + params["out"]["bias"][None]
    old = state["norm"]
    new = {"mean": 0.9 * old["mean"] + 0.1 * mean, "var": 0.9 * old["var"] + 0.1 * var * (n / (n - 1))}
    return _cross_entropy(logits, step), {"norm": new}


nn_relu = jax.nn.relu


def _jax(loss: Callable[..., Any], params: Any, state: Any) -> JaxProgram:
    return JaxProgram(params, state, _with_gradient(loss), _flat)


def _with_gradient(loss: Callable[..., Any]) -> Callable[..., Any]:
    def value_and_grad(params: Any, state: Any, step: Any) -> Any:
        (value, new), grads = jax.value_and_grad(loss, has_aux=True)(params, state, step)
        return value, grads, new

    return value_and_grad


JAX_MLP, JAX_CNN = _jax(_mlp_loss, MLP, {}), _jax(_cnn_loss, CNN, STATISTICS)
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def _to_torch(name: str, array: np.ndarray) -> tuple[str, torch.Tensor]:
    layer, leaf = name.rsplit(".", 1)
    moved = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    return f"{layer}.{_LEAVES[leaf]}", torch.from_numpy(moved.copy())


def _to_common(like: Arrays) -> Callable[[Arrays], Arrays]:
    def to_common(arrays: Arrays) -> Arrays:
        common = {}
        for name, array in like.items():
            layer, leaf = name.rsplit(".", 1)
            found = arrays[f"{layer}.{_LEAVES[leaf]}"]
            common[name] = found.transpose(2, 3, 1, 0) if found.ndim == 4 else found.T
        return common

    return to_common


def _torch(layers: list[tuple[str, Callable[[], nn.Module]]], params: Any, state: Any, data: np.ndarray) -> TorchProgram:
    values = dict(_to_torch(name, value) for name, value in {**_flat(params), **_flat(state)}.items())

    def make(dtype: torch.dtype) -> nn.Module:
        module = nn.Sequential(OrderedDict((name, layer()) for name, layer in layers))
        missing, unexpected = module.load_state_dict(values, strict=False)
        assert not unexpected
        assert all(name.endswith("num_batches_tracked") for name in missing)
        return module.to(dtype)

    def loss(module: nn.Module, step: int) -> torch.Tensor:
        module.train()
        x = torch.from_numpy(data[step]).to(next(module.parameters()).dtype)
        return nn.functional.cross_entropy(module(x), torch.from_numpy(LABELS[step]))

    return TorchProgram(make, loss, _to_common(_flat(params)), _to_common(_flat(state)))


TORCH_MLP = _torch(
    [("hidden", lambda: nn.Linear(5, 8)), ("act", nn.Tanh), ("out", lambda: nn.Linear(8, 3))], MLP, {}, FEATURES
)
TORCH_CNN = _torch(
    [
        ("conv", lambda: nn.Conv2d(2, 4, 3, padding=1)),
        ("norm", lambda: nn.BatchNorm2d(4)),
        ("act", nn.ReLU),
        ("pool", lambda: nn.AdaptiveAvgPool2d(1)),
        ("flat", nn.Flatten),
        ("out", lambda: nn.Linear(4, 3)),
    ],
    CNN,
    STATISTICS,
    IMAGES.transpose(0, 1, 4, 2, 3),
)


def _mlp(
    transformation: Any, factory: Any, dtypes: tuple[str, ...] = ("float64",), steps: int = STEPS
) -> tuple[Trajectory, dict[str, Check]]:
    return _named(train(JAX_MLP, TORCH_MLP, (transformation, factory), steps, dtypes))


def _cnn(transformation: Any, factory: Any, dtypes: tuple[str, ...] = ("float64",)) -> tuple[Trajectory, dict[str, Check]]:
    return _named(train(JAX_CNN, TORCH_CNN, (transformation, factory), STEPS, dtypes))


def _named(found: tuple[Trajectory, list[Check]]) -> tuple[Trajectory, dict[str, Check]]:
    """The checks by quantity, with the dtype where it is float32."""
    trajectory, checks = found
    assert {one.level for one in checks} == {one.stage for one in checks} == {"training"}
    named = {one.name.removeprefix("chaos ratio: ").split(",")[0] + ("" if one.dtype == "float64" else " 32"): one
             for one in checks}  # fmt: skip
    assert len(named) == len(checks)
    return trajectory, named


def _clip(max_norm: float) -> optax.GradientTransformation:
    """PyTorch's ``clip_grad_norm_``."""

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        factor = jnp.minimum(max_norm / (optax.tree.norm(grads) + 1e-6), 1.0)
        return jax.tree.map(lambda grad: grad * factor, grads), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _clipped(make: Any, max_norm: float) -> Any:
    def factory(parameters: list[nn.Parameter]) -> Any:
        optimizer = make(parameters)

        def step() -> None:
            clip_grad_norm_(parameters, max_norm)
            optimizer.step()

        return optimizer, step

    return factory


def _scheduled(make: Any, schedule: Any) -> Any:
    def factory(parameters: list[nn.Parameter]) -> Any:
        optimizer = make(parameters)
        scheduler = schedule(optimizer)

        def step() -> None:
            optimizer.step()
            scheduler.step()

        return optimizer, step

    return factory


def _groups(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Weight decay for the kernels alone."""
    return [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]


def _kernels(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, tree)


def _labels(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: "kernels" if leaf.ndim > 1 else "biases", tree)


SGD = torch.optim.SGD
ADAM, ADAMW, RMSPROP = torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop


def _sgd(p: Any) -> Any:
    return SGD(p, 0.2, momentum=0.9)


def _cosine(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)


def _halved(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.5)


def _warmed_up(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.25, total_iters=4)


def _shifted(schedule: Any) -> Any:
    return lambda count: schedule(count + 1)


COSINE = optax.cosine_decay_schedule(0.2, STEPS)
STAIRS = optax.exponential_decay(0.2, 3, 0.5, staircase=True)
WARMUP = optax.linear_schedule(0.05, 0.2, 4)
DECAY = optax.add_decayed_weights
RMS = {"decay": 0.9, "eps": 1e-3, "eps_in_sqrt": False, "initial_scale": 0.0}

RIGHT = {
    "SGD": (optax.sgd(0.2), lambda p: SGD(p, 0.2)),
    "SGD momentum": (optax.sgd(0.2, momentum=0.9), _sgd),
    "SGD nesterov": (optax.sgd(0.2, 0.9, nesterov=True), lambda p: SGD(p, 0.2, momentum=0.9, nesterov=True)),
    "SGD decay": (
        optax.chain(DECAY(0.1), optax.sgd(0.2, 0.9)),
        lambda p: SGD(p, 0.2, momentum=0.9, weight_decay=0.1),
    ),
    "Adam": (optax.adam(0.01), lambda p: ADAM(p, 0.01)),
    "Adam eps": (optax.adam(0.01, b1=0.8, b2=0.9, eps=0.1), lambda p: ADAM(p, 0.01, betas=(0.8, 0.9), eps=0.1)),
    "Adam L2": (optax.chain(DECAY(0.1), optax.adam(0.01)), lambda p: ADAM(p, 0.01, weight_decay=0.1)),
    "AdamW": (optax.adamw(0.01, weight_decay=0.1), lambda p: ADAMW(p, 0.01, weight_decay=0.1)),
    "AdamW injected": (
        optax.inject_hyperparams(optax.adamw)(0.01, weight_decay=0.1),
        lambda p: ADAMW(p, 0.01, weight_decay=0.1),
    ),
    "AdamW masked": (
        optax.adamw(0.01, weight_decay=0.1, mask=_kernels),
        lambda p: ADAMW(_groups(p), 0.01, weight_decay=0.1),
    ),
    "Adam in parts": (
        optax.partition({"kernels": optax.adamw(0.01, weight_decay=0.1), "biases": optax.adam(0.01)}, _labels),
        lambda p: ADAMW(_groups(p), 0.01, weight_decay=0.1),
    ),
    "Adam on kernels alone": (
        optax.partition({"kernels": optax.adam(0.01), "biases": optax.set_to_zero()}, _labels),
        lambda p: ADAM([one for one in p if one.ndim > 1], 0.01),
    ),
    "AdamW scheduled": (
        optax.adamw(COSINE, weight_decay=0.1),
        _scheduled(lambda p: ADAMW(p, 0.2, weight_decay=0.1), _cosine),
    ),
    "RMSprop": (optax.rmsprop(0.01, **RMS), lambda p: RMSPROP(p, 0.01, alpha=0.9, eps=1e-3)),
    "RMSprop momentum": (
        optax.rmsprop(0.01, **RMS, momentum=0.9),
        lambda p: RMSPROP(p, 0.01, alpha=0.9, eps=1e-3, momentum=0.9),
    ),
    "RMSprop centered": (
        optax.rmsprop(0.01, **RMS, centered=True),
        lambda p: RMSPROP(p, 0.01, alpha=0.9, eps=1e-3, centered=True),
    ),
    "RMSprop momentum scheduled": (
        optax.chain(optax.scale_by_rms(**RMS), optax.trace(0.9), optax.scale_by_learning_rate(COSINE)),
        _scheduled(lambda p: RMSPROP(p, 0.2, alpha=0.9, eps=1e-3, momentum=0.9), _cosine),
    ),
    "Adagrad": (optax.adagrad(0.1, 0.1, eps=0.0), lambda p: torch.optim.Adagrad(p, 0.1, 0, 0, 0.1, 0.0)),
    "Adadelta": (optax.adadelta(0.5, 0.9, 1e-6), lambda p: torch.optim.Adadelta(p, 0.5, rho=0.9, eps=1e-6)),
    "Adamax": (optax.adamax(0.01), lambda p: torch.optim.Adamax(p, 0.01)),
    "cosine": (optax.sgd(COSINE, 0.9), _scheduled(_sgd, _cosine)),
    "stairs": (optax.sgd(STAIRS, 0.9), _scheduled(_sgd, _halved)),
    "warmup": (optax.sgd(WARMUP, 0.9), _scheduled(_sgd, _warmed_up)),
    "clipping": (optax.chain(_clip(0.5), optax.sgd(0.2, 0.9)), _clipped(_sgd, 0.5)),
    "clipping by neither": (optax.chain(optax.clip_by_global_norm(1e3), optax.sgd(0.2, 0.9)), _clipped(_sgd, 1e3)),
}
# With the step after which the parameters first differ.
WRONG = {
    "SGD other rate": (optax.sgd(0.2001), lambda p: SGD(p, 0.2), 1),
    "SGD without momentum": (optax.sgd(0.2), _sgd, 2),
    "SGD not nesterov": (optax.sgd(0.2, 0.9), lambda p: SGD(p, 0.2, momentum=0.9, nesterov=True), 1),
    "SGD dampened": (optax.sgd(0.2, 0.9), lambda p: SGD(p, 0.2, momentum=0.9, dampening=0.1), 2),
    "SGD decay after momentum": (
        optax.chain(optax.trace(0.9), DECAY(0.1), optax.scale(-0.2)),
        lambda p: SGD(p, 0.2, momentum=0.9, weight_decay=0.1),
        2,
    ),
    "Adam eps in the root": (optax.adam(0.01, eps=0.0, eps_root=1e-4), lambda p: ADAM(p, 0.01, eps=1e-4), 1),
    "AdamW for Adam": (optax.adamw(0.01, weight_decay=0.1), lambda p: ADAM(p, 0.01, weight_decay=0.1), 1),
    "Adam L2 for AdamW": (
        optax.chain(DECAY(0.1), optax.adam(0.01)),
        lambda p: ADAMW(p, 0.01, weight_decay=0.1),
        1,
    ),
    "AdamW defaults": (optax.adamw(0.01), lambda p: ADAMW(p, 0.01), 1),
    "AdamW decays biases": (
        optax.adamw(0.01, weight_decay=0.1),
        lambda p: ADAMW(_groups(p), 0.01, weight_decay=0.1),
        1,
    ),
    "AMSGrad": (optax.amsgrad(0.01, b2=0.5), lambda p: ADAM(p, 0.01, betas=(0.9, 0.5), amsgrad=True), 2),
    "RMSprop defaults": (optax.rmsprop(0.01, 0.9, 1e-3), lambda p: RMSPROP(p, 0.01, alpha=0.9, eps=1e-3), 1),
    "RMSprop begins at one": (
        optax.rmsprop(0.01, **{**RMS, "initial_scale": 1.0}),
        lambda p: RMSPROP(p, 0.01, alpha=0.9, eps=1e-3),
        1,
    ),
    "RMSprop other decay": (optax.rmsprop(0.01, **RMS), lambda p: RMSPROP(p, 0.01, eps=1e-3), 1),
    "RMSprop rate in the trace": (
        optax.rmsprop(COSINE, **RMS, momentum=0.9),
        _scheduled(lambda p: RMSPROP(p, 0.2, alpha=0.9, eps=1e-3, momentum=0.9), _cosine),
        2,
    ),
    "Rprop": (optax.rprop(0.01), lambda p: torch.optim.Rprop(p, 0.01), 1),
    "Adagrad eps in the root": (
        optax.adagrad(0.1, 0.1, eps=1e-4),
        lambda p: torch.optim.Adagrad(p, 0.1, 0, 0, 0.1, 1e-4),
        1,
    ),
    "cosine off by one": (optax.sgd(_shifted(COSINE), 0.9), _scheduled(_sgd, _cosine), 1),
    "stairs off by one": (optax.sgd(_shifted(STAIRS), 0.9), _scheduled(_sgd, _halved), 3),
    "warmup off by one": (optax.sgd(_shifted(WARMUP), 0.9), _scheduled(_sgd, _warmed_up), 1),
    "clipping by optax's norm": (
        optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.2, 0.9)),
        _clipped(_sgd, 0.5),
        1,
    ),
    "clipping after momentum": (optax.chain(optax.sgd(0.2, 0.9), _clip(0.1)), _clipped(_sgd, 0.5), 1),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_port_of_an_optimizer(name):
    trajectory, checks = _mlp(*RIGHT[name])
    assert trajectory.passed, [one for one in checks.values() if not one.passed]
    assert len(trajectory.float64_difference) == STEPS
    assert max(trajectory.float64_difference) <= 1e-12  # the limit is 1e-10
    assert checks["loss"].error <= 1e-12
    assert checks["optimizer state"].error <= 1e-10 if name != "SGD" else "optimizer state" not in checks


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_port_of_an_optimizer(name):
    transformation, factory, step = WRONG[name]
    trajectory, checks = _mlp(transformation, factory)
    assert not trajectory.passed
    assert not checks["parameters"].passed
    assert f"first beyond the limit in step {step} at " in checks["parameters"].note
    assert not checks["loss"].passed


def test_float32_is_judged_against_chaos():
    trajectory, checks = _mlp(optax.adamw(0.01), lambda p: ADAMW(p, 0.01, weight_decay=1e-4), ("float32",))
    assert trajectory.passed
    assert trajectory.float64_difference == []
    assert len(trajectory.float32_difference) == STEPS
    assert [len(one) for one in trajectory.controls] == [STEPS] * 3
    assert trajectory.ratio == checks["parameters 32"].error <= bounds.CHAOS_LIMIT
    assert 2**-25 < min(trajectory.controls[0]) < max(trajectory.controls[0]) < 1e-4  # an ulp, and then some
    assert {name: one.judged for name, one in checks.items()} == {
        "parameters 32": True, "loss 32": False, "optimizer state 32": False
    }  # fmt: skip


@pytest.mark.parametrize("name", ["SGD other rate", "Adam L2 for AdamW", "cosine off by one"])
def test_float32_alone_tells_a_wrong_port_from_chaos(name):
    transformation, factory, _ = WRONG[name]
    trajectory, checks = _mlp(transformation, factory, ("float32",))
    assert not trajectory.passed
    assert not checks["parameters 32"].passed
    assert checks["parameters 32"].error > 3 * bounds.CHAOS_LIMIT


@pytest.mark.parametrize(
    ("transformation", "factory"),
    [
        pytest.param(optax.sgd(0.1, 0.9), lambda p: SGD(p, 0.1, momentum=0.9), id="SGD"),
        pytest.param(optax.adam(0.01), lambda p: ADAM(p, 0.01), id="Adam"),
        pytest.param(optax.adam(0.01, eps=1e-30), lambda p: ADAM(p, 0.01, eps=1e-30), id="Adam of full-size steps"),
        pytest.param(optax.adamw(0.01, weight_decay=0.1), lambda p: ADAMW(p, 0.01, weight_decay=0.1), id="AdamW"),
    ],
)
def test_a_bias_before_batch_normalisation(transformation, factory):
    trajectory, checks = _cnn(transformation, factory, ("float64", "float32"))
    assert trajectory.passed, [one for one in checks.values() if not one.passed]
    assert max(trajectory.float64_difference) <= 1e-12
    assert checks["network state"].error <= 1e-12
    assert max(trajectory.float32_difference) <= 1e-3  # where steps of random sign would differ by the bias itself
    told = "gradients that are zero but for rounding are taken as zero on both sides: conv.bias (4 of 4)"
    assert checks["parameters"].note == told
    assert checks["parameters 32"].note.endswith(told)
