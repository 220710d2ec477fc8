"""``python -m parity_tests``: exit codes, table and files."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from jaxalex.errors import RunError
from netparity import pairs
from parity_tests import __main__ as command
from parity_tests.alexnet import suite
from parity_tests.faults.bench import quick_programs


@pytest.mark.slow
def test_a_small_run_passes_and_writes_its_report(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(suite, "programs", lambda case, device: quick_programs(case))
    run, results = suite.run, []

    def kept(*args):
        results.append(run(*args))
        return results[-1]

    monkeypatch.setattr(suite, "run", kept)
    out, copy = tmp_path / "out", tmp_path / "copy.json"
    flags = ["--width", "0.0625", "--steps", "3", "--no-faults", "--out", str(out), "--json", str(copy)]
    assert command.main(["--model", "cifar10", *flags]) == 0
    printed = capsys.readouterr().out
    assert "more, each farther from its limits" in printed
    assert "Parity holds." in printed
    report = json.loads((out / "report.json").read_text())
    assert json.loads(copy.read_text()) == report
    assert "<table" in (out / "report.html").read_text()
    assert report["passed"] is True
    model = report["models"]["cifar10"]
    assert 0 < model["float64_max_relative_error"] <= 1e-12
    assert 0 < model["trajectory_float64_max_relative_error"] <= 1e-10
    assert 0 < model["float32_error_ratio_jax_over_torch"] <= 4
    assert len(model["trajectory"]["controls"]) == 3
    assert {"torch", "jax"} <= set(report["environment"]["versions"])
    assert str(tmp_path) not in (out / "report.html").read_text() + copy.read_text(), "a report is to be shown around"
    levels = {one["level"] for one in model["checks"]}
    assert levels == {"shapes", "forward", "gradients", "dropout", "optimizer", "training", "data", "initialisers"}

    def stopped_at_the_second(case, *args):
        if case.model != "cifar10":
            raise RunError("no more")
        return results[0]

    monkeypatch.setattr(suite, "run", stopped_at_the_second)
    stopped = tmp_path / "stopped"
    assert command.main([*flags[:-4], "--out", str(stopped)]) == 1
    assert list(json.loads((stopped / "report.json").read_text())["models"]) == ["cifar10"]


@pytest.mark.slow
def test_parity_that_fails_exits_with_1_and_names_the_stage(tmp_path, capsys, monkeypatch):
    isolated = pairs.Pair.isolated

    def spoilt(pair, fed, side, *args):
        found = isolated(pair, fed, side, *args)
        if side == "jax":
            found.outputs["conv3"] = found.outputs["conv3"] * 1.001
        return found

    monkeypatch.setattr(pairs.Pair, "isolated", spoilt)
    flags = ["--model", "cifar10", "--width", "0.0625", "--steps", "1", "--dtype", "float64", "--no-faults"]
    assert command.main(flags) == 1
    captured = capsys.readouterr()
    assert "first diverging stage: conv3" in captured.out + captured.err
    assert "Parity holds" not in captured.out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "vgg"], "invalid choice: 'vgg'"),
        (["--steps", "0"], "--steps must be at least 1"),
        (["--width", "nan"], "--width must be above 0"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        *((["--steps", value], "--steps") for value in ("-1", "nan", "inf", "", str(10**30))),
        *((["--batch-size", value], "--batch-size") for value in ("-1", "nan", "inf", "", str(10**30))),
        *((["--width", value], "--width") for value in ("0", "-1", "inf", "", "1.5", "1e300")),
        (["--json", "/no/such/folder/x.json"], "there is no folder /no/such/folder"),
        (["--json", "/"], "--json /: is a folder"),
        (["--json", "/dev/null/x"], "/dev/null is a file"),
        (["--out", "/dev/null"], "/dev/null is a file"),
        (["--out", "/dev/null/a/b"], "/dev/null is a file"),
        (["--nonsense"], "unrecognized arguments"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(argv, message, capsys):
    assert command.main(argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_nothing_is_downloaded(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXALEX_DATA_DIR", str(tmp_path))
    assert command.main(["--model", "cifar10", "--width", "0.0625", "--steps", "1", "--no-faults"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: no CIFAR-10 in {tmp_path}: give --data-dir DIR, or set JAXALEX_DATA_DIR")
    assert error.count("\n") == 1


def test_help_is_instant():
    start = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "parity_tests", "--help"], capture_output=True, text=True, check=True
    )
    assert "--model" in result.stdout
    assert " torch" not in result.stderr
    assert " jax\n" not in result.stderr
    assert time.perf_counter() - start < 20  # a machine under load; it imports no framework
