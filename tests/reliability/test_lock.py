"""Two processes never train in one folder; the lock file of a dead process blocks nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from jaxalex import train
from jaxalex.errors import UsageError
from jaxalex.system import lock
from reliability.runs import SMALL

_HOLD = "import sys, time, pathlib; from jaxalex.system import lock\n"
_HOLD += "with lock.hold(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"


def _holder(folder) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_refused_while_the_first_lives_and_not_after_it_died(copy, capsys) -> None:
    run = copy()
    with _holder(run) as holder:
        try:
            assert train.main(["--resume", str(run)]) == 2
            error = capsys.readouterr().err
            assert f"{run}: another process trains there (process {holder.pid} since " in error
            assert error.count("\n") == 1
        finally:
            holder.send_signal(signal.SIGKILL)
    assert (run / lock.NAME).exists(), "it was left behind"
    assert train.main(["--resume", str(run)]) == 0
    assert not (run / lock.NAME).exists()


def test_a_new_run_is_refused_as_well(tmp_path, capsys) -> None:
    run = tmp_path / "run"
    with _holder(run) as holder:
        try:
            assert train.main([*SMALL, "--num-epochs", "1", "--workdir", str(run)]) == 2
            assert "another process trains there" in capsys.readouterr().err
        finally:
            holder.send_signal(signal.SIGKILL)
    assert train.main([*SMALL, "--num-epochs", "1", "--workdir", str(run)]) == 0


def test_a_lock_is_no_way_to_write_elsewhere(tmp_path) -> None:
    """A link under the lock's name is not followed: what it points to would be emptied."""
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / lock.NAME).symlink_to(tmp_path / "precious")
    with pytest.raises(UsageError, match="cannot write there"), lock.hold(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_folder_that_cannot_be_made(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "run", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        with pytest.raises(UsageError, match="cannot write there"), lock.hold(path):
            pass


def test_it_can_be_held_again(tmp_path) -> None:
    for _ in range(2):
        with lock.hold(tmp_path):
            assert f"process {os.getpid()} since" in (tmp_path / lock.NAME).read_text()
        assert list(tmp_path.iterdir()) == []
