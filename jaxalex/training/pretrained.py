"""A trained network from a run folder or a ``.safetensors`` file, for evaluation and prediction."""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxalex import config as config_lib
from jaxalex import data
from jaxalex.errors import RunError, UsageError
from jaxalex.networks.alexnet import build
from jaxalex.networks.tables import NETWORKS
from jaxalex.system import files, memory
from jaxalex.system.devices import choose_device
from jaxalex.training import augment, folder, placement
from jaxalex.training.checkpoint import Checkpoints
from jaxalex.training.progress import Progress
from jaxalex.training.state import TrainState, input_scale
from jaxalex.weights import convert
from jaxalex.weights.safetensors import Description, load_weights

# What goes along with torchvision's weights for ImageNet, but for the names of the classes, which would fill a page.
# Source: torchvision, ``AlexNet_Weights.IMAGENET1K_V1.transforms()``.
IMAGENET = Description(
    model="torchvision",
    width=1.0,
    num_classes=1000,
    class_names=tuple(f"class {number}" for number in range(1000)),
    dataset="imagenet",
    image_size=224,
    input_channels=3,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    resize=256,
)


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A network with its parameters.

    Attributes:
      state: parameters and normalisation; it cannot be trained further.
      description: what the network is and what it was trained on.
      config: the run's configuration; None for a weights file without a run.
      sharding: where the parameters lie.
      file: the weights file or the checkpoint that the parameters are from.
      when: for people, after which epoch and step of its run; None where that is not known.
    """

    state: TrainState
    description: Description
    config: config_lib.TrainConfig | None
    sharding: jax.sharding.Sharding
    file: pathlib.Path
    when: str | None = None


def load(
    path: pathlib.Path,
    device_name: str = "auto",
    given: Mapping[str, Any] | None = None,
    checkpoint: Literal["best", "last"] = "last",
    warn: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> Pretrained:
    """Loads a network. It computes in the precision of its run; from a weights file without a run, in float32.

    Args:
      path: a run folder, of a finished or unfinished run, or a ``.safetensors`` file.
      device_name: "auto", "cpu" or "gpu".
      given: ``model``, ``width``, ``dataset``, ``data_dir`` and ``normalize`` for a file without a description. For
        1000 classes under torchvision's names ``model`` is enough: they are taken for ImageNet's.
      checkpoint: which state of a run folder. "last" is what ``model.safetensors`` holds, or the newest intact
        checkpoint where there is none of a later step: a finished run may have gone on.
      warn: gets a line for each damaged checkpoint that is passed over.

    Raises:
      UsageError: a file cannot be read, or names and shapes do not fit; the message lists all of them.
      RunError: the network does not fit into the device's memory.
    """
    if path.is_dir():
        found = _from_run(path, device_name, given or {}, checkpoint, warn)
        cropped = found.config is not None and found.config.augment == "paper"
        return dataclasses.replace(found, state=found.state.replace(central_crop=cropped))
    if checkpoint != "last":
        raise UsageError(f"{path}: --checkpoint needs a run folder, not a weights file")
    sharding = placement.on_device(choose_device(device_name, "float32"))
    state, description = _from_weights(path, given or {}, "float32", sharding)
    state = state.replace(central_crop=description.resize is not None)
    return Pretrained(state, description, None, sharding, path)


def _from_run(
    run: pathlib.Path,
    device_name: str,
    given: Mapping[str, Any],
    checkpoint: Literal["best", "last"],
    warn: Callable[[str], None],
) -> Pretrained:
    folder.refuse_strange(run)
    config = config_lib.read(run)
    sharding = placement.on_device(choose_device(device_name, config.precision))
    weights, directory = run / "model.safetensors", run / "checkpoints"
    checkpoints = Checkpoints(directory)
    finished = weights.exists()
    if finished:
        state, description = _from_weights(weights, given, config.precision, sharding)
    elif not checkpoints.steps():
        raise UsageError(
            f"{run}: the run is not finished, and nothing of it is saved yet: "
            f"python -m jaxalex.train --resume {shlex.quote(str(run))}"
        )

    def from_checkpoint(step: int) -> Pretrained:
        said = description if finished else _of_unfinished(config, checkpoints.record(step))
        restored, record = checkpoints.restore_network(step, _blank(said, config.precision, sharding))
        progress = Progress.from_record(record.get("progress", {}))
        return Pretrained(restored, said, config, sharding, directory / str(step), _when(config, progress, step))

    if checkpoint == "best":
        return from_checkpoint(checkpoints.best())
    epoch, last = _finished(run, config) if finished else (0, -1)
    problems = []
    for step in reversed(checkpoints.steps()):
        if step <= last:
            break
        try:
            found = from_checkpoint(step)
        except UsageError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warn(f"warning: {problem}; the one before, after step {step}, is used")
        return found
    if not finished:
        raise UsageError("no checkpoint can be used: " + "; ".join(problems))
    for problem in problems:
        warn(f"warning: {problem}; {weights} is used")
    when = _when(config, Progress(epoch + 1), last) if epoch else None
    return Pretrained(state, description, config, sharding, weights, when)


def _finished(run: pathlib.Path, config: config_lib.TrainConfig) -> tuple[int, int]:
    """Epochs and steps behind ``model.safetensors``; (0, -1), before every checkpoint, where that is not known."""
    try:
        summary = files.read_json(run / "summary.json")
    except UsageError:
        return 0, -1
    epochs, size = summary.get("epochs"), summary.get("train_size")
    if type(epochs) is not int or type(size) is not int or not 1 <= epochs <= config.num_epochs or size < 1:
        return 0, -1
    return epochs, epochs * -(-size // config.batch_size)


def _when(config: config_lib.TrainConfig, progress: Progress, step: int) -> str:
    if progress.tally.step:
        return f"in epoch {progress.epoch} of {config.num_epochs}, after step {step:,}"
    return f"after epoch {progress.epoch - 1} of {config.num_epochs}, step {step:,}"


def _of_unfinished(config: config_lib.TrainConfig, record: Mapping[str, Any]) -> Description:
    """What the weights file of a run will say, as far as a checkpoint does not hold it: without its mean and std."""
    split = record.get("split")
    split = split if isinstance(split, dict) else {}
    dataset = str(split.get("dataset"))
    names = data.class_names(dataset, split.get("classes"))
    channels = 3  # of every data set
    size = NETWORKS[config.model].image_size
    return Description(
        model=config.model,
        width=config.width,
        num_classes=len(names),
        class_names=names,
        dataset=dataset,
        image_size=size,
        input_channels=channels,
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
        resize=augment.stored_size(size) if config.augment == "paper" and ":" in dataset else None,
    )


def _describe(
    arrays: Mapping[str, np.ndarray], given: Mapping[str, Any], sharding: jax.sharding.Sharding
) -> Description:
    """A description made from flags, for a file that has none."""
    if given.get("model") == "torchvision" and not (given.get("dataset") or given.get("normalize")):
        last = arrays.get(f"{convert.torch_names('torchvision')['fc3']}.bias")
        if last is not None and last.shape == (1000,):
            config_lib.check_range("width", given.get("width"))
            return dataclasses.replace(IMAGENET, width=given.get("width") or 1.0)
    missing = [f"--{name}" for name in ("model", "dataset", "normalize") if not given.get(name)]
    if missing:
        raise UsageError(f"does not say what network it holds; give {' '.join(missing)}")
    config_lib.check_range("width", given.get("width"))
    convert.from_torch(arrays, given["model"])  # checks all names and shapes before any of them is used
    size = NETWORKS[given["model"]].image_size
    room = placement.room_for_images("auto", sharding)
    splits = data.load(given["dataset"], given.get("data_dir"), 0, image_size=size, room=room)
    mean, std = input_scale(given["normalize"], splits.train.sample())
    return Description(
        model=given["model"],
        width=given.get("width") or 1.0,
        num_classes=splits.num_classes,
        class_names=splits.class_names,
        dataset=splits.name,
        image_size=size,
        input_channels=splits.train.image_shape[2],
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
    )


def _from_weights(
    path: pathlib.Path, given: Mapping[str, Any], precision: str, sharding: jax.sharding.Sharding
) -> tuple[TrainState, Description]:
    """The state in a weights file, and the file's description, made from flags where it has none."""
    arrays, description = load_weights(path)
    try:
        description = description or _describe(arrays, given, sharding)
        state = _blank(description, precision, sharding)
        problems = convert.compare_shapes(arrays, convert.torch_shapes(state.params, description.model))
        if problems:
            raise UsageError(f"does not fit the network {description.model!r}: " + "; ".join(problems))
        params = jax.tree.map(lambda array: array.astype(np.float32), convert.from_torch(arrays, description.model))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    needed, free = sum(leaf.nbytes for leaf in jax.tree.leaves(params)), placement.free_bytes(sharding)
    if free is not None and needed > free:
        raise RunError(f"out of memory: {path} takes {memory.gigabytes(needed)}, {memory.gigabytes(free)} are free")
    return state.replace(params=jax.device_put(params, sharding)), description


def _blank(description: Description, precision: str, sharding: jax.sharding.Sharding) -> TrainState:
    """A state that has the shapes of its parameters only: no memory is taken for what a file merely claims."""
    d = description
    model = build(d.model, d.num_classes, d.width, precision=precision)
    images = jax.ShapeDtypeStruct((1, d.image_size, d.image_size, d.input_channels), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    return TrainState.create(
        apply_fn=model.apply,
        params=jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes),
        tx=optax.identity(),
        mean=jax.device_put(np.asarray(d.mean, np.float32), sharding),
        std=jax.device_put(np.asarray(d.std, np.float32), sharding),
        image_hw=images.shape[1:3],
    )
