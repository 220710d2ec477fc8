"""Reads the pickles of CIFAR-10's Python form without trusting them."""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any

import numpy as np

from jaxalex.errors import UsageError


class _Uint8:
    """Stands in for ``numpy.dtype``; it only checks that unsigned bytes are meant."""

    __slots__ = ()

    def __init__(self, code: bytes, align: int, copy: int) -> None:
        if code != b"u1":
            raise pickle.UnpicklingError(f"an array of {code!r} instead of unsigned bytes")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment, which mean nothing for single bytes: ignored."""


class _Array:
    """Stands in for ``numpy.ndarray`` and for the function with which pickles rebuild one."""

    __slots__ = ("value",)
    value: np.ndarray

    def __init__(self, kind: object, shape: object, code: object) -> None:
        """Empty until `__setstate__` fills it."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran_order, data = state
        if not isinstance(dtype, _Uint8) or fortran_order or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array in an unexpected layout")
        self.value = np.frombuffer(data, np.uint8).reshape(shape)


class _Unpickler(pickle.Unpickler):
    """Resolves the three NumPy names in the published files to harmless stand-ins, and refuses any other name."""

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
            # The unpickler allocates a table up to the highest number that the pickle gives to an object.
            if "PUT" in opcode.name and isinstance(argument, int) and argument > len(data):
                raise pickle.UnpicklingError(f"it numbers an object {argument}")
        # Python 2 wrote these files: its str comes back as bytes.
        value = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a broken pickle can raise anything
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
      UsageError: the pickle asks for anything but NumPy's arrays of bytes, of which nothing is called, or it does not
        hold a batch.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html
    """
    batch = _load_dict(data)
    try:
        images = np.ascontiguousarray(batch[b"data"].value.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        numbers = batch[b"labels"]
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"its pickle does not hold images and labels ({str(error)[:200]!r})") from error
    # Only plain numbers: nested lists, each holding the one before several times, would make an array of any size.
    if type(numbers) is not list or not all(type(number) is int and 0 <= number < 10 for number in numbers):
        raise UsageError("the labels in its pickle are not a list of numbers from 0 to 9")
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
