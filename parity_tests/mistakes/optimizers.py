"""Right pairs of optimizers, optax's beside PyTorch's, that mistakes in training are planted in."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import torch

Parameters = list[torch.nn.Parameter]
Made = torch.optim.Optimizer | tuple[torch.optim.Optimizer, Callable[[], object]]

RATE, DECAY, LIMIT, STEPS = 1e-2, 1e-1, 1e-1, 10


def clipped(extra: float = 1e-6) -> optax.GradientTransformation:
    """Gradients of a larger norm than ``LIMIT`` made shorter, the norm plus ``extra`` being the divisor."""

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        factor = jnp.minimum(LIMIT / (optax.tree.norm(grads) + extra), 1)
        return jax.tree.map(lambda g: g * factor, grads), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def torch_clipped(clip: Callable[[Parameters], object]) -> Callable[[Parameters], Made]:
    """SGD that clips first."""

    def make(parameters: Parameters) -> Made:
        optimizer = torch.optim.SGD(parameters, lr=RATE)

        def step() -> None:
            clip(parameters)
            optimizer.step()

        return optimizer, step

    return make


def torch_scheduled(steps: int = STEPS, early: bool = False) -> Callable[[Parameters], Made]:
    """SGD whose rate falls along a cosine; ``early``: the schedule is stepped before the optimizer."""

    def make(parameters: Parameters) -> Made:
        optimizer = torch.optim.SGD(parameters, lr=RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        order = (schedule.step, optimizer.step) if early else (optimizer.step, schedule.step)

        def step() -> None:
            with warnings.catch_warnings():  # PyTorch warns of the wrong order
                warnings.simplefilter("ignore", UserWarning)
                for one in order:
                    one()

        return optimizer, step

    return make


def adam_without_correction() -> optax.GradientTransformation:
    """Adam whose running averages are used as they are, though they begin with zeros."""

    def init(params: Any) -> optax.ScaleByAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), zeros, zeros)

    def update(grads: Any, state: optax.ScaleByAdamState, params: Any = None) -> tuple[Any, Any]:
        del params
        mu = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, state.nu, grads)
        steps = jax.tree.map(lambda m, v: -RATE * m / (jnp.sqrt(v) + 1e-8), mu, nu)
        return steps, optax.ScaleByAdamState(state.count + 1, mu, nu)

    return optax.GradientTransformation(init, update)


RIGHT: dict[str, tuple[optax.GradientTransformation, Callable[[Parameters], Made]]] = {
    "adam": (optax.adam(RATE), lambda p: torch.optim.Adam(p, lr=RATE)),
    "adamw": (optax.adamw(RATE, weight_decay=DECAY), lambda p: torch.optim.AdamW(p, lr=RATE, weight_decay=DECAY)),
    "sgd": (optax.sgd(RATE, momentum=0.9), lambda p: torch.optim.SGD(p, lr=RATE, momentum=0.9)),
    "rmsprop": (
        optax.rmsprop(RATE, decay=0.99, eps_in_sqrt=False, initial_scale=0.0),
        lambda p: torch.optim.RMSprop(p, lr=RATE),
    ),
    "clipped": (
        optax.chain(clipped(), optax.sgd(RATE)),
        torch_clipped(lambda p: torch.nn.utils.clip_grad_norm_(p, LIMIT)),
    ),
    "cosine": (optax.sgd(optax.cosine_decay_schedule(RATE, STEPS)), torch_scheduled()),
}
