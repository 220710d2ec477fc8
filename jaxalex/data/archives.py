"""Reads chosen files of a ``.tar.gz`` into memory, with limits on their sizes."""

from __future__ import annotations

import gzip
import posixpath
import tarfile
from collections.abc import Mapping
from pathlib import Path

from jaxalex.errors import UsageError
from jaxalex.system import files

_SLACK = 16 * 2**20  # bytes for headers, padding and small files that are not wanted


class _Bounded:
    """A decompressed stream that refuses to give more than ``limit`` bytes: a tiny archive can unpack to terabytes."""

    def __init__(self, stream: gzip.GzipFile, limit: int) -> None:
        self.stream = stream
        self.left = limit

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise tarfile.ReadError("it holds far more than the published archive")
        return data


def read_members(archive: Path, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """Contents of the named regular files in a gzipped tar archive. Nothing is written to disk.

    Args:
      archive: the ``.tar.gz``.
      sizes: the name of each wanted member (``"folder/file"``) and its size in bytes.

    Returns:
      Content by name, for every name in ``sizes``.

    Raises:
      UsageError: the archive is cut short or is not a gzipped tar; a member is missing, occurs twice or has another
        size; the archive holds links, devices or names that lead out of its folder, as no published archive does.
    """
    contents: dict[str, bytes] = {}
    try:
        with (
            files.open_regular(archive) as file,
            gzip.GzipFile(fileobj=file) as stream,
            tarfile.open(fileobj=_Bounded(stream, sum(sizes.values()) + _SLACK), mode="r|") as tar,  # type: ignore[call-overload]
        ):
            for member in tar:
                name = posixpath.normpath(member.name)
                if name.startswith("/") or ".." in member.name.split("/"):
                    raise UsageError(f"{archive} holds {member.name!r}, which leads out of its folder")
                if not (member.isreg() or member.isdir()):
                    raise UsageError(f"{archive} holds {member.name!r}, which is neither a file nor a folder")
                if name not in sizes or member.isdir():
                    continue
                if name in contents:
                    raise UsageError(f"{archive} holds {name} twice")
                if member.size != sizes[name]:
                    raise UsageError(
                        f"{name} in {archive} is damaged: {member.size:,} bytes, expected {sizes[name]:,}; "
                        "replace the archive with a fresh copy"
                    )
                content = tar.extractfile(member)
                assert content is not None  # a regular file has content
                contents[name] = content.read()
    except UsageError:
        raise
    except Exception as error:  # besides TarError: zlib.error, EOFError, ValueError, RecursionError, MemoryError …
        raise UsageError(f"{archive} is damaged or cannot be read ({error}); replace it with a fresh copy") from error
    missing = ", ".join(sorted(sizes.keys() - contents.keys()))
    if missing:
        raise UsageError(f"{archive} does not hold {missing}; replace it with a fresh copy")
    return contents
