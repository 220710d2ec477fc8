"""``gpu.sh``, as a dry run on the CPU: every stage runs, leaves its result, and is not run twice."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import pytest

from benchmarks.process import ROOT

_SCRIPT = ROOT / "benchmarks" / "gpu.sh"
_NETWORKS = ("cifar10", "paper", "original", "torchvision")


def _run(arguments: Sequence[object], folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    # From another folder, and without what a GPU host may lack.
    (folder / "absent").mkdir(exist_ok=True)
    for package in ("tensorflow_datasets", "jaxtyping", "beartype"):
        (folder / "absent" / f"{package}.py").write_text("raise ImportError('not here')\n")
    env = {k: v for k, v in os.environ.items() if k != "JAXALEX_DATA_DIR"}
    env |= {"PYTHON": sys.executable, "PYTHONPATH": str(folder / "absent"), "TMPDIR": str(folder)}
    command = ["bash", str(_SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=folder)


def _check_training(file: pathlib.Path) -> None:
    train = json.loads(file.read_text())
    assert {row["framework"] for row in train["rows"]} == {"jax", "torch"}
    for row in train["rows"]:
        assert row["wall_seconds"] > row["epoch_seconds"] > 0
        assert row["share_of_step"] > 0
        assert 0 < row["outside_steps"] < 1
    assert train["rows"][0]["ratio"] == train["rows"][1]["wall_seconds"] / train["rows"][0]["wall_seconds"]


@pytest.mark.slow
def test_the_dry_run_leaves_every_result_and_goes_on_where_it_stopped(
    tmp_path: pathlib.Path, quick_programs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", quick_programs)
    out = tmp_path / "out"
    stage = _run(["train", out, "--device", "cpu", "--quick"], tmp_path)
    assert stage.returncode == 0, stage.stdout + stage.stderr
    assert [path.name for path in out.iterdir()] == ["train.json"]
    _check_training(out / "train.json")
    runs = json.loads((out / "train.json").read_text())["runs"]

    arguments = ["all", out, "--device", "cpu", "--quick"]
    done = _run(arguments, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    files = {path.name: path.stat().st_size for path in out.iterdir()}
    reports = {f"parity-{model}.json" for model in _NETWORKS}
    assert set(files) == reports | {"throughput.json", "throughput.html", "train.json"}
    assert sum(files.values()) < 16e6
    for model in _NETWORKS:
        assert json.loads((out / f"parity-{model}.json").read_text())["passed"]
    ratios = json.loads((out / "throughput.json").read_text())["ratios"]
    assert {entry["model"] for entry in ratios} == {"cifar10", "paper"}
    assert json.loads((out / "train.json").read_text())["runs"] == runs

    before = {path.name: path.read_bytes() for path in out.iterdir() if path.name != "train.json"}
    again = _run(arguments, tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {name: (out / name).read_bytes() for name in before} == before
    assert json.loads((out / "train.json").read_text())["runs"] == runs
    assert again.stdout.count("is there already") == len(_NETWORKS)
    for word in ("round", "run 1", "bare step"):
        assert word not in again.stderr


def test_without_cifar10_there_is_nothing_to_train_on(tmp_path: pathlib.Path) -> None:
    done = _run(["train", tmp_path / "out", "--device", "cpu"], tmp_path)
    assert done.returncode == 0
    assert "no cifar-10-batches-py at hand" in done.stderr


def test_misuse(tmp_path: pathlib.Path) -> None:
    for arguments in (["everything"], [], ["train", "--device", "tpu"], ["train", "--fast"], ["train", "a", "b"]):
        done = _run(arguments, tmp_path)
        assert done.returncode == 2, arguments
        assert done.stderr
    helped = _run(["--help"], tmp_path)
    assert helped.returncode == 0
    assert "throughput" in helped.stdout
