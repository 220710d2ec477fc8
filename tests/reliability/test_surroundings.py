"""Closed streams, full streams, odd locales, odd folder names, and limits of the system around a command."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from jaxalex import train
from reliability.runs import SMALL

_TRAIN = [sys.executable, "-m", "jaxalex.train", *SMALL, "--num-epochs", "1", "--workdir"]


def _shell(redirections: str, *command: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    line = ["bash", "-c", f'"$@" {redirections}', "bash", *command]
    return subprocess.run(line, check=False, timeout=300, capture_output=True, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "closed",
    [pytest.param(">&-", marks=pytest.mark.slow), pytest.param("2>&-", marks=pytest.mark.slow), "<&- >&- 2>&-"],
)
def test_a_closed_stream_gets_nothing_and_harms_nothing(tmp_path, closed: str) -> None:
    run = tmp_path / "run"
    done = _shell(closed, *_TRAIN, str(run))
    assert done.returncode == 0
    assert (run / "summary.json").exists()
    assert done.stderr == b""
    assert (done.stdout == b"") == (">&-" in closed.split())


def test_what_went_wrong_is_not_lost_with_stdout(tmp_path) -> None:
    done = _shell(">&-", sys.executable, "-m", "jaxalex.summary", "--width", "0")
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: --width must be above 0")


def test_a_stream_that_is_full_is_said_in_one_line() -> None:
    if not pathlib.Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    done = _shell(">/dev/full", sys.executable, "-m", "jaxalex.summary")
    assert done.returncode == 1
    assert done.stderr == b"error: input/output: No space left on device\n"
    assert _shell("2>/dev/full", sys.executable, "-m", "jaxalex.summary", "--width", "0").returncode == 2


def test_too_few_files_are_refused_before_anything_is_done(tmp_path) -> None:
    done = _shell("", "bash", "-c", 'ulimit -n 12; exec "$@"', "bash", *_TRAIN, str(tmp_path / "run"))
    assert done.returncode == 2
    assert done.stderr == b"error: only 12 files may be open at once here, 128 are needed: ulimit -n 128\n"
    assert not (tmp_path / "run").exists()


def test_a_folder_whose_name_is_no_text_is_refused_before_training(tmp_path) -> None:
    name = os.fsencode(tmp_path) + b"/run-\xff"
    done = subprocess.run([*_TRAIN, name], check=False, capture_output=True)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"is not UTF-8" in done.stderr
    assert not os.path.lexists(name)


@pytest.mark.parametrize("utf8", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_a_forced_c_locale(tmp_path, utf8: str) -> None:
    """There, Python takes é for two characters that are no text; in Python's UTF-8 mode it is é as everywhere."""
    environment = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": utf8}
    done = subprocess.run([*_TRAIN, str(tmp_path / "é")], check=False, capture_output=True, env=environment)
    if utf8 == "1":
        assert (done.returncode, done.stderr) == (0, b"")
        return
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"PYTHONUTF8=1" in done.stderr


def test_two_runs_that_begin_in_the_same_second_get_two_folders(tmp_path, monkeypatch, capsys) -> None:
    import datetime as real

    from jaxalex.training import folder

    class Stopped(real.datetime):
        @classmethod
        def now(cls, tz: real.tzinfo | None = None) -> real.datetime:
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folder.datetime, "datetime", Stopped)
    names = [folder.make_new("digits") for _ in range(3)]
    assert [str(name) for name in names] == [f"runs/20260102-030405-digits{tail}" for tail in ("", "-2", "-3")]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "runs").touch()
    assert train.main([*SMALL, "--num-epochs", "1"]) == 2
    assert "cannot be made (Not a directory): give --workdir" in capsys.readouterr().err
