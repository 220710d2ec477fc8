"""A trained network from a run folder or a ``.safetensors`` file, for evaluation and prediction."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxalex import config as config_lib
from jaxalex import data
from jaxalex.data.stats import normalization
from jaxalex.errors import RunError, UsageError
from jaxalex.networks.alexnet import build
from jaxalex.networks.tables import NETWORKS
from jaxalex.system import memory
from jaxalex.system.devices import choose_device
from jaxalex.training import folder, placement
from jaxalex.training.checkpoint import Checkpoints
from jaxalex.training.state import TrainState
from jaxalex.weights import convert
from jaxalex.weights.safetensors import Description, load_weights


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A network with its parameters.

    Attributes:
      state: parameters and normalisation; it cannot be trained further.
      description: what the weights file says about itself.
      config: the run's configuration; None for a weights file without a run.
      sharding: where the parameters lie.
    """

    state: TrainState
    description: Description
    config: config_lib.TrainConfig | None
    sharding: jax.sharding.Sharding


def load(
    path: pathlib.Path,
    device_name: str = "auto",
    given: Mapping[str, Any] | None = None,
    checkpoint: Literal["best", "last"] = "last",
) -> Pretrained:
    """Loads a network. It computes in the precision of its run; from a weights file without a run, in float32.

    Args:
      path: a run folder or a ``.safetensors`` file.
      device_name: "auto", "cpu" or "gpu".
      given: ``model``, ``width``, ``dataset``, ``data_dir`` and ``normalize`` for a file without a description.
      checkpoint: which state of a run folder; "last" is what ``model.safetensors`` holds.

    Raises:
      UsageError: a file cannot be read, or names and shapes do not fit; the message lists all of them.
      RunError: the network does not fit into the device's memory.
    """
    config = None
    weights = path
    if path.is_dir():
        folder.refuse_strange(path)
        config = config_lib.read(path)
        weights = path / "model.safetensors"
        if not weights.exists():
            raise UsageError(
                f"{path}: the run is not finished (it has no {weights.name}): python -m jaxalex.train --resume {path}"
            )
    elif checkpoint != "last":
        raise UsageError(f"{path}: --checkpoint needs a run folder, not a weights file")
    precision = config.precision if config else "float32"
    sharding = placement.on_device(choose_device(device_name, precision))
    arrays, description = load_weights(weights)
    try:
        if description is None:
            description = _describe(arrays, given or {})
        on_host = _state(arrays, description, precision)
    except UsageError as error:
        raise UsageError(f"{weights}: {error}") from error
    needed, free = sum(leaf.nbytes for leaf in jax.tree.leaves(on_host.params)), placement.free_bytes(sharding)
    if free is not None and needed > free:
        raise RunError(f"out of memory: {weights} takes {memory.gigabytes(needed)}, {memory.gigabytes(free)} are free")
    state = jax.device_put(on_host, sharding)
    if checkpoint == "best":
        if not (path / "checkpoints").is_dir():
            raise UsageError(f"{path}: holds no checkpoints")
        _, state = Checkpoints(path / "checkpoints").restore_params("best", state)
    return Pretrained(state, description, config, sharding)


def _describe(arrays: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> Description:
    """A description made from flags, for a file that has none."""
    missing = [f"--{name}" for name in ("model", "dataset", "normalize") if not given.get(name)]
    if missing:
        raise UsageError(f"does not say what network it holds; give {' '.join(missing)}")
    config_lib.check_range("width", given.get("width"))
    convert.from_torch(arrays, given["model"])  # checks all names and shapes before any of them is used
    splits = data.load(given["dataset"], given.get("data_dir"), 0)
    mean, std = normalization(given["normalize"], splits.train.images)
    return Description(
        model=given["model"],
        width=given.get("width") or 1.0,
        num_classes=splits.num_classes,
        class_names=splits.class_names,
        dataset=splits.name,
        image_size=NETWORKS[given["model"]].image_size,
        input_channels=splits.train.images.shape[3],
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
    )


def _state(arrays: Mapping[str, np.ndarray], description: Description, precision: str) -> TrainState:
    d = description
    model = build(d.model, d.num_classes, d.width, precision=precision)
    images = jax.ShapeDtypeStruct((1, d.image_size, d.image_size, d.input_channels), jnp.float32)
    expected = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    problems = convert.compare_shapes(arrays, convert.torch_shapes(expected))
    if problems:
        raise UsageError(f"does not fit the network {d.model!r}: " + "; ".join(problems))
    params = jax.tree.map(lambda array: array.astype(np.float32), convert.from_torch(arrays, d.model))
    mean, std = np.asarray(d.mean, np.float32), np.asarray(d.std, np.float32)
    return TrainState.create(
        apply_fn=model.apply, params=params, tx=optax.identity(), mean=mean, std=std, image_hw=images.shape[1:3]
    )
