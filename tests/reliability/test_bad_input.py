"""Input damaged or hostile on purpose: one line that names the file, code 2, and no memory for what it claims."""

from __future__ import annotations

import io
import json
import os
import pathlib
import struct
import tarfile
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from jaxalex import evaluate, train
from jaxalex.data import archives
from jaxalex.data.cifar10 import files as cifar10_files
from jaxalex.data.cifar10 import unpickler
from jaxalex.data.pictures import read_picture
from jaxalex.errors import UsageError
from jaxalex.training import pretrained
from jaxalex.weights.safetensors import load_weights
from reliability import data_readers, readers

resource = pytest.importorskip("resource")


@pytest.fixture(autouse=True)
def _bounded_memory():
    """No test here may allocate a gigabyte, whatever size a file claims to have."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # kilobytes


def _header(tensors: dict, metadata: dict[str, str] | None = None) -> bytes:
    text = json.dumps(tensors | ({"__metadata__": metadata} if metadata else {})).encode()
    return struct.pack("<Q", len(text)) + text


_F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
_WEIGHTS = {
    "empty": b"",
    "no header": b"\x08\0\0\0\0\0\0\0",
    "terabytes of header": struct.pack("<Q", 2**42) + b"{}",
    "header length the wrong way round": struct.pack(">Q", 20) + b"{}" + bytes(30),
    "terabytes of numbers": _header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}) + bytes(64),
    "sizes that overflow": _header({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}}) + bytes(4),
    "a shape that does not fit": _header({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}}) + bytes(4),
    "two that overlap": _header({"a": _F32, "b": _F32}) + bytes(4),
    "a name twice": b"\x60\0\0\0\0\0\0\0"
    + (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1]').ljust(0x60)
    + bytes(8),
    "an unknown type": _header({"a": {"dtype": "F31", "shape": [1], "data_offsets": [0, 4]}}) + bytes(4),
    "integers": _header({"a": {"dtype": "I32", "shape": [1], "data_offsets": [0, 4]}}) + bytes(4),
    "NaN": _header({"a": _F32}) + struct.pack("<f", float("nan")),
    "nested without end": struct.pack("<Q", 100_000) + b'{"a":' * 20_000,
}


@pytest.mark.parametrize("name", _WEIGHTS)
def test_weights(tmp_path, capsys, name: str) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(_WEIGHTS[name])
    with pytest.raises(UsageError) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert evaluate.main([str(path), "--model", "cifar10", "--dataset", "digits", "--normalize", "half"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_sparse_file_of_a_terabyte(tmp_path) -> None:
    path = tmp_path / "huge.safetensors"
    size = 2**40
    header = _header({"a": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}})
    with path.open("wb") as file:
        file.write(header)
        try:
            file.truncate(len(header) + size)
        except OSError:
            pytest.skip("this file system holds no file of a terabyte")
    with pytest.raises(UsageError, match=r"holds 1,099\.5 GB, [\d.,]+ GB of memory are free"):
        load_weights(path)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("num_classes", "1000000000000"),
        ("num_classes", "-1"),
        ("num_classes", "9" * 5000),
        ("width", "1e300"),
        ("width", "nan"),
        ("width", "16"),
        ("image_size", "1000000000"),
        ("image_size", "3"),
        ("input_channels", "7"),
        ("class_names", "[" * 50_000),
        ("class_names", json.dumps(["\x1b[2J", *"123456789"])),
        ("class_names", '{"0": 1}'),
        ("class_names", "[1,2,3,4,5,6,7,8,9,10]"),
        ("mean", "[NaN, 0.5, 0.5]"),
        ("mean", "[0.5]"),
        ("std", "[0.5, 0, 0.5]"),
        ("std", '"half"'),
        ("model", "paper"),
        ("model", "vgg"),
    ],
)
def test_what_weights_say_of_themselves(tmp_path, capsys, entry: str, value: str) -> None:
    from safetensors import safe_open

    readers.READERS["weights"].make(tmp_path)
    path = tmp_path / "model.safetensors"
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata | {entry: value})
    assert evaluate.main([str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: ")
    assert error.count("\n") == 1
    assert "\x1b" not in error
    assert len(error) < 5000


@pytest.mark.slow
def test_nan_in_a_run(copy, capsys) -> None:
    run = copy()
    arrays = load_file(run / "model.safetensors")
    arrays["fc2.0.weight"][0, 0] = np.nan
    save_file(arrays, run / "model.safetensors")
    assert evaluate.main([str(run)]) == 2
    assert f"{run / 'model.safetensors'}: fc2.0.weight holds values that are not finite" in capsys.readouterr().err


def test_nan_in_a_checkpoint(copy, capsys) -> None:
    """As another program could save it, with right checksums."""
    import orbax.checkpoint as ocp

    from reliability.runs import like, small

    run = copy()
    state = like(small())
    fc3 = {"kernel": state.params["fc3"]["kernel"], "bias": state.params["fc3"]["bias"].at[0].set(np.nan)}
    tree = {name: getattr(state, name) for name in ("step", "opt_state", "mean", "std")}
    tree["params"] = state.params | {"fc3": fc3}
    for folder in (run / "checkpoints").iterdir():
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            checkpointer.save(folder / "state", args=ocp.args.StandardSave(tree), force=True)
        _forge(folder)
    assert train.main(["--resume", str(run)]) == 2
    assert "holds numbers that are not finite" in capsys.readouterr().err


def _forge(checkpoint: pathlib.Path) -> None:
    import hashlib

    digests = {
        path.relative_to(checkpoint).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in checkpoint.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    (checkpoint / "manifest.json").write_text(json.dumps({"files": digests}))


_CONFIGS = {
    "empty": b"",
    "no JSON": b"{",
    "no object": b"[1, 2]",
    "no UTF-8": b'{"model": "\xff"}',
    "a name twice": b'{"seed": 1, "seed": 2}',
    "NaN": b'{"learning_rate": NaN}',
    "endless": b'{"learning_rate": 1e999}',
    "nested": b'{"a":' * 100_000,
    "a wrong type": b'{"batch_size": "32"}',
    "a wrong range": b'{"batch_size": -1}',
    "a long number": b'{"seed": ' + b"9" * 10_000 + b"}",
    "an unknown key": b'{"learning-rate": 0.1}',
    "no file's name": b'{"data_dir": "a\\u0000b"}',
}


@pytest.mark.parametrize("name", _CONFIGS)
def test_config(tmp_path, capsys, name: str) -> None:
    (tmp_path / "config.json").write_bytes(_CONFIGS[name])
    for command in (lambda: train.main(["--resume", str(tmp_path)]), lambda: evaluate.main([str(tmp_path)])):
        assert command() == 2
        error = capsys.readouterr().err
        assert str(tmp_path / "config.json") in error
        assert error.count("\n") == 1


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_000, 10_000), (50_000, 50_000), (2**31 - 1, 2**31 - 1), (0, 5)])
def test_pictures_that_unpack_to_gigabytes(tmp_path, size: tuple[int, int]) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(_png(*size))
    with pytest.raises(UsageError, match=rf"^{path}: not a readable picture"):
        read_picture(path, 32, 3)


def test_pictures_that_call_another_program(tmp_path, monkeypatch) -> None:
    """Pillow hands PostScript to Ghostscript."""
    import subprocess

    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: pytest.fail("it started a program"))
    path = tmp_path / "picture.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(UsageError, match="not a readable picture"):
        read_picture(path, 32, 3)


def test_sixteen_bits_and_palettes_are_pictures(tmp_path) -> None:
    for name, picture in (
        ("palette.gif", Image.new("P", (40, 20))),
        ("deep.png", Image.new("I;16", (40, 20))),
        ("cmyk.tif", Image.new("CMYK", (40, 20))),
    ):
        picture.save(tmp_path / name)
        assert read_picture(tmp_path / name, 32, 3).shape == (32, 32, 3)


@pytest.mark.parametrize(
    "read",
    [
        load_weights,
        lambda path: read_picture(path, 32, 3),
        lambda path: pretrained.load(path),
        lambda path: train.main(["--resume", str(path.parent)]) == 2 and _refuse(path),
    ],
)
def test_a_pipe_never_hangs(tmp_path, read: Callable) -> None:
    path = tmp_path / "config.json"
    os.mkfifo(path)
    with pytest.raises(UsageError, match=r"is not a regular file|no such file"):
        read(path)
    with pytest.raises(UsageError, match=r"is not a regular file|no such file|not a readable"):
        read(pathlib.Path("/dev/zero")) if read is load_weights else read(path)


def _refuse(path: pathlib.Path) -> None:
    raise UsageError(f"{path}: is not a regular file")


def _tar(*members: tuple[str, bytes, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1) as tar:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                member.linkname = content.decode()
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


_GOOD = ("d/a", tarfile.REGTYPE, b"12345")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([_GOOD, _GOOD], "holds d/a twice"),
        ([], "does not hold d/a"),
        ([("d/../d/a", tarfile.REGTYPE, b"12345")], "leads out of its folder"),
        ([_GOOD, ("../../etc/cron.d/x", tarfile.REGTYPE, b"")], "leads out of its folder"),
        ([_GOOD, ("/etc/passwd", tarfile.REGTYPE, b"")], "leads out of its folder"),
        ([_GOOD, ("d/b", tarfile.SYMTYPE, b"/etc/passwd")], "neither a file nor a folder"),
        ([("d/a", tarfile.LNKTYPE, b"/etc/passwd")], "neither a file nor a folder"),
        ([_GOOD, ("d/b", tarfile.FIFOTYPE, b"")], "neither a file nor a folder"),
        ([("d/a", tarfile.REGTYPE, b"123456")], "6 bytes, expected 5"),
    ],
)
def test_archives(tmp_path, members, message: str) -> None:
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(_tar(*members))
    with pytest.raises(UsageError, match=message) as caught:
        archives.read_members(path, {"d/a": 5})
    assert str(path) in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["archive.tar.gz"]


def test_an_archive_with_folders_and_other_files_is_read(tmp_path) -> None:
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(_tar(("d", tarfile.DIRTYPE, b""), _GOOD, ("d/readme.html", tarfile.REGTYPE, b"hello")))
    assert archives.read_members(path, {"d/a": 5}) == {"d/a": b"12345"}


def test_labels_out_of_range() -> None:
    records = bytearray(2 * 3073)
    records[3073] = 10
    with pytest.raises(UsageError, match="it holds the label 10, the largest is 9"):
        cifar10_files.decode_records(bytes(records))
    with pytest.raises(UsageError, match="not a whole number of records"):
        cifar10_files.decode_records(bytes(3074))
    batch = data_readers._batch()
    label = batch.index(b"](K") + 3
    assert unpickler.load_batch(batch)[1][0] == batch[label]
    with pytest.raises(UsageError, match="not a list of numbers from 0 to 9"):
        unpickler.load_batch(batch[:label] + b"\x0a" + batch[label + 1 :])


def test_a_pickle_that_grows_without_end() -> None:
    """Ten lists, each of which holds the one before ten times: 10 billion labels in an array."""
    nested = b"](K\x01" + b"K\x01" * 9 + b"eq\x00"
    for level in range(1, 10):
        nested += b"](" + b"h" + bytes([level - 1]) + (b"h" + bytes([level - 1])) * 9 + b"eq" + bytes([level])
    batch = data_readers._batch()
    start, end = batch.index(b"](K"), batch.index(b"U\x04data")
    with pytest.raises(UsageError, match="not a list of numbers"):
        unpickler.load_batch(batch[:start] + b"(" + nested + b"1" + b"h\x09" + batch[end:])


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02}r\xff\xff\xff\x7f.",  # LONG_BINPUT: a table of 2^31 entries
        b"p4294967295\n}.",  # PUT
        b"\x80\x05\x96" + struct.pack("<Q", 2**42) + b".",  # BYTEARRAY8 of 4 TB
        b"\x80\x04\x8e" + struct.pack("<Q", 2**42) + b".",  # BINBYTES8
        b"\x80\x04\x95" + struct.pack("<Q", 2**42) + b"}.",  # FRAME
    ],
)
def test_pickles_that_claim_memory(data: bytes) -> None:
    with pytest.raises(UsageError, match="refused to unpickle it"):
        unpickler.load_batch(data)


def test_a_refused_pickle_is_one_line() -> None:
    with pytest.raises(UsageError) as caught:  # Python's own message has two
        unpickler.load_batch(b"Psomething of another program\n.")
    assert len(str(caught.value).splitlines()) == 1


def test_a_checkpoint_that_lacks_an_array(tmp_path) -> None:
    """Orbax silently returns a shape in place of an array that it does not find."""
    reader = readers.READERS["forged checkpoint"]
    reader.make(tmp_path)
    path = tmp_path / "checkpoints" / "3" / "state" / "_METADATA"
    text = path.read_text()
    assert "'fc1'" in text or '"fc1"' in text
    path.write_text(text.replace("fc1", "fc9"))
    reader.mend(tmp_path)
    with pytest.raises(UsageError, match=rf"{tmp_path / 'checkpoints' / '3'}: (lacks|cannot be read)"):
        reader.read(tmp_path)
