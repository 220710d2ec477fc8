"""``.safetensors`` files: parameters in PyTorch's layout, with all that is needed to use them."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxalex.errors import UsageError
from jaxalex.networks.tables import NETWORKS
from jaxalex.system import files, memory
from jaxalex.weights import convert

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

        def strings(text: str) -> tuple[str, ...]:
            names = json.loads(text)
            if not all(isinstance(name, str) and name.isprintable() for name in names):
                raise ValueError("not names")
            return tuple(names)

        def numbers(text: str) -> tuple[float, ...]:
            return tuple(float(value) for value in json.loads(text))

        readers: dict[str, tuple[Any, Any]] = {
            "model": (str, lambda v: v in NETWORKS),
            "width": (float, lambda v: 0 < v <= 16),
            "num_classes": (int, lambda v: 1 <= v <= 100_000),
            "class_names": (strings, lambda v: len(v) == values["num_classes"]),
            "dataset": (str, str.isprintable),
            "image_size": (int, lambda v: 1 <= v <= 4096),
            "input_channels": (int, lambda v: v in (1, 3)),
            "mean": (numbers, lambda v: len(v) == values["input_channels"] and all(map(math.isfinite, v))),
            "std": (numbers, lambda v: len(v) == values["input_channels"] and all(0 < x < math.inf for x in v)),
        }
        values: dict[str, Any] = {}
        for name, (read, valid) in readers.items():
            try:
                values[name] = read(metadata[name])
                if not valid(values[name]):
                    raise ValueError("out of range")
            except (KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
                raise UsageError(f"its metadata has no usable {name!r}: {metadata.get(name)!r}") from error
        return Description(**values)


def save_weights(path: pathlib.Path, params: Mapping[str, Any], description: Description) -> None:
    """Writes parameters and their description.

    Args:
      path: a ``.safetensors`` file, made or replaced as a whole.
      params: as in `jaxalex.weights.convert.to_torch`.
      description: goes into the metadata.
    """
    from safetensors.numpy import save

    data = save(convert.to_torch(params, description.model), metadata=description.to_metadata())
    files.write_whole(path, _in_fixed_order(data))


def _in_fixed_order(data: bytes) -> bytes:
    """The same ``.safetensors`` content with its metadata sorted: the library writes it in an order of chance.

    Source: https://huggingface.co/docs/safetensors/index#format
    """
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def load_weights(path: pathlib.Path) -> tuple[dict[str, np.ndarray], Description | None]:
    """Reads the arrays of a weights file, by PyTorch's names, and its description, None where it has none.

    Raises:
      UsageError: naming the file, if it is no readable ``.safetensors`` file or its arrays are not finite floats.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UsageError(f"{path}: {'is no regular file' if path.exists() else 'no such file'}")
    try:
        # A sparse file can be far larger than the disk: all that is read must fit into memory.
        size, free = path.stat().st_size, memory.free_host_bytes()
        if free is not None and size > free:
            raise UsageError(f"{path}: holds {memory.gigabytes(size)}, {memory.gigabytes(free)} of memory are free")
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            arrays = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, TypeError, ValueError, AttributeError, MemoryError) as error:
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
