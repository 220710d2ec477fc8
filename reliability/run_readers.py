"""Everything in `jaxalex` that reads a run folder or something of one."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from reliability.reader import Reader, write

_PICTURES = ("curves.png", "predictions.png", "confusion.png", "filters.png", "examples.png", "mistakes.png")


@functools.cache
def _network() -> Any:
    """A tiny network's state and description."""
    import jax

    from jaxalex import models
    from jaxalex.training import optim
    from jaxalex.training.state import create_train_state
    from jaxalex.weights.safetensors import Description

    model = models.build("cifar10", 10, 0.02, init="flax")
    half = np.full(3, 0.5, np.float32)
    state = create_train_state(model, optim.sgd(0.01, 0.9), jax.random.key(0), (32, 32, 3), half, half)
    names = tuple("0123456789")
    description = Description("cifar10", 0.02, 10, names, "digits", 32, 3, (0.5,) * 3, (0.5,) * 3)
    return state, description


def _make_weights(folder: Path) -> list[Path]:
    from jaxalex.weights.safetensors import save_weights

    state, description = _network()
    save_weights(folder / "model.safetensors", state.params, description)
    return [folder / "model.safetensors"]


def _read_weights(folder: Path) -> Any:
    from jaxalex.weights.safetensors import load_weights

    return load_weights(folder / "model.safetensors")


def _load(folder: Path) -> Any:
    from jaxalex.training import pretrained

    return pretrained.load(folder / "model.safetensors", "cpu")


def _make_config(folder: Path) -> list[Path]:
    from jaxalex import config

    text = config.to_json(config.from_recipe("quickstart", {"checkpoint_every": "5m", "data_dir": "some where"}))
    return [write(folder / "config.json", text.encode())]


def _read_config(folder: Path) -> Any:
    from jaxalex import config

    return config.resumed(folder, {"num_epochs": 1000})


@functools.cache
def _settings() -> Any:
    from jaxalex import config

    return config.from_recipe("quickstart", {"limit_train": 90})


def _record() -> dict[str, Any]:
    from jaxalex.system import settings

    return {
        "config": dataclasses.asdict(_settings()),
        "split": {"train": 90},
        "settings": settings.current(),
        "dropout_key": [0, 1],
        "environment": {},
    }


def _make_checkpoints(folder: Path) -> list[Path]:
    from jaxalex.training.checkpoint import Checkpoints
    from jaxalex.training.progress import Progress
    from jaxalex.training.report import EpochRow

    row = EpochRow(1, 2.3, 10.0, 2.2, 11.0, 3.5, 100.0)
    progress = Progress(2, rows=(row,)).to_record()
    state = _network()[0]
    Checkpoints(folder / "checkpoints").save(
        3, state.replace(step=state.step + 3), _record() | {"progress": progress}, 50.0
    )
    return sorted(path for path in (folder / "checkpoints").rglob("*") if path.is_file())


def _keeper(folder: Path, check_lock: Callable[[], None] = lambda: None) -> Any:
    from jaxalex.training.checkpoint import Checkpoints
    from jaxalex.training.keeper import Keeper
    from jaxalex.training.schedule import Schedule, Stopwatch

    checkpoints = Checkpoints(folder / "checkpoints")
    steps_per_epoch = -(-_record()["split"]["train"] // _settings().batch_size)
    watch = Stopwatch(began=0.0)
    return Keeper(checkpoints, _record(), steps_per_epoch, Schedule(), folder, lambda: None, watch, check_lock)


def _read_checkpoints(folder: Path) -> Any:
    return _keeper(folder).restore(_network()[0], lambda line: None)


def _make_run(folder: Path) -> list[Path]:
    """A run folder, with what killed processes and strangers may have left in it."""
    from jaxalex import config

    _make_checkpoints(folder)
    _make_weights(folder)
    write(folder / "config.json", config.to_json(_settings()).encode())
    for name in ("metrics.jsonl", "summary.json", *_PICTURES, ".lock"):
        write(folder / name, b"{}\n")
    for name in ("config.json", "metrics.jsonl", "model.safetensors"):
        write(folder / f"{name}.part", b"{}\n")
        write(folder / f"{name}.0123456789abcdef.part", b"{}\n")
    for name in ("6.partial", "notes.partial", "2.damaged"):
        write(folder / "checkpoints" / name / "record.json", b"{}\n")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _resume(folder: Path) -> Any:
    """What ``--resume`` does, in its order, without the training: reads the run and writes all of it again."""
    from jaxalex import config
    from jaxalex.errors import RunError, UsageError
    from jaxalex.system import files, lock
    from jaxalex.training import folder as run_folder
    from jaxalex.training import report
    from jaxalex.training.advice import failures_explained
    from jaxalex.weights.safetensors import save_weights

    settings = config.resumed(folder, {})
    run_folder.check(folder, resume=True)
    with lock.hold(folder) as check_lock:
        keeper = _keeper(folder, check_lock)
        try:
            with failures_explained(folder, settings, keeper.saved_step):
                state, progress = keeper.restore(_network()[0], lambda line: None)
                run_folder.remove_leftovers(folder)
                files.write_whole(folder / "config.json", config.to_json(settings))
                report.write_rows(folder / "metrics.jsonl", progress.rows)
                row = dataclasses.replace(progress.rows[0], epoch=2)
                keeper.save(state.replace(step=state.step + 3), dataclasses.replace(progress, epoch=3))
                report.append_row(folder / "metrics.jsonl", row)
                save_weights(folder / "model.safetensors", state.params, _network()[1])
                for name in (*_PICTURES, "summary.json"):
                    files.write_whole(folder / name, b"{}")
        except RunError as error:
            raise UsageError(str(error)) from error


def _forge_manifest(folder: Path) -> None:
    from jaxalex.system import files

    checkpoint = folder / "checkpoints" / "3"
    digests = {
        path.relative_to(checkpoint).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in checkpoint.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    (checkpoint / "manifest.json").write_text(files.to_json({"files": digests}))


READERS = {
    "weights": Reader(_make_weights, _read_weights, share=20),
    "network": Reader(_make_weights, _load, share=4),
    "config": Reader(_make_config, _read_config, share=20),
    "checkpoint": Reader(_make_checkpoints, _read_checkpoints, share=5),
    "forged checkpoint": Reader(_make_checkpoints, _read_checkpoints, _forge_manifest, share=3, strange=False),
    "run folder": Reader(_make_run, _resume, share=5),
}
