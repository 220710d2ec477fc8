"""Reads the pickles of CIFAR-10's Python version without trusting them."""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any

import numpy as np

from jaxalex.errors import UsageError


class _Uint8:
    """Stands for ``numpy.dtype``, and is no more than a check that it names unsigned bytes."""

    __slots__ = ()

    def __init__(self, code: bytes, align: int, copy: int) -> None:
        if code != b"u1":
            raise pickle.UnpicklingError(f"an array of {code!r}, where unsigned bytes belong")

    def __setstate__(self, state: object) -> None:
        """Byte order, alignment and the like: a single byte has none."""


class _Array:
    """Stands for ``numpy.ndarray`` and for the function that pickles rebuild one with."""

    __slots__ = ("value",)
    value: np.ndarray

    def __init__(self, kind: object, shape: object, code: object) -> None:
        """The placeholder that `__setstate__` fills."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran_order, data = state
        if not isinstance(dtype, _Uint8) or fortran_order or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array in an unexpected layout")
        self.value = np.frombuffer(data, np.uint8).reshape(shape)


class _Unpickler(pickle.Unpickler):
    """Knows the three NumPy names in the published files, as inert stand-ins, and no other name."""

    known = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Uint8,
    }

    def find_class(self, module: str, name: str) -> type:
        try:
            return self.known[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def _load_dict(data: bytes) -> dict[bytes, Any]:
    try:
        for opcode, argument, _ in pickletools.genops(data):
            # The unpickler makes a table of all objects up to the highest number that one is given.
            if "PUT" in opcode.name and isinstance(argument, int) and argument > len(data):
                raise pickle.UnpicklingError(f"it numbers an object {argument}")
        # Python 2 wrote these files: its str comes back as bytes.
        value = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a broken pickle fails in any way it likes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(f"refused to unpickle it: {reason}") from error
    if not isinstance(value, dict):
        raise UsageError(f"its pickle holds a {type(value).__name__} instead of a dict")
    return value


def load_batch(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one batch file (``data_batch_1`` … ``test_batch``).

    Args:
      data: the file's content, a pickle as Python 2 wrote it: a dict with ``data``, uint8 ``[n, 3072]`` in
        channel-height-width order, and ``labels``, n integers.

    Returns:
      ``(images, labels)``: uint8 ``[n, 32, 32, 3]`` and int32 ``[n]``.

    Raises:
      UsageError: the pickle asks for anything but NumPy's arrays of bytes (nothing of it is called), or does
        not hold a batch.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html
    """
    batch = _load_dict(data)
    try:
        images = np.ascontiguousarray(batch[b"data"].value.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        numbers = batch[b"labels"]
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"its pickle does not hold images and labels ({str(error)[:200]!r})") from error
    # Lists that hold one another would grow without end in an array.
    if type(numbers) is not list or not all(type(number) is int and 0 <= number < 10 for number in numbers):
        raise UsageError("its pickle's labels are no list of numbers from 0 to 9")
    labels = np.array(numbers, dtype=np.int32)
    if labels.shape != images.shape[:1]:
        raise UsageError(f"its pickle holds {len(images)} images but labels of shape {labels.shape}")
    return images, labels


def load_class_names(data: bytes) -> tuple[str, ...]:
    """Class names in label order, from the content of ``batches.meta``.

    Raises:
      UsageError: as in `load_batch`.
    """
    names = _load_dict(data).get(b"label_names")
    if type(names) is not list or not all(type(name) is bytes and name.isalnum() for name in names):
        raise UsageError("its pickle does not hold class names")
    return tuple(name.decode("ascii") for name in names)
