"""Writes files as a whole or not at all; opens regular files and nothing else; reads JSON without trusting it."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import pathlib
import re
import secrets
import stat
from collections.abc import Iterator
from typing import IO, Any

from jaxalex.errors import UsageError

_LARGEST_JSON = 64 * 2**20  # bytes; the files of a run of 100,000 epochs are smaller
# Opening a named pipe or a device must neither wait nor do anything; Windows has neither flag.
_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_TEMPORARY = r"\.[0-9a-f]{16}\.part"
_LONGEST_NAME = 255 - len(".0123456789abcdef.part")  # bytes: file systems allow 255

REGULAR, FOLDER, LINK = "a regular file", "a folder", "a symbolic link"
_KINDS = {
    stat.S_IFREG: REGULAR,
    stat.S_IFDIR: FOLDER,
    stat.S_IFLNK: LINK,
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


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
    """A binary file to write to under a temporary name; it is renamed to ``path`` when all of it is on the disk.

    Nobody can put a link or a pipe in its place beforehand: the name is drawn by chance, and must not exist yet. A
    process that is killed leaves the file behind; see `is_temporary`.
    """
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    # The permissions that any new file gets, which those of tempfile's files are not.
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK | _NO_WAIT | _BINARY, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def is_temporary(path: pathlib.Path, name: str) -> bool:
    """Whether this is what `replacing` left behind when the process was killed while it wrote a file of that name."""
    return re.fullmatch(re.escape(name) + _TEMPORARY, path.name) is not None and kind(path) == REGULAR


def append(path: pathlib.Path, text: str) -> None:
    """Adds text to a regular file, which is made if it is not there.

    Raises:
      OSError, UsageError: as in `open_to_append`.
    """
    with open_to_append(path) as file:
        file.write(text.encode())


def open_to_append(path: pathlib.Path) -> io.BufferedRandom:
    """A regular file, made if it is not there, to read and to add to. No link is followed.

    Raises:
      OSError: it cannot be opened.
      UsageError: something else has that name, or it has a second name (a hard link), and so is also another file.
    """
    if kind(path) is not None:
        refuse_other_than(REGULAR, path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _NO_LINK | _NO_WAIT | _BINARY, 0o666)
    if os.fstat(_if_regular(descriptor, path)).st_nlink > 1:
        os.close(descriptor)
        raise UsageError(f"{path}: has a second name elsewhere: remove it")
    return os.fdopen(descriptor, "a+b")


def open_regular(path: pathlib.Path, follow: bool = True) -> io.BufferedReader:
    """Opens a regular file for reading; from anything else nothing is read, and nothing is waited for.

    Args:
      path: the file.
      follow: whether it may be a link to a regular file.

    Raises:
      FileNotFoundError: there is none.
      OSError: it cannot be opened.
      UsageError: something else has that name.
    """
    refuse_other_than(REGULAR, path, follow)  # to open a device can have an effect
    flags = os.O_RDONLY | _NO_WAIT | _BINARY | (0 if follow else _NO_LINK)
    return os.fdopen(_if_regular(os.open(path, flags), path), "rb")


def _if_regular(descriptor: int, path: pathlib.Path) -> int:
    """The descriptor of an open file, unless something else has taken its place since it was looked at."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(f"{path}: is not a regular file")
    return descriptor


def kind(path: pathlib.Path, follow: bool = False) -> str | None:
    """What has this name: "a regular file", "a folder", "a symbolic link", "a named pipe" …; None where nothing has.

    Args:
      path: any name.
      follow: say what a link leads to, if that can be found out.

    Raises:
      OSError: the folder that it lies in cannot be read.
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    if follow and stat.S_ISLNK(mode):
        with contextlib.suppress(OSError):
            mode = path.stat().st_mode
    return _KINDS.get(stat.S_IFMT(mode), "something unknown")


def refuse_other_than(wanted: str, path: pathlib.Path, follow: bool = False) -> None:
    """Refuses whatever is not of one kind (see `kind`).

    Raises:
      FileNotFoundError: nothing has that name.
      OSError: as in `kind`.
      UsageError: something else has; the message says what it is.
    """
    found = kind(path, follow)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if found == LINK and follow:
        path.stat()  # says why it leads nowhere
    if found != wanted:
        raise UsageError(f"{path}: is {found}, not {wanted}")


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
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > _LARGEST_JSON:
                raise UsageError(f"{path}: {size:,} bytes is too large for such a file")
            content = file.read(_LARGEST_JSON)
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
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
    if len(os.fsencode(path.name)) > _LONGEST_NAME:
        raise UsageError(f"{flag} {path}: its name is longer than {_LONGEST_NAME} bytes")
    place = path.absolute() if folder else path.parent
    while folder and not place.exists():
        place = place.parent
    if not folder and path.is_dir():
        raise UsageError(f"{flag} {path}: is a folder; it takes a file's name")
    if not place.is_dir():
        raise UsageError(f"{flag} {path}: {f'{place} is a file' if place.exists() else f'there is no folder {place}'}")
    if not os.access(place, os.W_OK | os.X_OK) or (path.is_file() and not os.access(path, os.W_OK)):
        raise UsageError(f"{flag} {path}: cannot be written to")
