"""``.safetensors`` files: parameters in PyTorch's layout, with all that is needed to use them."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxalex import convert
from jaxalex.errors import UsageError

_FORMAT = "jaxalex-1"


@dataclasses.dataclass(frozen=True)
class Description:
    """What a weights file says of itself.

    Attributes:
      model: "cifar10" or "paper".
      width: the network's width factor.
      num_classes, class_names: what the logits stand for.
      dataset: the data set it was trained on.
      image_size, input_channels: height and width, and channels, of the images it was trained on.
      mean, std: normalisation by channel, on the scale where a pixel lies in 0..1.
    """

    model: str
    width: float
    num_classes: int
    class_names: tuple[str, ...]
    dataset: str
    image_size: int
    input_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_metadata(self) -> dict[str, str]:
        """As safetensors metadata: strings, JSON inside where a value is not a string."""
        fields = dataclasses.asdict(self).items()
        return {"format": _FORMAT} | {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields}

    @staticmethod
    def from_metadata(metadata: Mapping[str, str]) -> Description:
        """The inverse of `to_metadata`.

        Raises:
          UsageError: naming the entry that is missing or has no meaning.
        """

        def numbers(text: str) -> tuple[float, ...]:
            values = tuple(float(v) for v in json.loads(text))
            if not all(math.isfinite(v) for v in values):
                raise ValueError("not finite")
            return values

        readers: dict[str, Any] = {
            "model": str,
            "width": float,
            "num_classes": int,
            "class_names": lambda text: tuple(str(name) for name in json.loads(text)),
            "dataset": str,
            "image_size": int,
            "input_channels": int,
            "mean": numbers,
            "std": numbers,
        }
        values = {}
        for name, read in readers.items():
            try:
                values[name] = read(metadata[name])
            except (KeyError, ValueError, TypeError) as error:
                raise UsageError(f"its metadata has no usable {name!r}: {metadata.get(name)!r}") from error
        return Description(**values)


def save_weights(path: pathlib.Path, params: Mapping[str, Any], description: Description) -> None:
    """Writes parameters and their description.

    Args:
      path: a ``.safetensors`` file, made or replaced as a whole.
      params: as in `jaxalex.convert.to_torch`.
      description: goes into the metadata.
    """
    from safetensors.numpy import save

    data = save(convert.to_torch(params, description.model), metadata=description.to_metadata())
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(data)
    partial.replace(path)


def load_weights(path: pathlib.Path) -> tuple[dict[str, np.ndarray], Description | None]:
    """Reads the arrays of a weights file, by PyTorch's names, and its description, None where it has none.

    Raises:
      UsageError: naming the file, if it is no readable ``.safetensors`` file or its arrays are not finite floats.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path}: not a readable .safetensors file ({error})") from error
    for name, array in arrays.items():
        if not np.issubdtype(array.dtype, np.floating):
            raise UsageError(f"{path}: {name} holds {array.dtype}, not floating-point numbers")
        if not np.isfinite(array).all():
            raise UsageError(f"{path}: {name} holds values that are not finite")
    if metadata.get("format") != _FORMAT:
        return arrays, None
    try:
        return arrays, Description.from_metadata(metadata)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
