"""``python -m netparity check``: exit codes, report, one line for each kind of misuse."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from netparity.command import main

ROOT = pathlib.Path(__file__).parents[2]
NETWORKS = """
import numpy as np, torch
import netparity
from sizes import FEATURES

weight = np.linspace(-1, 1, 3 * FEATURES, dtype=np.float32).reshape(FEATURES, 3)

def networks(factor):
    module = torch.nn.Sequential(torch.nn.Linear(FEATURES, 3, bias=False))
    ours = netparity.function(lambda params, x: factor * (x @ params["0"]["weight"]), {"0": {"weight": weight}})
    x = np.random.default_rng(0).standard_normal((2, FEATURES)).astype(np.float32)
    keywords = {"stages": {"output": "output"}, "dtypes": ["float64"], "modes": ["evaluation"], "name": "tiny"}
    return (ours, module, x), keywords

def right(factor=1.0):
    given, keywords = networks(factor)
    return netparity.compare(*given, **keywords)

def wrong():
    return right(2.0)

def asserted():
    given, keywords = networks(2.0)
    netparity.assert_parity(*given, **keywords)

def unlike():
    given, keywords = networks(1.0)
    return netparity.compare(*given, **keywords, labels=np.zeros(7, int))

def reproduced():
    result = wrong()
    result.repro = lambda folder: folder / "repro.py"
    return result

def refused():
    def repro(folder):
        raise netparity.ParityError("there is nothing to reproduce")

    result = wrong()
    result.repro = repro
    return result

def nothing():
    right

def fails():
    return 1 / 0

def untrue():
    assert FEATURES == 5, "no five"

def leaves():
    raise SystemExit(0)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "networks.py").write_text(NETWORKS)
    (tmp_path / "sizes.py").write_text("FEATURES = 4\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "lacking.py").write_text("import no_such_module_anywhere\n")
    (tmp_path / "notes.txt").write_text("nothing\n")
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("from .. import x\n")
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def test_parity_is_exit_code_0_and_a_report_in_a_folder(folder, capsys):
    out = folder / "a" / "out"
    assert main.main(["check", f"{folder / 'networks.py'}:right", "--out", str(out)]) == 0
    assert "tiny: PASSED" in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert report["passed"] is True
    assert list(report["models"]) == ["tiny"]
    assert (out / "report.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("function", ["wrong", "asserted"])
def test_a_difference_is_exit_code_1_and_names_the_stage(folder, function, capsys):
    assert main.main(["check", f"{folder / 'networks.py'}:{function}"]) == 1
    captured = capsys.readouterr()
    assert "first diverging stage: output" in captured.out
    assert "FAILED   float64" in captured.out
    assert captured.err == ""


def test_a_module_is_found_from_this_folder(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main.main(["check", "networks:right"]) == 0
    assert "tiny: PASSED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("networks.py", "networks.py names no function: write FILE.py:FUNCTION"),
        (":right", "names no function"),
        ("networks.py:", "names no function"),
        ("absent.py:f", "absent.py: no such file"),
        ("package/:f", "package: is a folder"),
        ("notes.txt:f", "its name has to end in .py"),
        ("absent:f", "there is no module absent"),
        ("package.absent:f", "there is no module package.absent"),
        ("networks.py:rihgt", "has no function rihgt: it has networks, right, wrong, asserted, "),
        ("networks.py:weight", "networks.py:weight is ndarray, no function"),
        ("networks.py:networks", "needs arguments (factor)"),
        ("networks.py:nothing", "returned nothing: it has to return what netparity.compare"),
        ("networks.py:unlike", "labels of the mean cross-entropy"),
        ("networks.py:leaves", "calls sys.exit"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(folder, monkeypatch, target, message, capsys):
    monkeypatch.chdir(folder)
    assert main.main(["check", target]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("target", "lines"),
    [
        ("networks.py:fails", ["in fails", "    return 1 / 0", "ZeroDivisionError: division by zero"]),
        ("networks.py:untrue", ["in untrue", '    assert FEATURES == 5, "no five"', "AssertionError: no five"]),
        ("broken.py:f", ["broken.py", "SyntaxError: invalid syntax"]),
        ("lacking.py:f", ["in <module>", "No module named 'no_such_module_anywhere'"]),
        ("package.inner:f", ["in <module>", "attempted relative import beyond top-level package"]),
    ],
)
def test_an_error_of_their_own_is_a_traceback_of_their_own_lines(folder, monkeypatch, target, lines, capsys):
    monkeypatch.chdir(folder)
    assert main.main(["check", target]) == 1
    error = capsys.readouterr().err
    for line in lines:
        assert line in error
    assert error.count("  File ") == 1
    assert "command" not in error


@pytest.mark.parametrize("flag", ["--out", "--repro"])
def test_a_folder_that_cannot_be_is_refused_before_anything_is_run(folder, flag, capsys):
    assert main.main(["check", f"{folder / 'absent.py'}:f", flag, str(folder / "notes.txt" / "x")]) == 2
    assert f"{flag} {folder / 'notes.txt' / 'x'}: {folder / 'notes.txt'} is a file" in capsys.readouterr().err


def test_what_reproduces_a_difference_is_written(folder, capsys):
    target = f"{folder / 'networks.py'}:reproduced"
    assert main.main(["check", target, "--repro", str(folder / "repro")]) == 1
    assert f"reproduction: {folder / 'repro' / 'repro.py'}" in capsys.readouterr().out
    assert main.main(["check", target.replace("reproduced", "refused"), "--repro", str(folder / "repro")]) == 1
    assert "there is nothing to reproduce" in capsys.readouterr().err


def test_assert_parity_gives_nothing_to_write(folder, capsys):
    assert main.main(["check", f"{folder / 'networks.py'}:asserted", "--out", str(folder / "out")]) == 1
    assert "not written: netparity.assert_parity gives no result" in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_no_command_is_usage(capsys):
    assert main.main([]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        ("| head -n 1", 0, ""),
        ("> /dev/full", 1, "error: output: No space left on device\n"),
        (">&-", 0, ""),
        (">&- 2>&-", 0, ""),
    ],
)
def test_output_that_goes_nowhere_is_no_traceback(tmp_path, redirection, code, said):
    np.savez(tmp_path / "a.npz", first=np.zeros(3), second=np.ones(3))
    command = f'"{sys.executable}" -m netparity weights a.npz a.npz {redirection}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (code, said)


def _started(folder, *arguments, **keywords):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, stderr=subprocess.PIPE, **keywords)


def test_help_loads_no_framework(tmp_path):
    code = (
        "import runpy, sys\n"
        "sys.argv = ['netparity', 'check', '--help']\n"
        "try:\n    runpy.run_module('netparity', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as stop:\n    print('code', stop.code)\n"
        "print({name.split('.')[0] for name in sys.modules} & {'numpy', 'jax', 'torch', 'flax'})\n"
    )
    run = _started(tmp_path, "-c", code, stdout=subprocess.PIPE)
    printed, _ = run.communicate(timeout=60)
    assert "FILE.py:FUNCTION" in printed
    assert printed.splitlines()[-2:] == ["code 0", "set()"]


@pytest.mark.parametrize(("number", "code", "said"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_a_signal_ends_it_at_once(tmp_path, number, code, said):
    (tmp_path / "slow.py").write_text("import time\ndef f():\n    print('begun', flush=True)\n    time.sleep(60)\n")
    # A process that was started in the background of a script ignores Ctrl-C, and so would its children.
    begin = "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    begin += "sys.argv[0] = 'netparity'; runpy.run_module('netparity', run_name='__main__', alter_sys=True)"
    with _started(tmp_path, "-c", begin, "check", "slow.py:f", stdout=subprocess.PIPE) as run:
        assert run.stdout.readline() == "begun\n"
        run.send_signal(number)
        _, error = run.communicate(timeout=30)
    assert (run.returncode, error) == (code, f"error: stopped by {said}\n")
