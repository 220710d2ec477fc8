"""What a run starts from in place of an initialisation: the parameters in a weights file (``--weights``)."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from jaxalex.config import TrainConfig
from jaxalex.errors import UsageError
from jaxalex.training.checkpoint import Checkpoints
from jaxalex.training.state import TrainState
from jaxalex.weights import convert
from jaxalex.weights.safetensors import Description, load_weights


@dataclasses.dataclass(frozen=True)
class Start:
    """A weights file whose names fit the run's network.

    Attributes:
      path: the file.
      model: the network.
      params: its parameters, float32 NumPy arrays as in `jaxalex.weights.convert.from_torch`.
      description: what the file says of itself; None where it says nothing.
    """

    path: pathlib.Path
    model: str
    params: convert.Params
    description: Description | None


def read(config: TrainConfig, workdir: pathlib.Path | None, resume: bool) -> Start | None:
    """The weights file of a run; None where it has none, or where a checkpoint holds what has come of it.

    Raises:
      UsageError: the file cannot be read or is of another network; all names that do not fit are listed.
    """
    if config.weights is None or (resume and workdir and Checkpoints(workdir / "checkpoints").steps()):
        return None
    path = pathlib.Path(config.weights)
    arrays, description = load_weights(path)
    if description and description.model != config.model:
        raise UsageError(
            f"{path}: holds the network {description.model!r}, not {config.model!r}: give --model {description.model}"
            + ("" if description.width == config.width else f" --width {description.width:g}")
        )
    try:
        params = convert.from_torch(arrays, config.model)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    return Start(path, config.model, jax.tree.map(lambda array: np.asarray(array, np.float32), params), description)


def scale(start: Start | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation with which the weights were trained: float32 ``[channel]`` each.

    Args:
      start: None stands for a run whose checkpoint holds them; they are 0 and 1 until it is restored.

    Raises:
      UsageError: the file does not say.
    """
    if start is None:
        return np.zeros(3, np.float32), np.ones(3, np.float32)
    if start.description is None:
        raise UsageError(
            f"{start.path}: does not say with which mean and std it was trained, as --normalize weights needs: "
            "choose another --normalize, or describe the weights with python -m torch_ref.export"
        )
    return np.asarray(start.description.mean, np.float32), np.asarray(start.description.std, np.float32)


def begin(start: Start | None, state: TrainState) -> TrainState:
    """The state at step 0 with the file's parameters.

    Args:
      start: None leaves the state as it is.
      state: freshly initialised. Where it is for another number of classes it keeps its last layer, and no other.

    Raises:
      UsageError: listing every shape that does not fit.
    """
    if start is None:
        return state
    found, expected = (convert.torch_shapes(params, start.model) for params in (start.params, state.params))
    last = convert.torch_names(start.model)["fc3"]
    classes = start.description.num_classes if start.description else found[f"{last}.bias"][0]
    expected |= {f"{last}.weight": (classes, expected[f"{last}.weight"][1]), f"{last}.bias": (classes,)}
    problems = [
        f"{name}: expected {expected[name]}, found {found[name]}" for name in found if found[name] != expected[name]
    ]
    if problems:
        if start.description:
            problems.append(f"the file says that it is of --width {start.description.width:g}")
        raise UsageError(f"{start.path}: does not fit the run's network {start.model!r}: " + "; ".join(problems))
    fresh = {} if classes == len(state.params["fc3"]["bias"]) else {"fc3": state.params["fc3"]}
    # Each takes the place of another. A copy: the first step writes over it.
    shardings = jax.tree.map(lambda array: array.sharding, state.params)
    return state.replace(params=jax.device_put(start.params | fresh, shardings, may_alias=False))


def header_lines(
    config: TrainConfig, start: Start | None, class_names: Sequence[str], scale: tuple[np.ndarray, np.ndarray]
) -> list[str]:
    """What a run says of its weights file: what it takes over, and whether the images are normalised for it.

    Args:
      config: the run's.
      start: from `read`.
      class_names: of the run's data.
      scale: mean and standard deviation ``[channel]`` with which the run normalises.
    """
    if config.weights is None:
        return []
    if start is None:
        return [f"weights    {config.weights} was the start; the run's checkpoint holds what has come of it"]
    said = start.description
    of = f" ({said.dataset}, {said.num_classes:,} classes)" if said else ""
    taken = "every layer"
    classes = len(start.params["fc3"]["bias"])
    if classes != len(class_names):
        what = f"{config.init} initialisation for {len(class_names)} classes instead of {classes:,}"
        taken = f"every layer but fc3, which starts from a new {what}"
    elif said and said.class_names != tuple(class_names):
        taken = "every layer; fc3 too, whose classes had other names"
    lines = [f"weights    {start.path}{of}: {taken}"]
    ours = f"--normalize {config.normalize} gives {_numbers(*scale)}"
    if said is None:
        lines.append(f"note: the file does not say with which mean and std it was trained; {ours}")
    elif (theirs := _numbers(said.mean, said.std)) != _numbers(*scale):
        lines.append(f"note: it was trained with {theirs}; {ours}; --normalize weights takes the file's")
    return lines


def _numbers(mean: Sequence[float] | np.ndarray, std: Sequence[float] | np.ndarray) -> str:
    """Both as float32, in digits that tell any two float32 numbers apart.

    >>> _numbers((0.5,), (0.25,))
    'mean 0.5 and std 0.25'
    """
    texts = [", ".join(str(value) for value in np.asarray(values, np.float32)) for values in (mean, std)]
    return f"mean {texts[0]} and std {texts[1]}"
