"""What becomes of a benchmark whose workers fail, and of the workers of a benchmark that is killed."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from benchmarks import measure, process
from benchmarks.__main__ import main
from benchmarks.measure import Options
from benchmarks.process import ROOT, Worker, WorkerError
from benchmarks.settings import Setting
from benchmarks.suite import Suite

_FLAGS = ["--quick", "--model", "cifar10", "--mode", "infer", "--no-parts", "--batch-size", "2"]


@pytest.fixture
def torch_that_fails(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A real worker's module that fails after its warm-up; a file stands for its mending."""
    mended = tmp_path / "mended"
    (tmp_path / "broken_worker.py").write_text(
        "import pathlib, sys\n"
        "from benchmarks import protocol, torch_worker\n"
        "worker = torch_worker.TorchWorker()\n"
        "calls = []\n"
        "def sample(**arguments):\n"
        "    calls.append(arguments['program'])\n"
        f"    if calls.count('step') > 1 and not pathlib.Path({str(mended)!r}).exists():\n"
        "        raise RuntimeError('its wheel came off')\n"
        "    return worker.sample(**arguments)\n"
        "sys.exit(protocol.serve({**worker.operations(), 'sample': sample}))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setitem(process.MODULES, "torch", "broken_worker")
    return mended


def test_a_worker_that_fails_between_two_samples_is_a_row_with_its_reason(torch_that_fails: pathlib.Path) -> None:
    setting = Setting("cifar10", "infer", 2, "float32", "cpu", 0.02)
    options = Options(repeats=3, sample_seconds=0.01, torch_variants=("eager",), parts=False)
    rows = measure.measure_setting(setting, options, lambda line: None)
    assert [(row["framework"], row["n"], row["note"]) for row in rows if row["framework"] == "torch"] == [
        ("torch", 0, "RuntimeError: its wheel came off")
    ]
    assert rows[0]["n"] == 3
    run = Suite(options, True, {}, None, print, {"rows": [row | {"asked": 2} for row in rows]})
    assert run.failures() == [
        "cifar10, infer, batch 2, float32, cpu, width 0.02: torch: RuntimeError: its wheel came off"
    ]


def test_memory_that_runs_out_is_a_failure_only_where_nothing_else_was_measured() -> None:
    large = measure.not_measured(Setting("cifar10", "infer", 64, "float32", "cpu")) | {
        "note": "out of memory at batch 64"
    }
    small = measure.not_measured(Setting("cifar10", "infer", 2, "float32", "cpu")) | {"images_per_second": 5.0}
    options = Options()
    assert Suite(options, True, {}, None, print, {"rows": [large, small]}).failures() == []
    assert Suite(options, True, {}, None, print, {"rows": [large]}).failures() == [
        "cifar10, infer, batch 64, float32, cpu: jax: out of memory at batch 64"
    ]


@pytest.mark.slow
def test_a_framework_that_fails_is_exit_code_1_and_is_measured_when_it_is_mended(
    torch_that_fails: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.json"
    flags = [*_FLAGS, "--variants", "eager", "--json", str(file)]
    assert main(flags) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1] == (
        "error: not all could be measured: cifar10, infer, batch 2, float32, cpu, width 0.05: torch: "
        "RuntimeError: its wheel came off"
    )
    assert "Traceback" not in captured.err
    rows = json.loads(file.read_text())["rows"]
    assert [row["images_per_second"] is None for row in rows] == [False, True]
    torch_that_fails.touch()
    assert main([*flags, "--resume"]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [(row["framework"], row["images_per_second"] is None) for row in rows] == [("jax", False), ("torch", False)]


@pytest.mark.slow
def test_memory_that_is_never_enough_is_exit_code_1(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "benchmarks", *_FLAGS, "--variants", "eager", "--memory-limit", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert "error: not all could be measured: " in done.stderr.splitlines()[-1]
    assert "out of memory at batch 1 " in done.stderr.splitlines()[-1]


def _alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _descendants(pid: int) -> Iterator[int]:
    for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield int(child)
        with contextlib.suppress(OSError):
            yield from _descendants(int(child))


_BUSY_WORKER = """
import pathlib, tempfile
from benchmarks.process import Worker
with Worker("torch", pathlib.Path(tempfile.gettempdir())) as worker:
    worker.ask("hello", device="cpu", precision="float32")
    worker.ask("roofline", kind="copy", precision="float32", size=2**10)
    print("ready", flush=True)
    worker.ask("sample", program="roofline", calls=10**9)  # for hours; it reads no pipe meanwhile
"""
_BUSY_COMMAND = """
from benchmarks import commands
print("ready", flush=True)
commands.timed(["http.server", "0", "--bind", "127.0.0.1"])
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="counts processes in /proc")
@pytest.mark.parametrize(("code", "name"), [(_BUSY_WORKER, "benchmarks.torch_worker"), (_BUSY_COMMAND, "http.server")])
@pytest.mark.parametrize("end", ["kill", "exit"])
def test_nothing_goes_on_after_the_benchmark(code: str, name: str, end: str) -> None:
    """Neither after SIGKILL nor after an end without any clean-up of its own."""
    if end == "exit":
        code = "import os, signal; signal.signal(signal.SIGTERM, lambda *_: os._exit(143))\n" + code
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with parent, contextlib.ExitStack() as stack:
        stack.callback(parent.kill)
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        children: list[int] = []
        while not all(any(part in _command(child) for child in children) for part in (name, "/bin/sh")):
            assert parent.poll() is None
            children = list(_descendants(parent.pid))
        parent.send_signal(signal.SIGKILL if end == "kill" else signal.SIGTERM)
        assert parent.wait() == (-signal.SIGKILL if end == "kill" else 143)
    until = time.monotonic() + 60  # the machine may be busy
    while any(map(_alive, children)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(_alive, children))


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def test_a_worker_that_is_closed_leaves_nothing(tmp_path: pathlib.Path) -> None:
    worker = Worker("torch", tmp_path)
    with pytest.raises(WorkerError):
        worker.ask("sample", program="none", calls=1)
    children = list(_descendants(os.getpid()))
    worker.close()
    assert len(children) >= 2
    assert not any(map(_alive, children))
