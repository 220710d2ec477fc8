"""``.safetensors`` files: parameters in PyTorch's layout, with everything needed to use them."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxalex.errors import UsageError
from jaxalex.networks.tables import NETWORKS
from jaxalex.system import files, memory
from jaxalex.weights import convert

_FORMAT = "jaxalex-1"
# The types that are read; every bfloat16 is a float32. Eight bits and fewer only make sense with a scale beside them.
_FLOATS = ("F64", "F32", "F16", "BF16")
_SMALLEST, _LARGEST = (float(limit) for limit in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))


@dataclasses.dataclass(frozen=True)
class Description:
    """What a weights file says about itself.

    Attributes:
      model: "cifar10", "paper", "original" or "torchvision".
      width: the network's width factor.
      num_classes, class_names: what the logits stand for.
      dataset: the data set it was trained on.
      image_size, input_channels: height and width, and channels, of the images it was trained on.
      mean, std: normalisation per channel, for pixels scaled to 0..1.
      resize: what a picture's shorter side is scaled to, in pixels, before its centre is cut out; None says nothing.
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
    resize: int | None = None

    def to_metadata(self) -> dict[str, str]:
        """As safetensors metadata: strings; other values as JSON."""
        fields = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return {"format": _FORMAT} | {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items()}

    @staticmethod
    def from_metadata(metadata: Mapping[str, str]) -> Description:
        """The inverse of `to_metadata`.

        Raises:
          UsageError: an entry is missing (``resize`` may be) or invalid; it is named.
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
            "mean": (numbers, lambda v: len(v) == values["input_channels"] and all(abs(x) <= _LARGEST for x in v)),
            # Pixels are divided by it, in float32.
            "std": (
                numbers,
                lambda v: len(v) == values["input_channels"] and all(_SMALLEST <= x <= _LARGEST for x in v),
            ),
            "resize": (int, lambda v: values["image_size"] <= v <= 4096),
        }
        if "resize" not in metadata:
            del readers["resize"]
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
    """The same ``.safetensors`` content with its metadata sorted: the library writes it in no fixed order.

    Source: https://huggingface.co/docs/safetensors/index#format
    """
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def load_weights(path: pathlib.Path) -> tuple[dict[str, np.ndarray], Description | None]:
    """Reads a weights file.

    Returns:
      the arrays by PyTorch's names (bfloat16 as float32), and the description; None where the file has none.

    Raises:
      UsageError: the file is not a readable ``.safetensors`` file, or its arrays do not hold floating-point numbers of
        at least 16 bits, all of them finite in float32; the file and the array are named.
    """
    import ml_dtypes  # gives NumPy its bfloat16
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UsageError(f"{path}: {'is not a regular file' if path.exists() else 'no such file'}")
    try:
        # A sparse file can claim to be far larger than the disk: refuse what does not fit into memory.
        size, free = path.stat().st_size, memory.free_host_bytes()
        if free is not None and size > free:
            raise UsageError(f"{path}: holds {memory.gigabytes(size)}, {memory.gigabytes(free)} of memory are free")
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {}
            for name in list(file.keys()):
                kind = file.get_slice(name).get_dtype()
                if kind not in _FLOATS:
                    raise UsageError(f"{path}: {name} holds {kind}, not floating-point numbers of 16 bits or more")
                arrays[name] = file.get_tensor(name)
    except (SafetensorError, OSError, TypeError, ValueError, AttributeError, MemoryError) as error:
        raise UsageError(f"{path}: not a readable .safetensors file ({error})") from error
    for name, array in arrays.items():
        if array.dtype == ml_dtypes.bfloat16:
            array = arrays[name] = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise UsageError(f"{path}: {name} holds values that are not finite")
        if array.dtype.itemsize > 4 and (np.abs(array) > _LARGEST).any():
            raise UsageError(f"{path}: {name} holds values beyond the range of float32")
    if metadata.get("format") != _FORMAT:
        return arrays, None
    try:
        return arrays, Description.from_metadata(metadata)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
