"""The end of a training run: the test, and everything that is written of it."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxalex import data
from jaxalex.config import TrainConfig
from jaxalex.errors import NotFiniteError
from jaxalex.system import environment, settings
from jaxalex.training import examples, filters, pictures, placement, report
from jaxalex.training.epochs import Evaluation, evaluate
from jaxalex.training.placement import Placed, Streaming, place
from jaxalex.training.progress import Progress
from jaxalex.training.run import Run
from jaxalex.training.state import TrainState
from jaxalex.weights.safetensors import Description, save_weights


def test_and_write(run: Run, state: TrainState, progress: Progress) -> dict[str, Any]:
    """Tests the network and writes the results: weights, pictures and, last, ``summary.json``.

    Returns:
      the content of ``summary.json``.

    Raises:
      NotFiniteError: the loss on the test set is not finite.
      RunError: a picture cannot be decoded; a file cannot be written.
      Stopped: a signal asked for it.
    """
    config, splits, workdir, rows = run.config, run.splits, run.workdir, progress.rows
    test_set = place(splits.test, run.sharding)
    test, figures = _tested(run, state, progress, test_set)
    _, ten_crops = _tested(run, state, progress, test_set, 10) if config.test_crops == 10 else (None, {})
    summary = {
        "dataset": splits.name,
        "source": splits.source,
        "model": config.model,
        "epochs": config.num_epochs,
        "train_size": len(splits.train),
        "eval_size": len(splits.eval),
        "test_size": len(splits.test),
        "bad_images": splits.bad_images + rows[-1].unreadable + len(test.problems),
        **figures,
        **ten_crops,
        "images_per_second": statistics.median(row.images_per_second for row in rows),
        "compile_seconds": run.compiled.compile_seconds,
        "wall_seconds": run.keeper.wall_seconds(),
        "skipped_steps": sum(row.skipped_steps for row in rows),
        **_waiting(rows),
        "devices": [environment.describe_device(device) for device in placement.devices(run.sharding)],
        "versions": environment.versions(),
        "variables": environment.variables(),
        "settings": settings.current(),
        "parameters": count_parameters(state),
    }
    names = splits.class_names
    labels, images = test.labels, lambda indices: splits.test.take(test.index[indices]).images
    title = f"{config.model} on {data.short_name(splits.name)}, {config.recipe}"
    writers: tuple[Callable[[], None], ...] = (
        lambda: save_weights(workdir / "model.safetensors", state.params, _description(config, splits, state)),
        lambda: pictures.write_curves(workdir / "curves.png", rows, title),
        lambda: pictures.write_predictions(workdir / "predictions.png", images, labels, test.logits, names),
        lambda: pictures.write_confusion(workdir / "confusion.png", labels, test.logits, names),
        lambda: filters.write_filters(workdir / "filters.png", state.params, config.model, title),
        lambda: examples.write_examples(workdir / "examples.png", images, labels, test.logits, names),
        lambda: examples.write_mistakes(workdir / "mistakes.png", images, labels, test.logits, names),
        lambda: report.write_json(workdir / "summary.json", summary),
    )
    for write in writers:
        run.keeper.stop_if_asked(state, progress)
        run.keeper.check_lock()
        write()
    return summary


def _tested(
    run: Run, state: TrainState, progress: Progress, test_set: Placed | Streaming, crops: int = 1
) -> tuple[Evaluation, dict[str, float]]:
    """The result on the test set, said and by its names in the summary."""
    test = evaluate(state, test_set, functools.partial(run.keeper.stop_if_asked, state, progress), crops)
    if not math.isfinite(test.loss):
        raise NotFiniteError(f"the test loss is {test.loss}")
    for problem in test.problems:
        run.left_out(problem)
    top5 = report.top5_accuracy(test.logits, test.labels)
    run.say(report.test_line(test.loss, test.accuracy, top5, crops))
    name = "test" if crops == 1 else "ten_crop_test"
    figures = {f"{name}_loss": test.loss, f"{name}_accuracy": test.accuracy}
    return test, figures if top5 is None else figures | {f"{name}_top5_accuracy": top5}


def _waiting(rows: Sequence[report.EpochRow]) -> dict[str, float]:
    """The share of the training time in which the device waited for pictures; nothing where all are in memory."""
    waited = [row.waiting_seconds for row in rows if row.waiting_seconds is not None]
    return {"waiting_share": sum(waited) / sum(row.seconds for row in rows)} if waited else {}


def count_parameters(state: TrainState) -> int:
    """How many numbers a network learns."""
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))


def _description(config: TrainConfig, splits: data.Splits, state: TrainState) -> Description:
    stored = splits.train.image_shape[0]
    return Description(
        model=config.model,
        width=config.width,
        num_classes=splits.num_classes,
        class_names=splits.class_names,
        dataset=splits.name,
        image_size=state.image_hw[0],
        input_channels=splits.train.image_shape[2],
        mean=tuple(float(v) for v in state.mean),
        std=tuple(float(v) for v in state.std),
        resize=stored if stored > state.image_hw[0] else None,
    )
