"""Writes files as a whole or not at all; reads JSON objects without trusting them."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import IO, Any

from jaxalex.errors import UsageError

_LARGEST_JSON = 64 * 2**20  # bytes; the files of a run of 100,000 epochs are smaller


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file so that a crash or power loss at any moment leaves either the old content or the new.

    Args:
      path: created or replaced.
      content: text is written as UTF-8.
    """
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """A binary file to write to under a temporary name; it is renamed to ``path`` when all of it is on the disk."""
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: pathlib.Path) -> None:
    """Makes a file's content, or a folder's list of names, survive a power loss."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      UsageError: the file, which is named, does not exist, is not a regular file, is too large, or is not one JSON
        object in UTF-8; a name occurs twice in one object; a number is not finite.
    """
    try:
        if not path.is_file():
            raise UsageError(f"{path}: {'is not a regular file' if path.exists() else 'no such file'}")
        if path.stat().st_size > _LARGEST_JSON:
            raise UsageError(f"{path}: {path.stat().st_size:,} bytes is too large for such a file")
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors are ValueErrors
        raise UsageError(f"{path}: is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path}: is not a JSON object")
    return value


def to_json(values: dict[str, Any]) -> str:
    """JSON text, indented, that `read_json` reads back exactly.

    Raises:
      ValueError: a number is not finite.
    """
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return values


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a finite number")


def first_line(error: BaseException) -> str:
    """The message of a library's exception, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def check_output(flag: str, path: pathlib.Path | None, folder: bool = False) -> None:
    """Refuses, before the work, a name under which its result could not be written.

    Args:
      flag: what the name was given with, for the message.
      path: a file that is made or replaced, its folder being there; None passes.
      folder: it is a folder, made if need be, with the folders above it.

    Raises:
      UsageError: naming what is in the way.
    """
    if path is None:
        return
    place = path.absolute() if folder else path.parent
    while folder and not place.exists():
        place = place.parent
    if not folder and path.is_dir():
        raise UsageError(f"{flag} {path}: is a folder; it takes a file's name")
    if not place.is_dir():
        raise UsageError(f"{flag} {path}: {f'{place} is a file' if place.exists() else f'there is no folder {place}'}")
    if not os.access(place, os.W_OK | os.X_OK) or (path.is_file() and not os.access(path, os.W_OK)):
        raise UsageError(f"{flag} {path}: cannot be written to")
