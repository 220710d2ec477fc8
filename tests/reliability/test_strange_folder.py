"""A run folder from a stranger, or one that somebody changed by hand: nothing outside is touched, nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterator

import pytest

from jaxalex import evaluate, predict, train
from jaxalex.errors import RunError, UsageError
from jaxalex.system import lock
from jaxalex.training import folder, loop
from reliability import fuzz, strange
from reliability.reader import Reader
from reliability.runs import SMALL, assert_same, small

_PICTURES = ("curves.png", "filters.png", "examples.png", "mistakes.png")
_OWN = ("config.json", "metrics.jsonl", "summary.json", "model.safetensors", ".lock", "checkpoints", *_PICTURES)
_INSIDE = ("checkpoints/36", "checkpoints/36/record.json", "checkpoints/36/state", "checkpoints/notes")


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    def expire(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(300)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def victim(tmp_path) -> Iterator[pathlib.Path]:
    """A folder that must stay as it is."""
    made = tmp_path / "victim"
    (made / "notes.partial").mkdir(parents=True)
    (made / "file").write_text("mine")
    (made / "notes.partial" / "note").write_text("mine")
    before = strange.content(made)
    yield made
    assert strange.content(made) == before


def _refused(capsys, code: int) -> str:
    """The one line with which a command refused its input."""
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.count("\n") == 1, error
    return error


@pytest.mark.parametrize("what", ["link", pytest.param("pipe", marks=pytest.mark.slow)])
def test_what_lies_under_a_temporary_name_is_left_alone(copy, victim, what: str) -> None:
    run = copy()
    for name in ("config.json", "metrics.jsonl", "model.safetensors", "summary.json", "curves.png"):
        if what == "link":
            (run / f"{name}.part").symlink_to(victim / "file")
        else:
            os.mkfifo(run / f"{name}.part")
    assert train.main(["--resume", str(run)]) == 0


def test_every_strange_thing_is_refused_by_name(copy, victim, capsys) -> None:
    run = copy()
    for name in (*_OWN, *_INSIDE):
        path, away = run / name, run.parent / "away"
        like = victim / ("notes.partial" if path.is_dir() else "file")
        for kind in ("a symbolic link", "a named pipe", "a socket"):
            there = path.exists()
            if there:
                path.rename(away)
            if kind == "a symbolic link":
                # To a copy of what it replaces, so that to follow it would work.
                path.symlink_to(away if there else like)
            elif kind == "a named pipe":
                os.mkfifo(path)
            else:
                os.mknod(path, stat.S_IFSOCK | 0o600)
            for code in (train.main(["--resume", str(run)]), evaluate.main([str(run)])):
                assert code == 2
            assert predict.main([str(run), str(run / "predictions.png")]) == 2
            errors = capsys.readouterr().err.splitlines()
            assert len(errors) == 3, errors
            for error in errors:
                assert f"{path}: is {kind}, not a " in error
            path.unlink()
            if there:
                away.rename(path)


def test_checkpoints_are_not_written_elsewhere(copy, victim, capsys) -> None:
    run = copy()
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").symlink_to(victim)
    error = _refused(capsys, train.main(["--resume", str(run), "--num-epochs", "4"]))
    assert "checkpoints: is a symbolic link" in error


def test_a_folder_that_becomes_a_link_during_the_run(tmp_path, victim) -> None:
    run = tmp_path / "run"

    def say(line: str) -> None:
        if line.startswith("[Epoch   2]"):
            (run / "checkpoints").rename(tmp_path / "away")
            (run / "checkpoints").symlink_to(victim)

    with pytest.raises(RunError, match="checkpoints: is a symbolic link"):
        loop.train_and_evaluate(small(), run, say)


def test_a_run_may_be_reached_through_a_link(copy, unbroken, tmp_path) -> None:
    (tmp_path / "link").symlink_to(copy())
    assert train.main(["--resume", str(tmp_path / "link")]) == 0
    assert_same(tmp_path / "link", unbroken)


def test_only_our_own_leftovers_are_removed(copy) -> None:
    run = copy()
    ours = [run / "config.json.0123456789abcdef.part", run / "checkpoints" / "47.partial" / "x"]
    theirs = [
        run / "config.json.mine.part",
        run / "mine.0123456789abcdef.part",
        run / "checkpoints" / "n.partial" / "x",
    ]
    theirs += [run / "checkpoints" / "047.partial" / "x", run / "checkpoints" / "٣.partial" / "x"]
    for path in (*ours, *theirs):
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    assert train.main(["--resume", str(run), "--num-epochs", "4"]) == 0
    assert [path.exists() for path in ours] == [False] * len(ours)
    assert [path.exists() for path in theirs] == [True] * len(theirs)


def test_a_run_begins_where_another_was_killed_before_it_began(tmp_path) -> None:
    left = tmp_path / "config.json.0123456789abcdef.part"
    left.write_text("half")
    assert folder.check(tmp_path) is None
    folder.remove_leftovers(tmp_path)
    assert not left.exists()


@pytest.mark.parametrize("then", [pytest.param("removed", marks=pytest.mark.slow), "another's"])
def test_a_run_whose_lock_is_taken_away_stops(tmp_path, then: str) -> None:
    run = tmp_path / "run"

    def say(line: str) -> None:
        if line.startswith("[Epoch   2]"):
            (run / lock.NAME).unlink()
            if then == "another's":
                (run / lock.NAME).write_text("process 1")

    with pytest.raises(RunError) as caught:
        loop.train_and_evaluate(small(), run, say)
    assert f"{run / lock.NAME}: was removed or replaced" in str(caught.value)
    assert "saved up to step 20" in str(caught.value)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1
    assert (run / lock.NAME).exists() == (then == "another's")


def test_a_lock_is_no_way_to_empty_a_file(tmp_path, victim) -> None:
    for make in (lambda path: os.link(victim / "file", path), os.mkfifo):
        made = pathlib.Path(tempfile.mkdtemp(dir=tmp_path))
        make(made / lock.NAME)
        with pytest.raises(UsageError, match="is not a lock file"), lock.hold(made):
            pass


def test_a_run_without_its_checkpoints_is_not_trained_again(copy, capsys) -> None:
    run = copy()
    shutil.rmtree(run / "checkpoints")
    before = strange.content(run)
    error = _refused(capsys, train.main(["--resume", str(run)]))
    assert "there is nothing to resume from: it holds metrics.jsonl, summary.json, model.safetensors" in error
    for name in ("summary.json", "model.safetensors"):
        (run / name).unlink()
    assert "it holds metrics.jsonl, but no checkpoint" in _refused(capsys, train.main(["--resume", str(run)]))
    assert {name: what for name, what in before.items() if (run / name).exists()} == strange.content(run)


def test_a_run_that_was_killed_at_its_first_checkpoint_begins_anew(copy, unbroken) -> None:
    run = copy()
    for path in run.iterdir():
        if path.name != "config.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (run / "metrics.jsonl").write_text("")
    (run / "checkpoints" / "10.partial").mkdir(parents=True)
    assert train.main(["--resume", str(run)]) == 0
    assert_same(run, unbroken)


def _edit(run: pathlib.Path, **changes: object) -> None:
    values = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(values | changes))


def test_fewer_epochs_than_were_trained(copy, capsys) -> None:
    run = copy()
    _edit(run, num_epochs=1)
    before = strange.content(run)
    error = _refused(capsys, train.main(["--resume", str(run)]))
    assert "3 epochs were begun, but num_epochs is 1 now" in error
    assert strange.content(run) == before


@pytest.mark.slow
def test_another_width(copy, capsys) -> None:
    run = copy()
    _edit(run, width=0.1)
    error = _refused(capsys, train.main(["--resume", str(run)]))
    assert "strict" not in error
    for difference in (
        "params.conv1.bias (6,) now, (3,) in the checkpoint",
        "params.fc3.kernel (410, 10) now, (205, 10) in the checkpoint",
        "opt_state.0.trace.fc3.kernel (410, 10) now, (205, 10) in the checkpoint",
    ):
        assert difference in error


def test_checkpoints_that_are_a_file(copy, capsys) -> None:
    run = copy()
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").write_text("")
    error = _refused(capsys, train.main(["--resume", str(run)]))
    assert "checkpoints: is a regular file, not a folder" in error
    assert "nothing was saved" not in error


@contextlib.contextmanager
def _as_nobody() -> Iterator[None]:
    """Root may read everything: somebody else goes on for a moment."""
    as_root = os.geteuid() == 0
    if as_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if as_root:
            os.seteuid(0)


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/36", "checkpoints/36/record.json"])
def test_checkpoints_that_may_not_be_read_are_not_damaged(copy, name: str) -> None:
    """An older one must not take the place of one that is only out of reach, and nobody is told to try again."""
    with tempfile.TemporaryDirectory() as place:
        pathlib.Path(place).chmod(0o755)
        run = pathlib.Path(shutil.copytree(copy(), pathlib.Path(place) / "run"))
        (run / name).chmod(0)
        with _as_nobody(), pytest.raises(UsageError) as caught:
            folder.check(run, resume=True)
        (run / name).chmod(0o755)
    assert str(caught.value) == f"{run / name}: cannot be read: change its permissions or its owner"


def test_the_fuzzer_notices_who_follows_a_link(tmp_path) -> None:
    """A reader that writes through links: were there none such input, the fuzzer would show nothing."""

    def make(place: pathlib.Path) -> list[pathlib.Path]:
        (place / "file").write_text("x")
        return [place / "file"]

    def read(place: pathlib.Path) -> None:
        if (place / "file").is_file():
            (place / "file").write_text("y")
        else:
            raise UsageError(f"{place}: no")

    outcome = fuzz.run([fuzz.Trial("naive", Reader(make, read), tmp_path / "fuzz", (UsageError,))], count=100)
    assert outcome.failures
    assert all("something outside was changed" in failure for failure in outcome.failures)


@pytest.mark.parametrize("form", ["cifar-10-batches-py", "cifar-10-batches-py/data_batch_1", "cifar-10-binary.tar.gz"])
def test_what_is_no_file_in_a_data_folder_is_refused_by_name(tmp_path, form: str, capsys) -> None:
    path = tmp_path / form
    path.parent.mkdir(exist_ok=True)
    flags = [*SMALL, "--dataset", "auto", "--data-dir", str(tmp_path), "--workdir", str(tmp_path / "run")]

    for make, kind in (
        (lambda: os.mkfifo(path), "a named pipe"),
        (lambda: os.mknod(path, stat.S_IFSOCK | 0o600), "a socket"),
        (lambda: path.symlink_to("/dev/zero"), "a device"),
        (lambda: path.symlink_to(path), "ymbolic link"),
        (lambda: path.symlink_to(tmp_path / "nothing"), ""),
    ):
        make()
        error = _refused(capsys, train.main(flags))
        assert str(path) in error
        assert kind in error
        path.unlink()
