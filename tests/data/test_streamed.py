"""Photographs that are decoded while a run trains on them: the same pictures, the same run, the same refusals."""

from __future__ import annotations

import hashlib
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from jaxalex import data, evaluate, train
from jaxalex.data import pictures
from jaxalex.data.photographs.streamed import Decoded, StreamedSet
from jaxalex.errors import RunError, UsageError
from jaxalex.system import memory
from jaxalex.training import placement

pytestmark = pytest.mark.usefixtures("small_pictures")

SIZES = {"train": 10, "val": 4}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> pathlib.Path:
    """Three classes of noise, of which no two pictures are the same, wider than high and higher than wide."""
    path = tmp_path_factory.mktemp("streamed") / "photos"
    rng = np.random.default_rng(0)
    for part, size in SIZES.items():
        for name in ("n01", "n02", "n03"):
            (path / part / name).mkdir(parents=True)
            for i in range(size):
                pixels = rng.integers(0, 256, ((48, 60), (60, 48))[i % 2] + (3,), np.uint8)
                Image.fromarray(pixels).save(path / part / name / f"{i}.jpg")
    return path


@pytest.fixture
def folder(prepared, tmp_path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(prepared, tmp_path / "photos"))


def _load(folder: pathlib.Path, **more: object) -> data.Splits:
    return data.load(f"folder:{folder}", None, **{"seed": 0, "image_size": 40, **more})


def _batches(images: StreamedSet, rows: np.ndarray) -> list[Decoded]:
    with pictures.strict():
        return list(images.batches(rows))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_batches_hold_the_pictures_that_are_asked_for(prepared, workers) -> None:
    kept, streamed = _load(prepared), _load(prepared, room=0, workers=workers)
    assert isinstance(streamed.train, StreamedSet)
    assert (len(streamed.train), len(streamed.eval), len(streamed.test)) == (24, 6, 12)
    assert streamed.source == "a fifth of train is eval, val is test; decoded anew in each epoch"
    rows = np.array([[3, 0, 23], [7, 7, 1], [-1, 2, -1], [5, 6, 8], [4, -1, -1]], np.int32)
    found = _batches(streamed.train, rows)
    assert len(found) == 5
    for row, batch in zip(rows, found, strict=True):
        wanted = kept.train.take(row)
        np.testing.assert_array_equal(batch.images, np.where((row < 0)[:, None, None, None], 0, wanted.images))
        np.testing.assert_array_equal(batch.labels, np.where(row < 0, -1, wanted.labels))
        assert batch.problems == []


def test_what_fits_is_kept(prepared) -> None:
    needed = 42 * 40 * 40 * 3
    assert isinstance(_load(prepared, room=needed).train, data.ImageSet)
    assert isinstance(_load(prepared, room=needed - 1).train, StreamedSet)


def test_a_batch_names_what_it_lacks(folder) -> None:
    path = folder / "train" / "n02" / "3.jpg"
    path.write_bytes(path.read_bytes()[:400])
    rows = np.arange(30, dtype=np.int32).reshape(5, 6)
    for skip in (True, False):
        splits = _load(folder, room=0, skip_bad=skip)
        everything = StreamedSet(splits.train.part, np.arange(30), 40, skip)
        if skip:
            batches = _batches(everything, rows)
            assert [batch.labels.tolist() for batch in batches] == [
                6 * [0], 4 * [0] + 2 * [1], [1, -1, 1, 1, 1, 1], 2 * [1] + 4 * [2], 6 * [2]
            ]  # fmt: skip
            assert [len(batch.problems) for batch in batches] == [0, 0, 1, 0, 0]
            assert batches[2].problems[0].startswith(f"{path}: not a readable picture (")
        else:
            with pytest.raises(RunError, match=r"not a readable picture .*: use --on-bad-image skip to go on"):
                _batches(everything, rows)


def _train(folder: pathlib.Path, run: str, *more: str) -> int:
    flags = ["--dataset", f"folder:{folder}", "--width", "0.05", "--init", "flax", "--batch-size", "5"]
    return train.main([*flags, "--num-epochs", "2", "--augment", "paper", "--workdir", run, *more])


def _digest(run: str) -> str:
    return hashlib.sha256(pathlib.Path(run, "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.slow
def test_the_run_is_that_of_kept_pictures_and_resumes_inside_an_epoch(folder, tmp_path, capsys, monkeypatch) -> None:
    """Kept, streamed, and streamed with a stop after 2 of 5 steps: the same parameters bit for bit."""
    monkeypatch.chdir(tmp_path)
    assert _train(folder, "kept") == 0
    assert "waiting_share" not in json.loads(pathlib.Path("kept/summary.json").read_text())
    assert _train(folder, "streamed", "--keep-decoded", "never", "--checkpoint-every", "2", "--keep", "9") == 0
    assert _digest("streamed") == _digest("kept")
    out = capsys.readouterr().out
    assert "decoded anew in each epoch" in out
    assert out.count(" waiting: ") == 2
    summary = json.loads(pathlib.Path("streamed/summary.json").read_text())
    assert 0 <= summary["waiting_share"] < 1
    assert summary["bad_images"] == 0

    for step in ("4", "5", "6", "8", "10"):  # all after the second step
        shutil.rmtree(f"streamed/checkpoints/{step}")
    assert train.main(["--resume", "streamed"]) == 0
    out = capsys.readouterr().out
    assert "going on   after step 2, in epoch 1" in out
    assert _digest("streamed") == _digest("kept")
    tested = next(line for line in out.splitlines() if line.startswith("[Test"))
    assert evaluate.main(["streamed"]) == 0
    assert tested in capsys.readouterr().out


@pytest.mark.slow
def test_a_bad_picture_ends_the_run_which_then_goes_on_without_it(folder, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for part in ("train", "val"):
        path = folder / part / "n02" / "1.jpg"
        path.write_bytes(path.read_bytes()[:500])
    train_path, val_path = (folder / part / "n02" / "1.jpg" for part in ("train", "val"))
    assert _train(folder, "run", "--keep-decoded", "never", "--normalize", "half", "--augment", "none") == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"error: {train_path}: not a readable picture (")
    assert "use --on-bad-image skip to go on without it; " in error
    assert error.endswith("go on with python -m jaxalex.train --resume run")
    assert "\n" not in error
    assert train.main(["--resume", "run", "--on-bad-image", "skip"]) == 0
    out = capsys.readouterr().out
    assert out.count(f"note: left out: {train_path}: ") == 1
    assert out.count(" unreadable: 1 ") == 2
    summary = json.loads(pathlib.Path("run/summary.json").read_text())
    assert summary["bad_images"] == 2
    assert f"note: left out: {val_path}: " in out
    assert summary["test_accuracy"] in [100 * right / 11 for right in range(12)]
    rows = [json.loads(line) for line in pathlib.Path("run/metrics.jsonl").read_text().splitlines()]
    assert [row["unreadable"] for row in rows] == [1, 1]


def test_a_folder_that_changed_is_refused(folder, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _train(folder, "run", "--keep-decoded", "never") == 0
    (folder / "val" / "n03" / "1.jpg").unlink()
    assert train.main(["--resume", "run", "--num-epochs", "3"]) == 2
    error = capsys.readouterr().err
    assert "val/n03 '4 files of " in error
    assert error.count("\n") == 1


def test_statistics_are_those_of_the_first_2000(prepared, monkeypatch) -> None:
    from jaxalex.data.photographs import streamed

    monkeypatch.setattr(streamed, "_SAMPLE", 7)
    sample = _load(prepared, room=0).train.sample()
    np.testing.assert_array_equal(sample, _load(prepared).train.images[:7])


def test_the_need_is_judged_by_what_is_free(prepared, monkeypatch) -> None:
    here = placement.on_device(jax.devices("cpu")[0])
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 300_000)
    rooms = {keep: placement.room_for_images(keep, here) for keep in ("auto", "always", "never")}
    assert rooms == {"auto": 150_000, "always": None, "never": 0}
    assert isinstance(_load(prepared, room=rooms["auto"]).train, StreamedSet)  # 42 pictures of 40x40 need 201,600
    assert isinstance(_load(prepared, room=rooms["always"]).train, data.ImageSet)
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 200_000)
    with pytest.raises(UsageError, match=r"are free: use --keep-decoded auto, or fewer of them with --limit-train"):
        _load(prepared, room=placement.room_for_images("always", here))
