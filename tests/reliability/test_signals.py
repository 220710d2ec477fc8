"""A signal at any moment ends a command with its own exit code, in one line; a run that has begun is saved first."""

from __future__ import annotations

import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from jaxalex import train
from jaxalex.errors import Stopped
from jaxalex.system import interrupt
from jaxalex.training import loop, results
from reliability.runs import SMALL, assert_same, small, start, stop, wait_for

_SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def _said(number: signal.Signals) -> str:
    return "error: stopped by " + ("Ctrl-C" if number == signal.SIGINT else number.name)


def _listens(process: subprocess.Popen[str]) -> bool:
    """Whether the command has taken over the signals: to SIGTERM Python itself has no handler."""
    caught = re.search(r"^SigCgt:\s*(\w+)$", pathlib.Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    assert caught
    return bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, *(pytest.param(one, marks=pytest.mark.slow) for one in _SIGNALS[1:])]
)
def test_while_it_imports(tmp_path, number: signal.Signals) -> None:
    with start(*SMALL, "--workdir", str(tmp_path / "run")) as process:
        while not _listens(process):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.3)
        code, error, seconds = stop(process, number)
    assert (code, error) == (128 + number, _said(number) + "\n")
    assert seconds < 5
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_while_it_compiles(tmp_path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """The main thread is inside XLA then, where no Python handler can run, and it must not be torn down under XLA."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # it must take a while
    flags = ["--dataset", "digits", "--model", "paper", "--width", "0.2", "--compilation-cache", "off"]
    with start(*flags, "--workdir", str(tmp_path / "run")) as process:
        wait_for(process, "training")
        time.sleep(1)
        code, error, seconds = stop(process, number)
    assert (code, error) == (128 + number, _said(number) + "\n")
    assert seconds < 5
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_closed_terminal_saves(tmp_path, unbroken) -> None:
    run = tmp_path / "run"
    with start(*SMALL, "--num-epochs", "3", "--workdir", str(run)) as process:
        wait_for(process, "run folder")
        code, error, _ = stop(process, signal.SIGHUP)
    assert code == 128 + signal.SIGHUP
    assert error.startswith(_said(signal.SIGHUP) + "; the run is saved up to step ")
    assert train.main(["--resume", str(run)]) == 0
    assert_same(run, unbroken)


@pytest.mark.slow
def test_nohup_goes_on(tmp_path) -> None:
    begin = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    begin += "; from jaxalex import cli, train; cli.end(train.main())"
    command = [sys.executable, "-c", begin, *SMALL, "--num-epochs", "1", "--workdir", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(process, "training")
        code, error, _ = stop(process, signal.SIGHUP)
    assert (code, error) == (0, "")


def test_the_same_signal_twice_at_once_is_one_request(tmp_path) -> None:
    """As a terminal and a launcher both send it: the run is saved all the same."""
    with start(*SMALL, "--num-epochs", "1000", "--workdir", str(tmp_path / "run")) as process:
        wait_for(process, "[Epoch   1]")
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        code, error, _ = stop(process, signal.SIGINT)
    assert code == 130
    assert error.count("\n") == 1
    assert "stopped by Ctrl-C; the run is saved up to step" in error


def test_a_second_signal_ends_it_at_once() -> None:
    """As one wants it when the first waits for a disk that hangs."""
    script = "from jaxalex import cli; from jaxalex.system import interrupt; import sys, time\n"
    script += "def command():\n with interrupt.watch():\n  print('busy', flush=True)\n  time.sleep(60)\n"
    script += "cli.end(cli.run(command))"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(process, "busy")
        process.send_signal(signal.SIGTERM)
        time.sleep(1.2)
        assert process.poll() is None
        assert stop(process, signal.SIGTERM)[:2] == (143, "error: stopped by SIGTERM\n")


def test_while_the_results_are_written(tmp_path, monkeypatch, unbroken) -> None:
    """Nothing is lost: the run stops, and a resume writes them all."""
    run = tmp_path / "run"
    write = results.pictures.write_curves

    def signalled(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        write(*arguments)

    monkeypatch.setattr(results.pictures, "write_curves", signalled)
    with pytest.raises(Stopped, match="the run is saved up to step 36"):
        loop.train_and_evaluate(small(), run, say=lambda line: None)
    monkeypatch.undo()
    assert not (run / "summary.json").exists()
    assert train.main(["--resume", str(run)]) == 0
    assert_same(run, unbroken)


def test_the_second_request_acts_as_it_would_outside() -> None:
    """In somebody's notebook a second Ctrl-C is an exception as ever, and does not end their process."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            _ask_three_times()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def _ask_three_times() -> None:
    with interrupt.watch() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert asked() == signal.SIGINT
        time.sleep(1.1)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it went on")


def test_handlers_threads_and_files_are_as_before(capsys) -> None:
    before = ([signal.getsignal(number) for number in _SIGNALS], threading.active_count(), _open_files())
    assert train.main(["--help"]) == 0
    assert ([signal.getsignal(number) for number in _SIGNALS], threading.active_count(), _open_files()) == before


def _open_files() -> list[pathlib.Path]:
    folder = pathlib.Path("/proc/self/fd")
    return sorted(folder.iterdir()) if folder.exists() else []


def test_the_message_stands_below_a_progress_bar(tmp_path) -> None:
    """On a terminal a bar may stand in the line that the cursor is in."""
    parent, child = pty.openpty()
    script = "from jaxalex import cli; import sys, time\n"
    script += "def command(): print('bar', end='', file=sys.stderr, flush=True); time.sleep(60)\n"
    script += "cli.end(cli.run(command))"
    with subprocess.Popen([sys.executable, "-c", script], stderr=child) as process:
        os.close(child)
        assert os.read(parent, 3) == b"bar"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143
    assert os.read(parent, 100) == b"\r\nerror: stopped by SIGTERM\r\n"
    os.close(parent)
