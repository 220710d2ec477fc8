"""Everything in `jaxalex` that reads CIFAR-10, with small stand-ins for it."""

from __future__ import annotations

import copy
import dataclasses
import functools
import gzip
import hashlib
import io
import random
import struct
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from reliability.reader import Reader, write

_FILES = {
    "python": ("batches.meta", "data_batch_1", "test_batch"),
    "binary": ("data_batch_1.bin", "test_batch.bin"),
}
_NAMES = b"airplane automobile bird cat deer dog frog horse ship truck".split()


@functools.cache
def samples(count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, count)


def _string(text: bytes) -> bytes:
    """A Python 2 str in a pickle."""
    return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + struct.pack("<i", len(text)) + text


def _batch() -> bytes:
    """A batch file as Python 2 pickled it (protocol 2)."""
    images, labels = samples()
    shape = b"M" + struct.pack("<H", len(images)) + b"M" + struct.pack("<H", 3072) + b"\x86"
    dtype = b"cnumpy\ndtype\n" + _string(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + _string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + _string(b"b") + b"\x87R"
    array += b"(K\x01" + shape + dtype + b"\x89" + _string(images.transpose(0, 3, 1, 2).tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + _string(b"labels") + numbers + _string(b"data") + array + b"u."


def _meta() -> bytes:
    return b"\x80\x02}(" + _string(b"label_names") + b"](" + b"".join(map(_string, _NAMES)) + b"eu."


def _form(folder: Path, which: str) -> Any:
    """CIFAR-10's form with the sizes and MD5s of what lies in ``folder`` now: a forger's, who damaged it first."""
    from jaxalex.data.cifar10.files import BINARY, PYTHON, File

    form = PYTHON if which == "python" else BINARY
    base, checks = folder / form.folder, {}
    for name in _FILES[which]:
        data = (base / name).read_bytes() if (base / name).is_file() else b"-"
        checks[name] = File(len(data), hashlib.md5(data).hexdigest())
    meta = (form.meta[0], checks.pop(form.meta[0])) if form.meta else None
    return dataclasses.replace(form, batches=checks, meta=meta)


def _make_cifar(which: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        from jaxalex.data.cifar10.files import encode_records

        if which == "python":
            base = folder / "cifar-10-batches-py"
            return [
                write(base / "batches.meta", _meta()),
                write(base / "data_batch_1", _batch()),
                write(base / "test_batch", _batch()),
            ]
        base, data = folder / "cifar-10-batches-bin", encode_records(*samples())
        return [write(base / "data_batch_1.bin", data), write(base / "test_batch.bin", data)]

    return make


def _read_forged(which: str) -> Callable[[Path], Any]:
    return lambda folder: _cifar10().find(folder, [_form(folder, which)])()


def _cifar10() -> Any:
    from jaxalex.data import cifar10

    return cifar10


@functools.cache
def _honest_form(which: str) -> Any:
    """The form that belongs to the files before any damage."""
    with tempfile.TemporaryDirectory() as folder:
        _make_cifar(which)(Path(folder))
        return _form(Path(folder), which)


def _read_honest(which: str) -> Callable[[Path], Any]:
    return lambda folder: _cifar10().find(folder, [_honest_form(which)])()


@functools.cache
def _tar(which: str) -> bytes:
    form, stream = _honest_form(which), io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=stream, mode="w") as tar:
        _make_cifar(which)(Path(folder))
        for name in form.files:
            tar.add(Path(folder) / form.folder / name, f"{form.folder}/{name}")
    return stream.getvalue()


def _make_archive(which: str, inner: bool) -> Callable[[Path], list[Path]]:
    """An archive; with ``inner``, the tar alone, which is compressed only after its damage."""

    def make(folder: Path) -> list[Path]:
        if inner:
            return [write(folder / "inner.tar", _tar(which))]
        return [write(folder / _honest_form(which).archive_name, gzip.compress(_tar(which), 1))]

    return make


def _compress(which: str) -> Callable[[Path], None]:
    def mend(folder: Path) -> None:
        write(folder / _honest_form(which).archive_name, gzip.compress((folder / "inner.tar").read_bytes(), 1))

    return mend


def _make_member(folder: Path) -> list[Path]:
    return [write(folder / "choice", b"0123")]


def _compress_member(folder: Path) -> None:
    """An archive in which a file is a link, a pipe, a device … under its own name or another; "choice" says which."""
    form, rng, stream = _honest_form("python"), random.Random((folder / "choice").read_bytes()), io.BytesIO()
    whole = (folder / "choice").read_bytes() == b"0123"
    with tarfile.open(fileobj=io.BytesIO(_tar("python"))) as source, tarfile.open(fileobj=stream, mode="w") as tar:
        members = source.getmembers()
        chosen = rng.choice(members)
        for member in members:
            content = source.extractfile(member)
            if member is chosen and not whole:
                if rng.random() < 0.5:  # beside the file itself
                    tar.addfile(member, content)
                    member = copy.copy(member)
                    member.name = rng.choice((member.name, f"{form.folder}/more", "../more", "/more", "more"))
                member.type = rng.choice(_MEMBER_TYPES)
                member.linkname = rng.choice(("/etc/passwd", "../../more", members[0].name, members[-1].name, "."))
                member.devmajor, member.devminor = 1, 5
                member.size = rng.choice((0, 0, member.size))
                content = None if not member.size else io.BytesIO(bytes(member.size))
            tar.addfile(member, content)
    write(folder / form.archive_name, gzip.compress(stream.getvalue(), 1))


_MEMBER_TYPES = (
    *(tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE),
    *(tarfile.CONTTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.GNUTYPE_SPARSE),
)


def _make_tfds(folder: Path) -> list[Path]:
    from jaxalex.data.cifar10 import tfds_reader

    form = _honest_form("binary")
    _make_cifar("binary")(folder / "published")
    tfds_reader.prepare(folder, _cifar10().find(folder / "published", [form])())
    return sorted(path for path in (folder / tfds_reader.PREPARED).iterdir() if path.is_file())


def _read_tfds(folder: Path) -> Any:
    from jaxalex.data.cifar10 import tfds_reader

    return tfds_reader.read(folder, _honest_form("binary"))


READERS = {
    "pickles": Reader(_make_cifar("python"), _read_forged("python"), share=30),
    "binaries": Reader(_make_cifar("binary"), _read_forged("binary"), share=10),
    "checked pickles": Reader(_make_cifar("python"), _read_honest("python"), share=3),
    "archive": Reader(_make_archive("python", inner=False), _read_honest("python"), share=10),
    "archive's tar": Reader(
        _make_archive("binary", inner=True), _read_honest("binary"), _compress("binary"), share=20, strange=False
    ),
    "archive's members": Reader(_make_member, _read_honest("python"), _compress_member, share=10, strange=False),
    "tfds folder": Reader(_make_tfds, _read_tfds, share=4),
}
