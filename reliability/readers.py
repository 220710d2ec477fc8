"""Everything in `jaxalex` that reads a file a stranger may have made, with small stand-ins for what it reads.

A reader is a pair of functions: ``make(folder)`` writes whole files and returns those that are to be damaged one by
one; ``read(folder)`` reads them through the door that the commands use.
"""

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


@dataclasses.dataclass(frozen=True)
class Reader:
    """A kind of input.

    Attributes:
      make: writes whole files into a folder; returns those that are to be damaged.
      read: reads them; raises UsageError for what cannot be used.
      mend: called after the damage, to forge the checksums that would betray it.
      share: how many of all inputs it gets, relative to the others: a slow one gets fewer.
      strange: whether links, pipes … may take the files' place, too.
    """

    make: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]
    mend: Callable[[Path], None] = lambda folder: None
    share: int = 10
    strange: bool = True


_FILES = {
    "python": ("batches.meta", "data_batch_1", "test_batch"),
    "binary": ("data_batch_1.bin", "test_batch.bin"),
}
_NAMES = b"airplane automobile bird cat deer dog frog horse ship truck".split()


@functools.cache
def _images(count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, count)


def _string(text: bytes) -> bytes:
    """A Python 2 str in a pickle."""
    return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + struct.pack("<i", len(text)) + text


def _batch() -> bytes:
    """A batch file as Python 2 pickled it (protocol 2)."""
    images, labels = _images()
    shape = b"M" + struct.pack("<H", len(images)) + b"M" + struct.pack("<H", 3072) + b"\x86"
    dtype = b"cnumpy\ndtype\n" + _string(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + _string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + _string(b"b") + b"\x87R"
    array += b"(K\x01" + shape + dtype + b"\x89" + _string(images.transpose(0, 3, 1, 2).tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + _string(b"labels") + numbers + _string(b"data") + array + b"u."


def _meta() -> bytes:
    return b"\x80\x02}(" + _string(b"label_names") + b"](" + b"".join(map(_string, _NAMES)) + b"eu."


def _write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


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
                _write(base / "batches.meta", _meta()),
                _write(base / "data_batch_1", _batch()),
                _write(base / "test_batch", _batch()),
            ]
        base, data = folder / "cifar-10-batches-bin", encode_records(*_images())
        return [_write(base / "data_batch_1.bin", data), _write(base / "test_batch.bin", data)]

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
            return [_write(folder / "inner.tar", _tar(which))]
        return [_write(folder / _honest_form(which).archive_name, gzip.compress(_tar(which), 1))]

    return make


def _compress(which: str) -> Callable[[Path], None]:
    def mend(folder: Path) -> None:
        _write(folder / _honest_form(which).archive_name, gzip.compress((folder / "inner.tar").read_bytes(), 1))

    return mend


def _make_member(folder: Path) -> list[Path]:
    return [_write(folder / "choice", b"0123")]


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
    _write(folder / form.archive_name, gzip.compress(stream.getvalue(), 1))


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


@functools.cache
def _network() -> Any:
    """A tiny network's state and description."""
    import jax

    from jaxalex import models
    from jaxalex.training import optim
    from jaxalex.training.state import create_train_state
    from jaxalex.weights.safetensors import Description

    model = models.build("cifar10", 10, 0.02, init="flax")
    half = np.full(3, 0.5, np.float32)
    state = create_train_state(model, optim.sgd(0.01, 0.9), jax.random.key(0), (32, 32, 3), half, half)
    names = tuple("0123456789")
    description = Description("cifar10", 0.02, 10, names, "digits", 32, 3, (0.5,) * 3, (0.5,) * 3)
    return state, description


def _make_weights(folder: Path) -> list[Path]:
    from jaxalex.weights.safetensors import save_weights

    state, description = _network()
    save_weights(folder / "model.safetensors", state.params, description)
    return [folder / "model.safetensors"]


def _read_weights(folder: Path) -> Any:
    from jaxalex.weights.safetensors import load_weights

    return load_weights(folder / "model.safetensors")


def _load(folder: Path) -> Any:
    from jaxalex.training import pretrained

    return pretrained.load(folder / "model.safetensors", "cpu")


def _make_config(folder: Path) -> list[Path]:
    from jaxalex import config

    text = config.to_json(config.from_recipe("quickstart", {"checkpoint_every": "5m", "data_dir": "some where"}))
    return [_write(folder / "config.json", text.encode())]


def _read_config(folder: Path) -> Any:
    from jaxalex import config

    return config.resumed(folder, {"num_epochs": 1000})


@functools.cache
def _settings() -> Any:
    from jaxalex import config

    return config.from_recipe("quickstart", {"limit_train": 90})


def _record() -> dict[str, Any]:
    return {"config": dataclasses.asdict(_settings()), "split": {"train": 90}, "dropout_key": [0, 1], "environment": {}}


def _make_checkpoints(folder: Path) -> list[Path]:
    from jaxalex.training.checkpoint import Checkpoints
    from jaxalex.training.progress import Progress
    from jaxalex.training.report import EpochRow

    row = EpochRow(1, 2.3, 10.0, 2.2, 11.0, 3.5, 100.0)
    progress = Progress(2, rows=(row,)).to_record()
    state = _network()[0]
    Checkpoints(folder / "checkpoints").save(
        3, state.replace(step=state.step + 3), _record() | {"progress": progress}, 50.0
    )
    return sorted(path for path in (folder / "checkpoints").rglob("*") if path.is_file())


def _keeper(folder: Path, check_lock: Callable[[], None] = lambda: None) -> Any:
    from jaxalex.training.checkpoint import Checkpoints
    from jaxalex.training.keeper import Keeper
    from jaxalex.training.schedule import Schedule, Stopwatch

    checkpoints = Checkpoints(folder / "checkpoints")
    steps_per_epoch = -(-_record()["split"]["train"] // _settings().batch_size)
    watch = Stopwatch(began=0.0)
    return Keeper(checkpoints, _record(), steps_per_epoch, Schedule(), folder, lambda: None, watch, check_lock)


def _read_checkpoints(folder: Path) -> Any:
    return _keeper(folder).restore(_network()[0], lambda line: None)


def _make_run(folder: Path) -> list[Path]:
    """A run folder, with what killed processes and strangers may have left in it."""
    from jaxalex import config

    _make_checkpoints(folder)
    _make_weights(folder)
    _write(folder / "config.json", config.to_json(_settings()).encode())
    for name in ("metrics.jsonl", "summary.json", "curves.png", "predictions.png", "confusion.png", ".lock"):
        _write(folder / name, b"{}\n")
    for name in ("config.json", "metrics.jsonl", "model.safetensors"):
        _write(folder / f"{name}.part", b"{}\n")
        _write(folder / f"{name}.0123456789abcdef.part", b"{}\n")
    for name in ("6.partial", "notes.partial", "2.damaged"):
        _write(folder / "checkpoints" / name / "record.json", b"{}\n")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _resume(folder: Path) -> Any:
    """What ``--resume`` does, in its order, without the training: reads the run and writes all of it again."""
    from jaxalex import config
    from jaxalex.errors import RunError, UsageError
    from jaxalex.system import files, lock
    from jaxalex.training import folder as run_folder
    from jaxalex.training import report
    from jaxalex.training.advice import failures_explained
    from jaxalex.weights.safetensors import save_weights

    settings = config.resumed(folder, {})
    run_folder.check(folder, resume=True)
    with lock.hold(folder) as check_lock:
        keeper = _keeper(folder, check_lock)
        try:
            with failures_explained(folder, 0.01, keeper.saved_step):
                state, progress = keeper.restore(_network()[0], lambda line: None)
                run_folder.remove_leftovers(folder)
                files.write_whole(folder / "config.json", config.to_json(settings))
                report.write_rows(folder / "metrics.jsonl", progress.rows)
                row = dataclasses.replace(progress.rows[0], epoch=2)
                keeper.save(state.replace(step=state.step + 3), dataclasses.replace(progress, epoch=3))
                report.append_row(folder / "metrics.jsonl", row)
                save_weights(folder / "model.safetensors", state.params, _network()[1])
                for name in ("curves.png", "predictions.png", "confusion.png", "summary.json"):
                    files.write_whole(folder / name, b"{}")
        except RunError as error:
            raise UsageError(str(error)) from error


def _forge_manifest(folder: Path) -> None:
    from jaxalex.system import files

    checkpoint = folder / "checkpoints" / "3"
    digests = {
        path.relative_to(checkpoint).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in checkpoint.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    (checkpoint / "manifest.json").write_text(files.to_json({"files": digests}))


def _make_pictures(folder: Path) -> list[Path]:
    from PIL import Image

    picture = Image.fromarray(_images()[0][0]).resize((40, 30))
    made = []
    for suffix in ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm"):
        picture.save(folder / f"picture.{suffix}")
        made.append(folder / f"picture.{suffix}")
    return made


def _read_pictures(folder: Path) -> Any:
    from jaxalex.errors import UsageError
    from jaxalex.predict import read_picture

    problems = []
    for path in sorted(folder.iterdir()):
        try:
            read_picture(path, 32, 3)
        except UsageError as error:
            problems.append(error)
    if problems:
        raise problems[0]
    return None


USAGE_ERRORS = ("jaxalex.errors",)
READERS: dict[str, Reader] = {
    "pickles": Reader(_make_cifar("python"), _read_forged("python"), share=30),
    "binaries": Reader(_make_cifar("binary"), _read_forged("binary"), share=10),
    "checked pickles": Reader(_make_cifar("python"), _read_honest("python"), share=3),
    "archive": Reader(_make_archive("python", inner=False), _read_honest("python"), share=10),
    "archive's tar": Reader(
        _make_archive("binary", inner=True), _read_honest("binary"), _compress("binary"), share=20, strange=False
    ),
    "archive's members": Reader(_make_member, _read_honest("python"), _compress_member, share=10, strange=False),
    "tfds folder": Reader(_make_tfds, _read_tfds, share=4),
    "weights": Reader(_make_weights, _read_weights, share=20),
    "network": Reader(_make_weights, _load, share=4),
    "config": Reader(_make_config, _read_config, share=20),
    "checkpoint": Reader(_make_checkpoints, _read_checkpoints, share=5),
    "forged checkpoint": Reader(_make_checkpoints, _read_checkpoints, _forge_manifest, share=3, strange=False),
    "run folder": Reader(_make_run, _resume, share=5),
    "picture": Reader(_make_pictures, _read_pictures, share=20),
}
