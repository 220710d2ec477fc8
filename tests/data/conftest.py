"""Small stand-ins for CIFAR-10's published files, and the real ones where there are any."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from jaxalex.data.cifar10.files import BINARY, PYTHON, File, Form

_REAL = os.environ.get("JAXALEX_DATA_DIR")
_TRAIN_BATCHES, _BATCH, _NUM_TEST = 2, 60, 40


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch, tmp_path_factory):
    """No data set on this machine is found unless a test points to it."""
    monkeypatch.delenv("JAXALEX_DATA_DIR", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that holds the real ``cifar-10-batches-py``."""
    if not _REAL or not (Path(_REAL) / "cifar-10-batches-py").is_dir():
        pytest.skip("needs the real CIFAR-10: JAXALEX_DATA_DIR with cifar-10-batches-py in it")
    return Path(_REAL)


def _string(text: bytes) -> bytes:
    """A Python 2 str: SHORT_BINSTRING or BINSTRING."""
    short = len(text) < 256
    return (b"U" + struct.pack("<B", len(text)) if short else b"T" + struct.pack("<i", len(text))) + text


def python2_pickle(images: np.ndarray, labels: np.ndarray) -> bytes:
    """A batch file as Python 2 pickled it (protocol 2), opcode by opcode; images uint8 [n, 32, 32, 3]."""
    shape = b"M" + struct.pack("<H", len(images)) + b"M" + struct.pack("<H", 3072) + b"\x86"
    dtype = b"cnumpy\ndtype\n" + _string(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + _string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + _string(b"b") + b"\x87R"
    pixels = images.transpose(0, 3, 1, 2).tobytes()
    array += b"(K\x01" + shape + dtype + b"\x89" + _string(pixels) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    items = _string(b"batch_label") + _string(b"a small one") + _string(b"labels") + numbers
    return b"\x80\x02}(" + items + _string(b"data") + array + b"u."


def meta_pickle(names: list[bytes]) -> bytes:
    strings = b"".join(_string(name) for name in names)
    return b"\x80\x02}(" + _string(b"label_names") + b"](" + strings + b"eu."


@pytest.fixture
def full_disk() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """A context in which no file of this process can grow beyond 10,000 bytes.

    Leave it before the test ends: pytest may write its own report to a file that is larger already.
    """
    resource = pytest.importorskip("resource")

    @contextlib.contextmanager
    def limited() -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@dataclasses.dataclass(frozen=True)
class SmallCifar10:
    """160 made-up images in both published forms, with matching sizes and MD5s."""

    images: np.ndarray  # uint8 [160, 32, 32, 3]: two training batches of 60, then 40 to test
    labels: np.ndarray
    python: Form
    binary: Form
    content: dict[str, bytes]  # of every file of both forms, by name

    @property
    def forms(self) -> tuple[Form, Form]:
        return self.python, self.binary

    def write_folder(self, folder: Path, form: Form) -> Path:
        folder.mkdir(parents=True)
        for name in form.files:
            (folder / name).write_bytes(self.content[name])
        return folder

    def write_archive(self, path: Path, form: Form, rename: Callable[[str], str] = lambda name: name) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w:gz") as tar:
            for name in reversed(form.files):  # no order is promised
                member = tarfile.TarInfo(rename(f"{form.folder}/{name}"))
                member.size = len(self.content[name])
                tar.addfile(member, io.BytesIO(self.content[name]))
        return path

    def check(self, published) -> None:
        """Asserts that these are all the images, in the published order."""
        cut = len(self.images) - _NUM_TEST
        for part, rows in ((published.train, slice(0, cut)), (published.test, slice(cut, None))):
            assert part.images.dtype == np.uint8
            assert part.labels.dtype == np.int32
            assert part.images.flags.c_contiguous
            np.testing.assert_array_equal(part.images, self.images[rows])
            np.testing.assert_array_equal(part.labels, self.labels[rows])
        assert published.name == "cifar10"
        assert published.class_names == (
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        )


@pytest.fixture(scope="session")
def small() -> SmallCifar10:
    rng = np.random.default_rng(7)
    total = _TRAIN_BATCHES * _BATCH + _NUM_TEST
    images = rng.integers(0, 256, (total, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, total)
    content = {"batches.meta": meta_pickle(b"airplane automobile bird cat deer dog frog horse ship truck".split())}
    names = [f"data_batch_{i + 1}" for i in range(_TRAIN_BATCHES)] + ["test_batch"]
    for i, name in enumerate(names):
        rows = slice(i * _BATCH, i * _BATCH + (_NUM_TEST if name == "test_batch" else _BATCH))
        content[name] = python2_pickle(images[rows], labels[rows])
        content[name + ".bin"] = b"".join(
            bytes([label]) + image.transpose(2, 0, 1).tobytes()
            for image, label in zip(images[rows], labels[rows], strict=True)
        )

    def table(*files: str) -> dict[str, File]:
        return {n: File(len(content[n]), hashlib.md5(content[n]).hexdigest()) for n in files}

    python = dataclasses.replace(
        PYTHON, batches=table(*names), meta=("batches.meta", table("batches.meta")["batches.meta"])
    )
    binary = dataclasses.replace(BINARY, batches=table(*(n + ".bin" for n in names)))
    return SmallCifar10(images, labels.astype(np.int32), python, binary, content)
