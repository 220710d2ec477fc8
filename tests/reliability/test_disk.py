"""A disk that is full, read-only or gone: training says so, keeps what it had saved, and ends with code 1."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

from jaxalex import train
from jaxalex.errors import RunError
from jaxalex.training import loop
from reliability.runs import assert_same, small, start

resource = pytest.importorskip("resource")


def _then(action: Callable[[], object]) -> Callable[[str], None]:
    """A ``say`` that does something after the second epoch, before its checkpoint is saved."""

    def say(line: str) -> None:
        if line.startswith("[Epoch   2]"):
            action()

    return say


@contextlib.contextmanager
def _limit_restored() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk(tmp_path, unbroken, capfd) -> None:
    run = tmp_path / "run"
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    fill = _then(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard)))
    with _limit_restored(), pytest.raises(RunError) as caught:
        loop.train_and_evaluate(small(), run, fill)
    assert capfd.readouterr().err == "", "Orbax and its threads have nothing to add"
    message = str(caught.value)
    assert "the checkpoint cannot be saved (" in message
    assert "saved up to step 20: go on with python -m jaxalex.train --resume" in message
    assert "\n" not in message
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["12", "20"]
    assert train.main(["--resume", str(run)]) == 0
    assert_same(run, unbroken)


@pytest.mark.slow
def test_really_full_disk(tmp_path) -> None:
    """A file system of 9 MB, which holds one checkpoint and a bit, and a process of its own: one line on stderr."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=9000k", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    flags = ["--dataset", "digits", "--width", "0.2", "--limit-train", "90", "--limit-eval", "40", "--num-epochs", "6"]
    try:
        with start(*flags, "--workdir", str(disk / "run")) as process:
            _, error = process.communicate(timeout=300)
        assert process.returncode == 1
        assert error.count("\n") == 1
        assert "No space left on device" in error
        assert "the run is saved up to step 3: go on with" in error
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_read_only_folder(tmp_path, unbroken) -> None:
    run, what = tmp_path / "run", "checkpoints"
    as_root = os.geteuid() == 0  # whom no permission stops: somebody else goes on for a moment

    def forbid() -> None:
        (run / what).chmod(0o555)
        if as_root:
            os.seteuid(65534)

    try:
        with pytest.raises(RunError) as caught:
            loop.train_and_evaluate(small(), run, _then(forbid))
    finally:
        if as_root:
            os.seteuid(0)
        (run / what).chmod(0o755)
    message = str(caught.value)
    assert "ermission denied" in message
    assert "saved up to step 20: go on with" in message
    assert train.main(["--resume", str(run)]) == 0
    assert_same(run, unbroken)


def test_a_folder_that_vanishes_is_not_made_again(tmp_path) -> None:
    run = tmp_path / "run"
    with pytest.raises(RunError, match=r"what was saved has gone with the folder"):
        loop.train_and_evaluate(small(), run, _then(lambda: shutil.rmtree(run)))
    assert not run.exists()


def test_results_that_cannot_be_written(tmp_path, unbroken) -> None:
    """Something is in the place of a result file: the run says so, and can be resumed once it is removed."""
    run, name = tmp_path / "run", "curves.png"
    with pytest.raises(RunError) as caught:
        loop.train_and_evaluate(small(), run, _then(lambda: (run / name).mkdir()))
    assert str(run / name) in str(caught.value)
    assert "saved up to step 36: go on with" in str(caught.value)
    (run / name).rmdir()
    assert train.main(["--resume", str(run)]) == 0
    assert_same(run, unbroken)


@pytest.mark.slow
def test_a_workdir_that_cannot_be_made(tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "run", tmp_path / ("x" * 300), pathlib.Path("/dev/null")):
        assert train.main(["--dataset", "digits", "--width", "0.05", "--workdir", str(path)]) == 2
        error = capsys.readouterr().err
        assert str(path) in error
        assert error.count("\n") == 1
