"""Level 5: K training steps of both programs in lockstep, on the same batches and with the same dropout masks.

The JAX side is the product's own jitted training step; the PyTorch side is the plain loop of forward, loss, backward
and ``torch.optim.SGD``. Both networks get the same pixels to the last bit: how each side normalises bytes is judged
elsewhere, and what the compiler makes of that division differs by a rounding from program to program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxalex.training.state import TrainState
from netparity import bounds
from netparity.measure import Arrays
from netparity.results import Check, Trajectory, check
from netparity.training.runs import perturbed
from netparity.training.steps import chaos_ratio, distance
from parity_tests.alexnet.networks import flat, nested, trainable
from parity_tests.alexnet.programs import JaxProgram, TorchProgram

MEAN_STD = np.full(3, 0.5, np.float32)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The optimizer's settings and the dropout key's seed."""

    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Batch:
    """uint8 images ``[b, h, w, c]`` and int32 labels ``[b]``, padded with zeros after the first ``count`` samples."""

    images: np.ndarray
    labels: np.ndarray
    count: int


def batches(images: np.ndarray, labels: np.ndarray, batch_size: int, steps: int, seed: int = 0) -> list[Batch]:
    """As many batches, in random order; every tenth is a partial one."""
    order = np.random.default_rng(seed).permutation(len(labels))
    made = []
    for step in range(steps):
        rows = order[np.arange(step * batch_size, (step + 1) * batch_size) % len(order)]
        count = batch_size if step % 10 != 4 else max(1, batch_size - 1)
        chosen, chosen_labels = images[rows].copy(), labels[rows].astype(np.int32)
        chosen[count:], chosen_labels[count:] = 0, 0
        made.append(Batch(chosen, chosen_labels, count))
    return made


def snapped(pixels: Any) -> Any:
    """Normalised pixels on a grid of 2**-12, which no float32 rounding of bytes normalised by halves can leave."""
    return (pixels * 2**12).round() / 2**12


@dataclasses.dataclass(frozen=True)
class SnappedNetwork:
    """A network's ``apply`` on `snapped` pixels; equal ones share compiled programs."""

    network: Any

    def __call__(self, variables: Any, images: jax.Array, **kwargs: Any) -> Any:
        return self.network.apply(variables, snapped(images), **kwargs)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimizer of optax as a value: equal ones share compiled training steps, as two made by optax never do."""

    sgd: Callable[..., optax.GradientTransformation]
    learning_rate: float
    momentum: float
    weight_decay: float

    def _made(self) -> optax.GradientTransformation:
        return self.sgd(self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=False)

    def init(self, params: Any) -> Any:
        return self._made().init(params)

    def update(self, grads: Any, state: Any, params: Any) -> Any:
        return self._made().update(grads, state, params)


class JaxRun:
    """The product's training, step by step."""

    def __init__(self, program: JaxProgram, params: Arrays, dtype: str, settings: Settings, image_hw: tuple[int, int]):
        self._program, self._x64 = program, dtype == "float64"
        with jax.enable_x64(self._x64):
            self.state = TrainState.create(
                apply_fn=SnappedNetwork(program.network),
                params=jax.tree.map(lambda x: jnp.array(x, dtype), nested(params)),
                tx=Optimizer(program.sgd, settings.learning_rate, settings.momentum, settings.weight_decay),
                mean=jnp.asarray(MEAN_STD),
                std=jnp.asarray(MEAN_STD),
                image_hw=image_hw,
            ).replace(step=jnp.zeros((), jnp.int32))
            self._key = jax.random.key(settings.seed)

    def masks(self, batch: Batch, step: int, params: Arrays, dtype: str) -> Arrays:
        """The dropout masks of a step, counted from 0: the key is folded as the training step folds it."""
        key = jax.random.fold_in(self._key, step)
        found = self._program.side.masks(params, batch.images.astype(dtype), key)
        return {name: mask[: batch.count] for name, mask in found.items()}

    def step(self, batch: Batch) -> float:
        """Trains on a batch; returns its mean loss."""
        mask = (np.arange(len(batch.labels)) < batch.count).astype(np.float32)
        with jax.enable_x64(self._x64):
            self.state, metrics = self._program.train_step(
                self.state, {"image": batch.images, "label": batch.labels, "mask": mask}, self._key
            )
            return float(metrics["loss"] / metrics["count"])

    def params(self) -> Arrays:
        return flat(self.state.params)

    def velocity(self) -> Arrays:
        return flat(optax.tree_utils.tree_get(self.state.opt_state, "trace"))


class TorchRun:
    """The reference's training, step by step."""

    def __init__(self, program: TorchProgram, params: Arrays, dtype: str, settings: Settings):
        self._side = trainable(program.side, params, dtype)
        self._module = self._side.module
        self._optimizer = program.sgd(
            self._module.parameters(), settings.learning_rate, settings.momentum, settings.weight_decay, False
        )

    def step(self, images: np.ndarray, labels: np.ndarray, masks: Arrays) -> float:
        """Trains on normalised images ``[b, h, w, c]``; returns the mean loss."""
        self._module.train()
        dtype = next(self._module.parameters()).dtype
        x = self._side.tensor(images).to(dtype)
        self._optimizer.zero_grad()
        with self._side.masked(masks):
            loss = self._side.loss(self._module(x), self._side.tensor(labels.astype(np.int64)))
        loss.backward()
        self._optimizer.step()
        return float(loss.detach())

    def params(self) -> Arrays:
        return self._side.to_common({name: p.detach().cpu().numpy() for name, p in self._module.named_parameters()})

    def velocity(self) -> Arrays:
        state = self._optimizer.state
        return self._side.to_common(
            {name: state[p]["momentum_buffer"].cpu().numpy() for name, p in self._module.named_parameters()}
        )


def lockstep(
    jax_program: JaxProgram,
    torch_program: TorchProgram,
    params: Arrays,
    data: list[Batch],
    dtype: str,
    settings: Settings,
    controls: int = 0,
) -> Iterator[dict[str, Any]]:
    """After every step: how far the two programs are apart, and how far each control is from the JAX one.

    A control is the JAX program with every parameter moved by one unit in the last place, up or down at random.

    Yields:
      ``{"step", "parameters", "loss", "controls": [..]}``, and ``"velocity"`` at the last step.
    """
    params = {name: value.astype(dtype) for name, value in params.items()}
    image_hw = data[0].images.shape[1:3]
    ours = JaxRun(jax_program, params, dtype, settings, image_hw)
    theirs = TorchRun(torch_program, params, dtype, settings)
    others = [JaxRun(jax_program, perturbed(params, seed), dtype, settings, image_hw) for seed in range(controls)]
    for step, batch in enumerate(data):
        masks = ours.masks(batch, step, params, dtype)
        images = snapped(np.asarray(jax_program.normalize(batch.images[: batch.count], MEAN_STD, MEAN_STD)))
        losses = ours.step(batch), theirs.step(images, batch.labels[: batch.count], masks)
        found = ours.params()
        row: dict[str, Any] = {"step": step + 1, "parameters": distance(found, theirs.params()), "controls": []}
        row["loss"] = abs(losses[0] - losses[1]) / abs(losses[1]) if np.isfinite(losses).all() else float("inf")
        for other in others:
            other.step(batch)
            row["controls"].append(distance(other.params(), found))
        if step + 1 == len(data):
            row["velocity"] = distance(ours.velocity(), theirs.velocity())
        del found  # a view of the state, which the next step gives up
        yield row


def run(
    jax_program: JaxProgram,
    torch_program: TorchProgram,
    params: Arrays,
    data: list[Batch],
    dtypes: Any,
    settings: Settings | None = None,
    progress: Any = lambda text: None,
) -> tuple[Trajectory, list[Check]]:
    """The trajectory in float64, judged by its drift, and in float32, judged against chaos."""
    settings = Settings() if settings is None else settings
    found: dict[str, list[dict[str, Any]]] = {"float64": [], "float32": []}
    checks = []
    for dtype in dtypes:
        for row in lockstep(jax_program, torch_program, params, data, dtype, settings, 3 if dtype == "float32" else 0):
            found[dtype].append(row)
            progress(f"{dtype} step {row['step']} of {len(data)}: {row['parameters']:.1e}")
    if found["float64"]:
        rows, limit = found["float64"], bounds.TRAJECTORY_LIMIT
        for name in ("parameters", "loss"):
            worst = max(row[name] for row in rows)
            checks.append(check("training", "training", f"{name}, worst of {len(rows)} steps", worst, limit))
        checks.append(check("training", "training", "momentum buffers at the end", rows[-1]["velocity"], limit))
    float32 = [row["parameters"] for row in found["float32"]]
    controls = [[row["controls"][i] for row in found["float32"]] for i in range(3)] if float32 else []
    ratio = None
    if float32:
        ratio = chaos_ratio(float32, controls)
        note = "median over the steps of the difference over the largest of three controls"
        checks.append(check("training", "training", "chaos ratio", ratio, bounds.CHAOS_LIMIT, "float32", note))
    float64 = [row["parameters"] for row in found["float64"]]
    return Trajectory(float64, float32, controls, ratio, all(one.passed for one in checks)), checks
