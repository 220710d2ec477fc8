"""Known mistakes in what surrounds the networks: normalisation and optimizer, each written anew in float64."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from netparity.bounds import EXPLAINED_LIMIT
from netparity.measure import Arrays, error
from parity_tests.alexnet import data as data_level
from parity_tests.alexnet import optimizer as optimizer_level
from parity_tests.alexnet.optimizer import Scenario
from parity_tests.alexnet.programs import JaxProgram, TorchProgram

_SIDES = {"jax": "JAX", "torch": "PyTorch"}


@dataclasses.dataclass(frozen=True)
class Explanation:
    """One way to compute something.

    Attributes:
      text: what was done, for people: ``"bias left out"``.
      compute: gives the numbers, an array or several by name.
      is_plain: whether this is the right way, which explains no difference.
    """

    text: str
    compute: Callable[[], Any]
    is_plain: bool = False


def match(found: Mapping[str, Any], known: Iterable[Explanation], limit: float = EXPLAINED_LIMIT) -> str | None:
    """The first explanation that gives one side's numbers and not the other's, and not the plain ones.

    Args:
      found: what each side gave, by ``"jax"`` and ``"torch"``: an array or several by name.
      known: each computes some of the arrays that were found.
      limit: largest error, relative to an array's scale, with which an explanation still fits.

    Returns:
      ``"PyTorch: bias left out"``, or None where nothing fits.
    """
    plain: Any = None
    for one in sorted(known, key=lambda one: not one.is_plain):
        try:
            made = one.compute()
        except (RuntimeError, ValueError, IndexError):  # it does not fit these shapes
            continue
        if one.is_plain:
            plain = made
            continue
        fits = [side for side, seen in found.items() if _equal(seen, made, limit)]
        if len(fits) == 1 and not (plain is not None and _equal(plain, made, limit)):
            return f"{_SIDES[fits[0]]}: {one.text}"
    return None


def _equal(seen: Any, made: Any, limit: float) -> bool:
    if not isinstance(made, Mapping):
        return seen.shape == made.shape and error(seen, made).max <= limit
    return all(_equal(seen[key], made[key], limit) for key in made if key in seen)


def others(jax_program: JaxProgram, torch_program: TorchProgram) -> dict[str, Callable[[], str | None]]:
    """What explains the failures that lie outside the networks, for `netparity.diagnosis.diagnose.diagnose`.

    Returns:
      by stage, a function that names the known mistake, if there is one.
    """
    explained: dict[str, Callable[[], str | None]] = {
        "normalisation": functools.partial(_normalisation, jax_program, torch_program)
    }
    for scenario in optimizer_level.SCENARIOS:
        explained[scenario.name] = functools.partial(_optimizer, jax_program, torch_program, scenario)
    return explained


def _normalisation(jax_program: JaxProgram, torch_program: TorchProgram) -> str | None:
    images = data_level.load_digits().splits.train.images[:4]
    pixels = np.stack([images[..., 0], images[:, ::-1, :, 0], images[:, :, ::-1, 0]], -1)  # three different channels
    mean, std = np.array([0.4, 0.5, 0.6], np.float32), np.array([0.2, 0.25, 0.3], np.float32)
    found = {
        side: {"pixels": np.asarray(normalize(pixels, mean, std), np.float64)}
        for side, normalize in (("jax", jax_program.normalize), ("torch", torch_program.normalize))
    }
    return match(found, normalisations(pixels, mean, std), limit=1e-6)  # both sides compute in float32


def normalisations(pixels: np.ndarray, mean: np.ndarray, std: np.ndarray) -> Iterator[Explanation]:
    """Ways to normalise uint8 pixels ``[b, h, w, c]``, the plain one first; each gives ``{"pixels": float64}``."""
    x, m, s = pixels.astype(np.float64), mean.astype(np.float64), std.astype(np.float64)

    def made(text: str, compute: Callable[[], np.ndarray], is_plain: bool = False) -> Explanation:
        return Explanation(text, lambda: {"pixels": compute()}, is_plain)

    yield made("plain", lambda: (x / 255 - m) / s, is_plain=True)
    yield made("pixels not divided by 255", lambda: (x - m) / s)
    yield made("pixels divided by 256", lambda: (x / 256 - m) / s)
    yield made("standard deviation left out", lambda: x / 255 - m)
    yield made("multiplied by the standard deviation", lambda: (x / 255 - m) * s)
    yield made("mean left out", lambda: x / 255 / s)
    yield made("channels reversed", lambda: (x[..., ::-1] / 255 - m) / s)
    yield made("height and width swapped", lambda: (x.transpose(0, 2, 1, 3) / 255 - m) / s)
    imagenet = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    yield made("ImageNet's mean and standard deviation", lambda: (x / 255 - imagenet[0]) / imagenet[1])


def _optimizer(jax_program: JaxProgram, torch_program: TorchProgram, scenario: Scenario) -> str | None:
    steps = {
        "jax": optimizer_level.jax_steps(jax_program, scenario, "float64"),
        "torch": optimizer_level.torch_steps(torch_program, scenario, "float64"),
    }
    found = {side: {name: np.stack([row[name] for row in rows]) for name in rows[0]} for side, rows in steps.items()}
    return match(found, optimizers(scenario))


def optimizers(scenario: Scenario) -> Iterator[Explanation]:
    """Ways to take a scenario's steps, the plain one first; each gives the arrays of `optimizer.jax_steps`, stacked."""

    def made(text: str, step: Callable[..., Any], shift: int = 0, is_plain: bool = False) -> Explanation:
        return Explanation(text, lambda: _simulated(step, scenario, shift), is_plain)

    yield made("plain", _step, is_plain=True)
    yield made("weight decay after the momentum trace", _decay_after_trace)
    yield made("weight decay after the learning rate", _decay_after_rate)
    yield made("weight decay left out", lambda p, v, g, lr, m, wd, n: _step(p, v, g, lr, m, 0.0, n))
    yield made("weight decay halved", lambda p, v, g, lr, m, wd, n: _step(p, v, g, lr, m, wd / 2, n))
    yield made("learning rate inside the velocity", _rate_inside)
    yield made(
        "velocity as an average, (1 - m) g", lambda p, v, g, lr, m, wd, n: _step(p, v, g, lr, m, wd, n, scale=1 - m)
    )
    yield made(
        "Nesterov's form where it was not asked for", lambda p, v, g, lr, m, wd, n: _step(p, v, g, lr, m, wd, True)
    )
    yield made("Nesterov's form left out", lambda p, v, g, lr, m, wd, n: _step(p, v, g, lr, m, wd, False))
    yield made("momentum left out", lambda p, v, g, lr, m, wd, n: _step(p, v, g, lr, 0.0, wd, False))
    yield made("momentum 0.99", lambda p, v, g, lr, m, wd, n: _step(p, v, g, lr, 0.99, wd, n))
    yield made("gradient's sign", lambda p, v, g, lr, m, wd, n: _step(p, v, -g, lr, m, wd, n))
    yield made("schedule one step early", _step, shift=1)
    yield made("schedule one step late", _step, shift=-1)


# Steps (p, v, g, lr, momentum, weight_decay, nesterov) -> (p, v): parameters, velocity and gradient.


def _step(p: Any, v: Any, g: Any, lr: float, m: float, wd: float, nesterov: bool, scale: float = 1.0) -> Any:
    g = g + wd * p
    v = m * v + scale * g
    return p - lr * (g + m * v if nesterov else v), v


def _decay_after_trace(p: Any, v: Any, g: Any, lr: float, m: float, wd: float, nesterov: bool) -> Any:
    moved, v = _step(p, v, g, lr, m, 0.0, nesterov)
    return moved - lr * wd * p, v


def _decay_after_rate(p: Any, v: Any, g: Any, lr: float, m: float, wd: float, nesterov: bool) -> Any:
    moved, v = _step(p, v, g, lr, m, 0.0, nesterov)
    return moved - wd * p, v


def _rate_inside(p: Any, v: Any, g: Any, lr: float, m: float, wd: float, nesterov: bool) -> Any:
    g = -lr * (g + wd * p)
    v = m * v + g
    return p + (g + m * v if nesterov else v), v


def _simulated(step: Callable[..., Any], scenario: Scenario, shift: int) -> Arrays:
    """The arrays after every step, with the learning rate of the step ``shift`` steps on."""
    p, grads = optimizer_level.gradients("float64")
    v, rows = np.zeros_like(p), []
    for number, grad in enumerate(grads):
        rate = optimizer_level.rate(scenario, number + shift)
        p, v = step(p, v, grad, rate, scenario.momentum, scenario.weight_decay, scenario.nesterov)
        rows.append((p, v))
    made = {"parameters": np.stack([row[0] for row in rows])}
    if scenario.momentum:
        made["momentum buffer"] = np.stack([row[1] for row in rows])
    return made
