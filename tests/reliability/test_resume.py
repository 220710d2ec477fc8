"""A run that was interrupted, in whatever way, ends as if it had not been: bit for bit."""

from __future__ import annotations

import json
import pathlib
import shutil
import signal

import pytest

from jaxalex import config, train
from jaxalex.errors import UsageError
from jaxalex.system import files
from jaxalex.training import loop
from jaxalex.training.checkpoint import Checkpoints
from jaxalex.training.epochs import Tally
from jaxalex.training.keeper import Keeper
from jaxalex.training.progress import Progress
from jaxalex.training.schedule import Schedule, Stopwatch
from reliability.runs import SMALL, assert_same, like, small, start, stop, wait_for

_SLOW = pytest.mark.slow


class _Fault(Exception):
    pass


def _break_at(beginning: str):
    """A ``say`` that fails at a line: an exception in the middle of the run."""

    def say(line: str) -> None:
        if line.startswith(beginning):
            raise _Fault

    return say


@pytest.mark.parametrize("line", ["compiled", "[Epoch   2]", pytest.param("[Test", marks=_SLOW)])
def test_an_exception_costs_nothing(unbroken, tmp_path, line: str, capsys) -> None:
    run = tmp_path / "run"
    with pytest.raises(_Fault):
        loop.train_and_evaluate(small(), run, _break_at(line))
    if line == "compiled":  # nothing was begun yet
        assert train.main(["--resume", str(run)]) == 2
        assert "is no run folder" in capsys.readouterr().err
        return
    assert train.main(["--resume", str(run)]) == 0
    assert "going on" in capsys.readouterr().out
    assert_same(run, unbroken)


@pytest.mark.parametrize(
    ("signal_number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=_SLOW)]
)
def test_a_signal_saves_inside_the_epoch_and_says_how_to_go_on(unbroken, tmp_path, signal_number, code, capsys) -> None:
    run = tmp_path / "run"
    flags = [*SMALL, "--checkpoint-every", "1000000", "--workdir", str(run)]
    with start(*flags, "--num-epochs", "2000") as process:
        wait_for(process, "[Epoch   1]")
        returned, error, seconds = stop(process, signal_number)
    assert returned == code
    assert seconds < 60  # it is 5 on a machine that does nothing else
    assert error.count("\n") == 1
    assert f"go on with python -m jaxalex.train --resume {run}" in error
    last = max(int(path.name) for path in (run / "checkpoints").iterdir())
    assert f"saved up to step {last:,}" in error
    epoch = json.loads((run / "checkpoints" / str(last) / "record.json").read_text())["progress"]["epoch"]
    # It was to have 2,000 epochs; it is made a shorter one, which ends one epoch later.
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(settings | {"num_epochs": epoch + 1}))
    assert train.main(["--resume", str(run)]) == 0
    whole, flags[-1] = tmp_path / "whole", str(tmp_path / "whole")
    assert train.main([*flags, "--num-epochs", str(epoch + 1)]) == 0
    assert_same(run, whole)


def test_what_a_checkpoint_holds(unbroken) -> None:
    record = json.loads((unbroken / "checkpoints" / "36" / "record.json").read_text())
    assert record["config"] == json.loads((unbroken / "config.json").read_text())
    assert (record["progress"]["epoch"], record["progress"]["tally"]["step"]) == (4, 0)
    rows = [json.loads(line) for line in (unbroken / "metrics.jsonl").read_text().splitlines()]
    assert record["progress"]["rows"] == rows
    assert {"train": 90, "eval": 40, "test": 40, "dataset": "digits", "seed": 0}.items() <= record["split"].items()
    assert len(record["dropout_key"]) == 2
    inside = json.loads((unbroken / "checkpoints" / "30" / "record.json").read_text())["progress"]
    assert (inside["epoch"], inside["tally"]["step"], len(inside["rows"])) == (3, 6, 2)
    assert inside["tally"]["count"] == 48


def _damage_cut(folder: pathlib.Path) -> None:
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def _damage_flip(folder: pathlib.Path) -> None:
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def _damage_zeros(folder: pathlib.Path) -> None:
    """As some file systems leave a file after a power loss: the right length, but all zeros."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(bytes(path.stat().st_size))


def _damage_missing(folder: pathlib.Path) -> None:
    (folder / "manifest.json").unlink()


def _damage_additional(folder: pathlib.Path) -> None:
    (folder / "state" / "more").write_text("more")


def _damage_link(folder: pathlib.Path) -> None:
    (folder / "record.json").rename(folder.parent.parent / "moved.json")
    (folder / "record.json").symlink_to(folder.parent.parent / "moved.json")


def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(copy, unbroken, capsys) -> None:
    run = copy()
    _damage_cut(run / "checkpoints" / "36")
    (run / "metrics.jsonl").write_text('{"epoch": 1, "train_lo')  # half a line, as a crash leaves it
    (run / "checkpoints" / "48.partial").mkdir()  # half a checkpoint
    assert train.main(["--resume", str(run)]) == 0
    output = capsys.readouterr().out
    warning = next(line for line in output.splitlines() if line.startswith("warning: "))
    assert str(run / "checkpoints" / "36") in warning
    assert warning.endswith("the one before, after step 30, is used")
    assert_same(run, unbroken)
    assert not (run / "checkpoints" / "48.partial").exists()


@pytest.mark.parametrize(
    "damage", [_damage_flip, _damage_zeros, _damage_missing, _damage_additional, _damage_link, shutil.rmtree]
)
def test_every_damage_is_noticed(copy, damage) -> None:
    folder, said = copy() / "checkpoints", []
    damage(folder / "36")
    found = Checkpoints(folder).restore(like(small()), said.append)
    assert found is not None
    assert (found[0], int(found[1].step)) == (30, 30)
    assert len(said) == (damage is not shutil.rmtree)


def test_all_damaged_is_a_clear_error(copy, capsys) -> None:
    run = copy()
    for folder in (run / "checkpoints").iterdir():
        _damage_cut(folder)
    before = sorted(run.rglob("*"))
    assert train.main(["--resume", str(run)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no checkpoint can be used: ")
    assert error.count("\n") == 1
    assert sorted(run.rglob("*")) == before


def test_a_damaged_checkpoint_is_not_evaluated(copy, capsys) -> None:
    from jaxalex import evaluate

    run = copy()
    for folder in (run / "checkpoints").iterdir():
        _damage_flip(folder)
    assert evaluate.main([str(run), "--checkpoint", "best"]) == 2
    assert "is damaged: " in capsys.readouterr().err


def test_more_epochs_may_follow(copy, tmp_path) -> None:
    run, whole = copy(), tmp_path / "whole"
    assert train.main(["--resume", str(run), "--num-epochs", "4", "--keep", "1"]) == 0
    assert train.main([*SMALL, "--num-epochs", "4", "--workdir", str(whole)]) == 0
    assert_same(run, whole)
    assert json.loads((run / "config.json").read_text())["num_epochs"] == 4
    assert len(list((run / "checkpoints").iterdir())) <= 2


def test_a_finished_run_is_left_as_it_is(copy, unbroken) -> None:
    run = copy()
    assert train.main(["--resume", str(run), "--workdir", str(run)]) == 0
    assert_same(run, unbroken)


@pytest.mark.parametrize(
    ("flags", "messages"),
    [
        (
            ["--batch-size", "16", "--seed", "1"],
            ["--batch-size is 8 in the run, not 16", "--seed is 0 in the run, not 1"],
        ),
        (["--recipe", "quickstart"], ["--recipe is baseline in the run, not quickstart"]),
        (["--num-epochs", "2"], ["--num-epochs is 3 in the run and may only grow, not 2"]),
        (["--on-nonfinite", "skip"], ["--on-nonfinite is stop in the run, not skip"]),
        (["--workdir", "elsewhere"], ["goes on in that folder: leave out --workdir elsewhere"]),
        (["--keep", "0"], ["--keep must be from 1"]),
        (["--checkpoint-every", "0"], ["--checkpoint-every must be a number of steps (500) or of minutes (5m)"]),
    ],
)
def test_another_configuration_is_refused(unbroken, flags, messages, capsys) -> None:
    assert train.main(["--resume", str(unbroken), *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for message in messages:
        assert message in error


def test_flags_that_agree_are_welcome(copy) -> None:
    assert train.main(["--resume", str(copy()), *SMALL, "--num-epochs", "3", "--data-dir", "moved"]) == 0


def test_an_edited_config_is_refused(copy, capsys) -> None:
    run = copy()
    values = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(values | {"learning_rate": 0.5, "momentum": 0.1}))
    assert train.main(["--resume", str(run)]) == 2
    error = capsys.readouterr().err
    assert "is of another config: learning_rate 0.01 then, 0.5 now; momentum 0.9 then, 0.1 now" in error


def test_other_data_are_refused(copy, monkeypatch, capsys) -> None:
    from jaxalex.data import digits

    run, load = copy(), digits.load
    one_pixel = load()
    one_pixel.train.images[:, 0, 0, 0] ^= 1  # whichever of them the split takes
    monkeypatch.setattr(digits, "load", lambda: one_pixel)
    assert train.main(["--resume", str(run)]) == 2
    assert "is of another split: sha256 " in capsys.readouterr().err


def test_other_versions_are_told(copy, capsys) -> None:
    run = copy()
    folder = run / "checkpoints" / "36"
    record = json.loads((folder / "record.json").read_text())
    record["environment"]["jax"] = "0.1"
    _replace_record(folder, record)
    assert train.main(["--resume", str(run)]) == 0
    assert "note: jax '0.1' then, " in capsys.readouterr().out


def _replace_record(folder: pathlib.Path, record: dict) -> None:
    import hashlib

    (folder / "record.json").write_text(json.dumps(record))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["record.json"] = hashlib.sha256((folder / "record.json").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 7},
        {"rows": None},
        *(
            pytest.param(change, marks=_SLOW)
            for change in (
                {"epoch": -1},
                {"epoch": "4"},
                {"rows": [{"epoch": 1}]},
                {"tally": {}},
                {"wall_seconds": None},
            )
        ),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(copy, change: dict, capsys) -> None:
    run = copy()
    folder = run / "checkpoints" / "36"
    record = json.loads((folder / "record.json").read_text())
    record["progress"] |= change
    _replace_record(folder, record)
    assert train.main(["--resume", str(run)]) == 2
    error = capsys.readouterr().err
    assert f"{folder}: its record is" in error
    assert error.count("\n") == 1


def test_checkpoints_of_another_network_are_refused(copy, unbroken, capsys) -> None:
    """In the other network every array has the same name and another shape."""
    with pytest.raises(UsageError, match=r"params.conv1.bias \(6,\) now, \(3,\) in the checkpoint"):
        Checkpoints(unbroken / "checkpoints").restore_network(36, like(small(width=0.1)))


def _keeper(checkpoints: Checkpoints, every: str, now: list[float], asked=lambda: None) -> Keeper:
    """A keeper of a run with 12 steps per epoch, by a clock that shows ``now[0]`` seconds."""
    schedule = Schedule(*config.parse_every(every))
    watch = Stopwatch(now[0], now=lambda: now[0])
    return Keeper(checkpoints, {}, 12, schedule, pathlib.Path("run"), asked, watch)


def test_minutes_between_checkpoints(tmp_path) -> None:
    now = [1000.0]
    keeper = _keeper(Checkpoints(tmp_path / "checkpoints"), "2m", now)
    assert not keeper.due(1, 11)
    now[0] += 119
    assert not keeper.due(2, 3)
    now[0] += 1
    assert keeper.due(2, 4)
    keeper.save(like(small()), Progress(epoch=2, tally=Tally(step=4)))
    assert not keeper.due(2, 5), "the two minutes begin anew"
    now[0] += 120
    assert keeper.due(2, 6)
    assert keeper.wall_seconds() == 240


def test_steps_between_checkpoints(tmp_path) -> None:
    """They are counted over the whole run; a dispatch of several steps may jump over a multiple of ten."""
    keeper = _keeper(Checkpoints(tmp_path / "checkpoints"), "10", [0.0])
    assert [keeper.due(1, step) for step in (9, 10, 11)] == [False, True, True]
    keeper.save(like(small()), Progress(epoch=1, tally=Tally(step=11)))
    assert [keeper.due(*position) for position in ((1, 12), (2, 7), (2, 8), (2, 9))] == [False, False, True, True]


def test_a_signal_makes_a_checkpoint_due(tmp_path) -> None:
    came: list[signal.Signals] = []
    keeper = _keeper(Checkpoints(tmp_path / "checkpoints"), "10", [0.0], lambda: came[0] if came else None)
    assert not keeper.due(1, 1)
    came.append(signal.SIGTERM)
    assert keeper.due(1, 1)


def test_a_run_folder_is_whole_before_its_first_checkpoint(tmp_path, unbroken) -> None:
    run = tmp_path / "run"
    run.mkdir()
    files.write_whole(run / "config.json", config.to_json(small()))
    assert train.main(["--resume", str(run)]) == 0
    assert_same(run, unbroken)


def test_best_and_last_are_kept(copy) -> None:
    run = copy()
    shutil.rmtree(run / "checkpoints")
    checkpoints = Checkpoints(run / "checkpoints", keep=2)
    for step, accuracy in ((10, 50.0), (20, 80.0), (30, None), (40, 80.0), (50, 20.0), (60, None)):
        checkpoints.save(step, like(small()), {}, accuracy)
    assert checkpoints.steps() == [20, 50, 60]
    assert checkpoints.best() == 20
