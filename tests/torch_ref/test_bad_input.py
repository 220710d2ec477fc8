"""Hostile and damaged weights files: refused in one line that names the file, and never run."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import torch

from reliability import fuzz
from torch_ref import export, models, weights
from torch_ref.cli import UsageError


@pytest.fixture
def arrays() -> dict[str, torch.Tensor]:
    return models.build("cifar10", 10, width=0.02).state_dict()


def _refused(path: Path, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        export.convert(path, path.with_name("out.safetensors"), given={"dataset": "digits"})
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not path.with_name("out.safetensors").exists()


def test_a_few_bytes_that_stand_for_terabytes(tmp_path, arrays) -> None:
    """A stride of 0: PyTorch itself loads it without a word."""
    arrays["fc1.1.weight"] = torch.zeros(1).as_strided((2**20, 2**20), (0, 0))
    torch.save(arrays, tmp_path / "model.pth")
    _refused(tmp_path / "model.pth", r"fewer numbers than their shapes say: fc1\.1\.weight")


@pytest.mark.parametrize("kind", ["sparse", "meta"])
def test_tensors_without_their_numbers(tmp_path, arrays, kind: str) -> None:
    arrays["fc2.0.bias"] = torch.zeros(82).to_sparse() if kind == "sparse" else torch.empty(82, device="meta")
    torch.save(arrays, tmp_path / "model.pth")
    _refused(tmp_path / "model.pth", r"fc2\.0\.bias|not loaded")


def test_a_compressed_bomb(tmp_path, arrays) -> None:
    arrays["fc1.1.weight"] = torch.zeros(3000, 3000)
    torch.save(arrays, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "model.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    assert (tmp_path / "model.pth").stat().st_size < 200_000
    _refused(tmp_path / "model.pth", "was not loaded: it is compressed")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path, arrays, value: float) -> None:
    arrays["fc3.0.bias"][3] = value
    torch.save(arrays, tmp_path / "model.pth")
    _refused(tmp_path / "model.pth", r"fc3\.0\.bias: holds values that are not finite")


def test_weights_beyond_float32(tmp_path, arrays) -> None:
    arrays["fc3.0.bias"] = torch.full((10,), 1e300, dtype=torch.float64)
    torch.save(arrays, tmp_path / "model.pth")
    _refused(tmp_path / "model.pth", r"fc3\.0\.bias: holds values beyond the range of float32")


def test_numbers_of_eight_bits(tmp_path, arrays) -> None:
    arrays["fc3.0.bias"] = torch.zeros(10).to(torch.float8_e4m3fn)
    torch.save(arrays, tmp_path / "model.pth")
    _refused(tmp_path / "model.pth", r"fc3\.0\.bias: expected real numbers of 16 bits or more, found torch.float8")


class _Asks:
    def __reduce__(self):
        return os.mkdir, ("it-ran",)


def test_nobody_is_told_to_load_it_all_the_same(tmp_path, arrays) -> None:
    """PyTorch's own message recommends weights_only=False, which would run what is in the file."""
    path = tmp_path / "model.pth"
    torch.save({**arrays, "fc3.0.bias": _Asks()}, path)
    _refused(path, r"was not loaded: it asks for \w+\.mkdir$")
    whole = path.read_bytes()
    torch.save(models.build("cifar10", 10, width=0.02), path)  # a whole module
    _refused(path, r"was not loaded: it asks for torch_ref\.models\.AlexNetCifar10$")
    for content in (whole[:-200], b"\x80\x02}q", b"", b"{}", whole.replace(b"PK", b"PX")):
        path.write_bytes(content)
        _refused(path, r"was not loaded: (it is damaged, or torch\.save did not write it|it asks for [\w.]+)$")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--std", "0,0,0"], "std must be from 1.18e-38 to 3.4e+38"),
        (["--std", "1e-300,1,1"], "std must be from 1.18e-38 to 3.4e+38"),
        (["--std", "1e39,1,1"], "std must be from 1.18e-38 to 3.4e+38"),
        (["--mean", "0,0,1e300"], "mean must be finite in float32"),
        (["--image-size", "4097"], "image_size must be from 1 to 4096"),
        (["--resize", "31"], "resize must be from the image size, 32, to 4096, not 31"),
        (["--resize", "4097"], "resize must be from the image size, 32, to 4096, not 4097"),
        (["--image-size", "48"], "images of 48x48 do not fit its first dense layer"),
        (["--image-size", "3"], "images of 3x3 do not fit its first dense layer"),
        (
            ["--dataset", "a\x1bb", "--class-names", "0,1,2,3,4,5,6,7,8,9", "--mean", "0,0,0", "--std", "1,1,1"],
            "dataset",
        ),
        (["--class-names", "0,1,2,3,4,5,6,7,8,\x1b[2J"], "class_names must be printable"),
    ],
)
def test_nothing_is_exported_that_evaluate_would_refuse(tmp_path, arrays, flags, message, capsys) -> None:
    torch.save(arrays, tmp_path / "a.pth")
    target = tmp_path / "a.safetensors"
    assert export.main([str(tmp_path / "a.pth"), str(target), "--dataset", "digits", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not target.exists()


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "", "x", "0.5,,0.5"])
@pytest.mark.parametrize("flag", ["--mean", "--std", "--width"])
def test_numbers_that_are_none(tmp_path, arrays, flag, value, capsys) -> None:
    torch.save(arrays, tmp_path / "a.pth")
    with pytest.raises(SystemExit) as stop:
        export.main([str(tmp_path / "a.pth"), str(tmp_path / "a.safetensors"), f"{flag}={value}"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert f"argument {flag}: must be" in error
    assert error.count("\n") == 1


def test_a_folder_is_no_target(tmp_path, arrays, capsys) -> None:
    torch.save(arrays, tmp_path / "a.pth")
    (tmp_path / "a.safetensors").mkdir()
    assert export.main([str(tmp_path / "a.pth"), str(tmp_path / "a.safetensors"), "--force"]) == 2
    assert capsys.readouterr().err.endswith("a.safetensors is a folder\n")


def test_tensors_that_share_their_memory_are_weights(tmp_path, arrays) -> None:
    arrays["fc1.1.bias"] = arrays["fc2.0.bias"]
    torch.save(arrays, tmp_path / "model.pth")
    export.convert(tmp_path / "model.pth", tmp_path / "out.safetensors", given={"dataset": "digits"})
    found, _ = weights.read_safetensors(tmp_path / "out.safetensors")
    assert torch.equal(found["fc1.1.bias"], arrays["fc2.0.bias"])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_pipe_never_hangs(tmp_path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    os.mkfifo(path)
    with pytest.raises(UsageError, match="is no regular file"):
        export.convert(path, tmp_path / ("out.safetensors" if suffix == ".pth" else "out.pth"))


def test_damaged_files(tmp_path) -> None:
    outcome = fuzz.run(fuzz.trials(tmp_path, ["reliability.torch_readers"]), count=600)
    assert outcome.failures == []
    assert outcome.inputs == 600
