"""Mistakes in porting an optimizer, each planted, are named; what is told of both sides is true."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from netparity.optimizer_diagnosis import explain, pattern
from netparity.recording import Recorder, Recording, kind_of, options_of

STEPS, BATCH = 5, 6
RNG = np.random.default_rng(7)
SHAPES = {"dense.kernel": (4, 3), "dense.bias": (3,)}
START = {name: RNG.standard_normal(shape) for name, shape in SHAPES.items()}
SLOPES = [{name: RNG.standard_normal(shape) for name, shape in SHAPES.items()} for _ in range(8)]


def _gradient(step: int, name: str, params: Any) -> Any:
    """Of a loss that is no network's, so that the sides' gradients part once their parameters do."""
    return SLOPES[step][name] + 0.3 * params


def _optax_run(transformation: optax.GradientTransformation, steps: int) -> tuple[list[Any], list[Any]]:
    with jax.enable_x64(True):
        params = {name: jnp.asarray(value) for name, value in START.items()}
        state = transformation.init(params)
        state = jax.tree.map(lambda leaf: leaf.astype(jnp.int64) if leaf.dtype == jnp.int32 else leaf, state)
        seen, fed = [params], []
        for step in range(steps):
            fed.append({name: jnp.asarray(_gradient(step, name, value)) for name, value in params.items()})
            updates, state = transformation.update(fed[-1], state, params)
            params = optax.apply_updates(params, updates)
            seen.append(params)
    return [{n: np.asarray(v) for n, v in row.items()} for row in seen], [
        {n: np.asarray(v) for n, v in row.items()} for row in fed
    ]


def record(transformation: optax.GradientTransformation, factory: Any, steps: int = STEPS) -> Recording:
    """Lets both optimizers step, from the same parameters."""
    ours, fed = _optax_run(transformation, steps)
    parameters = {name: nn.Parameter(torch.tensor(value)) for name, value in START.items()}
    made = factory(list(parameters.values()))
    optimizer, step_it = made if isinstance(made, tuple) else (made, made.step)

    def now() -> dict[str, np.ndarray]:
        return {name: p.detach().numpy().copy() for name, p in parameters.items()}

    groups = {p: i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}
    recorder = Recorder(BATCH)
    recorder.start(
        kind_of(optimizer),
        {"jax": ours[0], "torch": now()},
        {name: np.full(p.shape, groups.get(p, -1)) for name, p in parameters.items()},
        {name: np.zeros(p.shape) for name, p in parameters.items()},
    )
    for step in range(steps):
        grads = {name: _gradient(step, name, value) for name, value in now().items()}
        for name, p in parameters.items():
            p.grad = torch.tensor(grads[name])
        before = options_of(optimizer)
        step_it()
        used = {name: p.grad.numpy().copy() for name, p in parameters.items() if p.grad is not None}
        recorder.step(
            {"jax": ours[step + 1], "torch": now()},
            {"jax": fed[step], "torch": grads},
            used,
            (before, options_of(optimizer)),
        )
    return recorder.recording()
