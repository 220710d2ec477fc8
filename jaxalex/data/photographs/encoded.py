"""What a reader of photographs gives: pictures that are not decoded yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Picture(NamedTuple):
    """One encoded picture.

    Attributes:
      name: for messages.
      content: a picture file's bytes.
      label: in ``[0, num_classes)``.
    """

    name: str
    content: bytes
    label: int


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a set.

    Attributes:
      size: number of pictures.
      read: gives the picture at an index; several threads call it at once. It raises OSError or UsageError.
    """

    size: int
    read: Callable[[int], Picture]


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A set of encoded pictures.

    Attributes:
      name: ``"folder:PATH"`` or ``"tfds:NAME"``.
      parts: ``train``, and any of ``val`` and ``test``.
      class_names: in label order.
      fingerprint: gives JSON values by which a change of the set can be named, once its pictures were read.
    """

    name: str
    parts: Mapping[str, Part]
    class_names: tuple[str, ...]
    fingerprint: Callable[[], dict[str, Any]] = dict
