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
