"""Reads weights from files of either framework, array by array. Nothing in them is run.

Sources: https://huggingface.co/docs/safetensors (format), `torch.load` (``weights_only``), `numpy.load`
(``allow_pickle``), `flax.serialization` (msgpack), `orbax.checkpoint`.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from netparity.measure import ParityError
from netparity.weights.compare import flat

_TORCH = (".pth", ".pt", ".bin")
_INNER = ("state_dict", "model_state_dict", "model", "params")  # under which training scripts keep the weights


class _Lazy(Mapping[str, np.ndarray]):
    """Arrays by name, each read when it is asked for."""

    def __init__(self, names: list[str], read: Callable[[str], np.ndarray]):
        self._names, self._read = dict.fromkeys(names), read

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of a checkpoint by name, while the context lasts.

    Args:
      path: a ``.safetensors``, ``.pth``, ``.pt``, ``.bin``, ``.npz`` or ``.msgpack`` file, a folder of Orbax, or one
        with several ``.safetensors`` files.

    Raises:
      ParityError: if it cannot be read; the file is named.
    """
    readers = {".safetensors": _safetensors, ".npz": _npz, ".msgpack": _msgpack, **dict.fromkeys(_TORCH, _torch)}
    reader = _folder if path.is_dir() else readers.get(path.suffix.lower())
    if not path.exists():
        raise ParityError(f"{path}: no such file")
    if reader is None:
        raise ParityError(f"{path}: its name has to end in {', '.join(readers)}, or it is a folder")
    with contextlib.ExitStack() as stack:
        try:
            arrays = reader(path, stack)
        except ParityError:
            raise
        except Exception as problem:  # each library has exceptions of its own for a damaged file
            text = next(iter(str(problem).strip().splitlines()), type(problem).__name__)
            raise ParityError(f"{path}: is no readable {path.suffix or 'checkpoint'}: {text}") from problem
        if not arrays:
            raise ParityError(f"{path}: there are no arrays in it")
        yield arrays


def _safetensors(path: pathlib.Path, stack: contextlib.ExitStack) -> Mapping[str, np.ndarray]:
    import ml_dtypes  # noqa: F401  # gives NumPy its bfloat16
    from safetensors import safe_open

    file = stack.enter_context(safe_open(path, framework="numpy"))
    return _Lazy(list(file.keys()), file.get_tensor)


def _npz(path: pathlib.Path, stack: contextlib.ExitStack) -> Mapping[str, np.ndarray]:
    file = stack.enter_context(np.load(path, allow_pickle=False))

    def read(name: str) -> np.ndarray:
        try:
            return file[name]
        except ValueError as problem:
            raise ParityError(f"{path}: {name} holds objects, not numbers, which are not read") from problem

    return _Lazy(list(file.files), read)


def _torch(path: pathlib.Path, stack: contextlib.ExitStack) -> Mapping[str, np.ndarray]:
    import pickle

    import torch

    try:
        try:
            whole = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # a file of the old format cannot be mapped
            whole = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        raise ParityError(
            f"{path}: holds more than tensors, and unpickling that could run any code: save the state_dict alone, "
            "torch.save(module.state_dict(), file)"
        ) from problem
    found = {name: value for name, value in flat(_inner(whole)) if isinstance(value, torch.Tensor)}
    return _Lazy(list(found), lambda name: _tensor(found[name]))


def _inner(whole: Any) -> Any:
    """The weights among all that a training script has saved."""
    if isinstance(whole, Mapping):
        return next((whole[name] for name in _INNER if isinstance(whole.get(name), Mapping)), whole)
    return whole


def _tensor(tensor: Any) -> np.ndarray:
    import ml_dtypes
    import torch

    if tensor.dtype == torch.bfloat16:
        return tensor.detach().contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    try:
        return tensor.detach().numpy()
    except TypeError:  # NumPy has no eighths of it
        return tensor.detach().float().numpy()


def _msgpack(path: pathlib.Path, stack: contextlib.ExitStack) -> Mapping[str, np.ndarray]:
    from flax import serialization

    found = {name: np.asarray(value) for name, value in flat(serialization.msgpack_restore(path.read_bytes()))}
    return {name: value for name, value in found.items() if value.dtype.kind not in "OSU"}


def _folder(path: pathlib.Path, stack: contextlib.ExitStack) -> Mapping[str, np.ndarray]:
    shards = [_safetensors(shard, stack) for shard in sorted(path.glob("*.safetensors"))]
    if shards:
        owner = {name: shard for shard in shards for name in shard}
        return _Lazy(list(owner), lambda name: owner[name][name])
    if not (path / "_METADATA").is_file():
        raise ParityError(f"{path}: is no checkpoint: there are neither .safetensors files nor Orbax's _METADATA in it")
    return _orbax(path)


def _orbax(path: pathlib.Path) -> Mapping[str, np.ndarray]:
    import orbax.checkpoint

    with orbax.checkpoint.PyTreeCheckpointer() as checkpointer:
        whole = checkpointer.restore(path.absolute())
    found = {name: np.asarray(value) for name, value in flat(whole) if value is not None}
    return {name: value for name, value in found.items() if value.dtype.kind not in "OSU"}
