"""The suite from end to end, small: every part runs, the files are complete, memory and missing devices are handled."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks import measure, page
from benchmarks.__main__ import main
from benchmarks.measure import Options
from benchmarks.process import ROOT, OutOfMemory, Worker, WorkerError
from benchmarks.settings import Setting


def _run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "benchmarks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict[str, Any], str]:
    """A smoke run of one network: its folder, its result, what it printed."""
    folder = tmp_path_factory.mktemp("smoke")
    files = [f"--{kind}={folder / f'x.{kind}'}" for kind in ("json", "html", "png")]
    done = _run(["--quick", "--model", "cifar10", "--variants", "channels_last", *files])
    assert done.returncode == 0, done.stderr
    return folder, json.loads((folder / "x.json").read_text()), done.stdout


@pytest.mark.slow
def test_the_result_holds_what_it_should(smoke: tuple[pathlib.Path, dict[str, Any], str]) -> None:
    _, result, _ = smoke
    assert list(result) == ["environment", "roofline", "rows", "ratios"]
    assert {"cpu", "cores", "gpu", "versions", "flags", "git_revision", "date"} <= set(result["environment"])
    assert {"jax", "torch", "python"} <= set(result["environment"]["versions"])
    assert [(r["mode"], r["framework"], r["variant"]) for r in result["rows"]] == [
        ("train", "jax", "train_step"),
        ("train", "jax", "train_epoch"),
        ("train", "torch", "channels_last"),
        ("infer", "jax", "eval_step"),
        ("infer", "torch", "channels_last"),
    ]
    assert len({row["inputs"] for row in result["rows"] if row["mode"] == "train"}) == 1
    for row in result["rows"]:
        assert row["n"] >= 2
        for name in ("images_per_second", "ms_per_step", "mfu", "floor_fraction", "peak_memory_bytes", "ratio"):
            assert row[name] > 0, (name, row)
        assert row["images_per_second"] * row["ms_per_step"] == pytest.approx(1e3 * row["batch_size"])
        if row["best"] and row["mode"] == "train":
            assert row["forward_ms"] > 0
        if row["framework"] == "jax":
            assert row["compile_seconds"] > 0
            assert row["first_step_seconds"] > row["compile_seconds"]
            assert (row["first_step_seconds_cached"] is not None) == row["best"]
    keys = ["model", "mode", "batch_size", "precision", "device", "jax_images_per_second"]
    assert [list(entry) for entry in result["ratios"]] == 2 * [
        [*keys, "torch_images_per_second", "torch_variant", "ratio"]
    ]
    assert result["roofline"]["matmul_flops_per_second"]["float32"]["best"] > 1e8
    assert result["roofline"]["copy_bytes_per_second"]["best"] > 1e8


@pytest.mark.slow
def test_no_path_in_any_file(smoke: tuple[pathlib.Path, dict[str, Any], str]) -> None:
    folder, _, output = smoke
    for text in ((folder / "x.json").read_text(), (folder / "x.html").read_text(), output):
        assert str(ROOT) not in text
        assert str(folder) not in text
        assert not re.search(r"/(home|root|tmp|usr|work)/", text)


@pytest.mark.slow
def test_pictures_and_page(smoke: tuple[pathlib.Path, dict[str, Any], str]) -> None:
    folder, result, output = smoke
    assert (folder / "x.png").read_bytes().startswith(b"\x89PNG")
    html = (folder / "x.html").read_text()
    assert html == page.html(result)
    assert not re.search(r"<script|https?://|<link", html)
    assert html.count("data:image/png;base64,") == 1
    for row in result["rows"]:
        assert row["variant"] in html
        assert row["variant"] in output


@pytest.mark.slow
def test_resuming_measures_nothing_twice(smoke: tuple[pathlib.Path, dict[str, Any], str]) -> None:
    folder, result, _ = smoke
    again = [
        "--quick",
        "--model",
        "cifar10",
        "--variants",
        "channels_last",
        "--resume",
        "--json",
        str(folder / "x.json"),
    ]
    done = _run(again)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "x.json").read_text()) == result
    assert "round" not in done.stderr
    late = _run([*again, "--batch-size", "2", "--time-limit", "0"])
    assert late.returncode == 1
    assert "--resume" in late.stderr.splitlines()[-1]
    other = {**result, "environment": {**result["environment"], "git_revision": "another"}}
    (folder / "other.json").write_text(json.dumps(other))
    refused = _run([*again[:-1], str(folder / "other.json")])
    assert refused.returncode == 2
    assert "holds figures of another git_revision" in refused.stderr


@pytest.mark.slow
def test_out_of_memory_halves_the_batch_and_says_so(tmp_path: pathlib.Path) -> None:
    """Real failures: the workers may not take more address space than a few hundred megabytes."""
    file = tmp_path / "x.json"
    flags = ["--quick", "--model", "cifar10", "--mode", "infer", "--variants", "channels_last", "--no-parts"]
    done = _run([*flags, "--batch-size", "1024", "--memory-limit", "400", "--json", str(file)])
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())["rows"]
    assert {row["framework"] for row in rows} == {"jax", "torch"}
    for row in rows:
        assert row["asked"] == 1024
        assert row["batch_size"] in {1024 >> halvings for halvings in range(1, 10)}
        assert row["images_per_second"] > 0
        assert "out of memory at batch 1024 (" in row["note"]
    assert "out of memory at batch 1024" in done.stderr


@pytest.mark.slow
def test_a_variant_that_fails_is_a_row_with_its_reason() -> None:
    setting = Setting("cifar10", "infer", 2, "float32", "cpu", 0.02)
    options = Options(repeats=3, sample_seconds=0.01, torch_variants=("eager", "no such"), parts=False)
    rows = measure.measure_setting(setting, options, lambda line: None)
    assert [row["images_per_second"] is None for row in rows] == [False, False, True]
    assert "no such" in rows[2]["note"]
    assert rows[0]["ratio"] > 0


def test_a_worker_that_dies_or_runs_out_of_memory(tmp_path: pathlib.Path) -> None:
    with Worker("torch", tmp_path) as worker:
        with pytest.raises(WorkerError, match="KeyError"):
            worker.ask("sample", program="none", calls=1)
        worker.ask("hello", device="cpu", precision="float32")
        with pytest.raises(OutOfMemory, match="allocate"):
            worker.ask("roofline", kind="copy", precision="float32", size=2**50)
        assert worker.ask("roofline", kind="copy", precision="float32", size=2**10) == {"compile_seconds": 0.0}
        worker._process.kill()
        with pytest.raises(OutOfMemory, match="ended with signal 9"):
            worker.ask("memory")


def test_an_absent_gpu_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    import jax

    if any(device.platform == "gpu" for device in jax.devices()):
        pytest.skip("there is a GPU here")
    assert main(["--device", "gpu", "--quick"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: --device gpu: JAX finds no GPU here")
