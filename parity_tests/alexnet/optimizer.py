"""Level 4: parameters and momentum buffers after each of K optimizer steps on the same gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from typing import Any

import jax
import numpy as np
import optax
import torch

from netparity import bounds
from netparity.measure import error
from netparity.results import Check, check
from parity_tests.alexnet.programs import JaxProgram, Schedule, TorchProgram

STEPS = 10


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One way to use the optimizer; ``name`` is the stage that a failure is reported under."""

    name: str
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    schedule: bool = False


SCENARIOS = (
    Scenario("learning rate"),
    Scenario("momentum", momentum=0.9),
    Scenario("weight decay", momentum=0.9, weight_decay=0.05),
    Scenario("weight decay without momentum", weight_decay=0.05),
    Scenario("nesterov", momentum=0.9, nesterov=True),
    Scenario("nesterov with weight decay", momentum=0.9, weight_decay=0.05, nesterov=True),
    Scenario("schedule", momentum=0.9, weight_decay=0.05, schedule=True),
)
_RATE = 0.125


def changing_rate(step: Any) -> Any:
    """A learning rate that drops fourfold after step 3 and again after step 7 (powers of two: exact everywhere)."""
    return _RATE * 0.25 ** ((step >= 3) * 1 + (step >= 7) * 1)


def rate(scenario: Scenario, step: int) -> float:
    """The learning rate of a step, counted from 0."""
    return float(changing_rate(step)) if scenario.schedule else _RATE


StepRows = list[dict[str, np.ndarray]]


def gradients(dtype: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Starting parameters ``[5, 7]`` and a gradient for every step, representable in float32."""
    rng = np.random.default_rng(4)
    values = rng.standard_normal((STEPS + 1, 5, 7)).astype(np.float32).astype(dtype)
    return values[0], list(values[1:])


def jax_steps(program: JaxProgram, scenario: Scenario, dtype: str) -> StepRows:
    """Parameters and momentum buffer after every step of the product's optimizer."""
    start, grads = gradients(dtype)
    rate: float | Schedule = changing_rate if scenario.schedule else _RATE
    with jax.enable_x64(dtype == "float64"):
        tx = program.sgd(
            rate, momentum=scenario.momentum, weight_decay=scenario.weight_decay, nesterov=scenario.nesterov
        )

        @jax.jit
        def step(params: Any, state: Any, grad: Any) -> Any:
            updates, state = tx.update(grad, state, params)
            return optax.apply_updates(params, updates), state

        params, found = jax.numpy.asarray(start), []
        state = tx.init(params)
        for grad in grads:
            params, state = step(params, state, grad)
            row = {"parameters": np.asarray(params)}
            if scenario.momentum:
                row["momentum buffer"] = np.asarray(optax.tree_utils.tree_get(state, "trace"))
            found.append(row)
    return found


def torch_steps(program: TorchProgram, scenario: Scenario, dtype: str) -> StepRows:
    """The same with the reference's optimizer, the rate set before every step."""
    start, grads = gradients(dtype)
    params = torch.from_numpy(start.copy()).requires_grad_()
    optimizer = program.sgd([params], _RATE, scenario.momentum, scenario.weight_decay, scenario.nesterov)
    found = []
    for number, grad in enumerate(grads):
        if scenario.schedule:
            optimizer.param_groups[0]["lr"] = program.rate(changing_rate, number)
        params.grad = torch.from_numpy(grad.copy())
        optimizer.step()
        row = {"parameters": params.detach().numpy().copy()}
        if scenario.momentum:
            row["momentum buffer"] = optimizer.state[params]["momentum_buffer"].numpy().copy()
        found.append(row)
    return found


def optimizer(jax_program: JaxProgram, torch_program: TorchProgram, dtypes: Collection[str]) -> Iterator[Check]:
    """Every scenario, the worst of all steps for parameters and for momentum buffers."""
    for scenario in SCENARIOS:
        truth = torch_steps(torch_program, scenario, "float64")
        for dtype in dtypes:
            found = jax_steps(jax_program, scenario, dtype)
            # Each step adds a handful of rounded terms to what came before.
            limit = bounds.FLOAT64_LIMIT if dtype == "float64" else bounds.bound(3 * STEPS)
            for name in truth[0]:
                worst = max(error(a[name], b[name]).max for a, b in zip(found, truth, strict=True))
                yield check("optimizer", scenario.name, f"{name}, {STEPS} steps: {scenario.name}", worst, limit, dtype)
