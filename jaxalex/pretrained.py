"""A trained network from a run folder or a ``.safetensors`` file, for evaluation and prediction."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxalex import config as config_lib
from jaxalex import convert, data, models
from jaxalex.checkpoint import Checkpoints
from jaxalex.data.stats import normalization
from jaxalex.devices import choose_device
from jaxalex.errors import UsageError
from jaxalex.state import TrainState
from jaxalex.weights import Description, load_weights


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A network with its parameters.

    Attributes:
      state: parameters and normalisation; its optimizer is of no use.
      description: what the weights say of themselves.
      config: the run's configuration, None for a lone weights file.
      device: where the parameters lie.
    """

    state: TrainState
    description: Description
    config: config_lib.TrainConfig | None
    device: jax.Device


def load(
    path: pathlib.Path,
    device_name: str = "auto",
    given: Mapping[str, Any] | None = None,
    checkpoint: Literal["best", "last"] = "last",
) -> Pretrained:
    """Loads a network; it computes in the precision of its run, a lone weights file in float32.

    Args:
      path: a run folder or a ``.safetensors`` file.
      device_name: "auto", "cpu" or "gpu".
      given: ``model``, ``width``, ``dataset``, ``data_dir`` and ``normalize`` for a file without a description.
      checkpoint: which state of a run folder; "last" is what ``model.safetensors`` holds.

    Raises:
      UsageError: naming what cannot be read, or all names and shapes that do not fit.
    """
    config = None
    weights = path
    if path.is_dir():
        config = _read_config(path)
        weights = path / "model.safetensors"
    elif checkpoint != "last":
        raise UsageError(f"{path}: --checkpoint needs a run folder, not a weights file")
    precision = config.precision if config else "float32"
    device = choose_device(device_name, precision)
    arrays, description = load_weights(weights)
    if description is None:
        description = _describe(weights, arrays, given or {})
    state = jax.device_put(_state(weights, arrays, description, precision), device)
    if checkpoint == "best":
        if not (path / "checkpoints").is_dir():
            raise UsageError(f"{path}: holds no checkpoints")
        with Checkpoints(path / "checkpoints") as checkpoints:
            _, state = checkpoints.restore_params("best", state)
    return Pretrained(state, description, config, device)


def _read_config(run: pathlib.Path) -> config_lib.TrainConfig:
    file = run / "config.json"
    try:
        values = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{run}: is no run folder ({file.name} cannot be read: {error})") from error
    if not isinstance(values, dict):
        raise UsageError(f"{file}: is not a JSON object")
    try:
        return config_lib.from_dict(values)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error


def _describe(path: pathlib.Path, arrays: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> Description:
    """A description from flags, for a file that has none."""
    missing = [f"--{name}" for name in ("model", "dataset", "normalize") if not given.get(name)]
    if missing:
        raise UsageError(f"{path}: does not say what network it holds; give {' '.join(missing)}")
    convert.from_torch(arrays, given["model"])  # all names and shapes, before any of them is used
    splits = data.load(given["dataset"], given.get("data_dir"), 0)
    mean, std = normalization(given["normalize"], splits.train.images)
    return Description(
        model=given["model"],
        width=given.get("width") or 1.0,
        num_classes=splits.num_classes,
        class_names=splits.class_names,
        dataset=splits.name,
        image_size=models.MODELS[given["model"]].image_size,
        input_channels=splits.train.images.shape[3],
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
    )


def _state(
    path: pathlib.Path, arrays: Mapping[str, np.ndarray], description: Description, precision: str
) -> TrainState:
    d = description
    if not (len(d.mean) == len(d.std) == d.input_channels and len(d.class_names) == d.num_classes and min(d.std) > 0):
        raise UsageError(f"{path}: its metadata contradicts itself: {d}")
    model = models.build(d.model, d.num_classes, d.width, precision=precision)
    images = jax.ShapeDtypeStruct((1, d.image_size, d.image_size, d.input_channels), jnp.float32)
    expected = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), expected)
    shapes = {name: array.shape for name, array in convert.to_torch(empty, d.model).items()}
    problems = convert.compare_shapes(arrays, shapes)
    if problems:
        raise UsageError(f"{path}: does not fit the network {d.model!r}: " + "; ".join(problems))
    params = jax.tree.map(lambda array: array.astype(np.float32), convert.from_torch(arrays, d.model))
    mean, std = np.asarray(d.mean, np.float32), np.asarray(d.std, np.float32)
    return TrainState.create(
        apply_fn=model.apply, params=params, tx=optax.identity(), mean=mean, std=std, image_hw=images.shape[1:3]
    )
