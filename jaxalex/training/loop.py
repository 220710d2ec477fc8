"""The whole of a training run: data, network, steps and reports, in the order of the data flow."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from jaxalex import config as config_lib
from jaxalex import data
from jaxalex.config import TrainConfig
from jaxalex.data.stats import normalization
from jaxalex.errors import NotFiniteError, RunError, UsageError
from jaxalex.networks.alexnet import build
from jaxalex.networks.tables import NETWORKS
from jaxalex.system import environment, files, interrupt, lock
from jaxalex.system.devices import choose_device
from jaxalex.training import optim, report
from jaxalex.training.checkpoint import Checkpoints
from jaxalex.training.epochs import (
    CompiledEpoch,
    Evaluation,
    compile_epoch,
    epoch_indices,
    evaluate,
    place,
    train_one_epoch,
)
from jaxalex.training.progress import Keeper, Progress, describe_split
from jaxalex.training.state import TrainState, create_train_state
from jaxalex.training.steps import Batch
from jaxalex.weights.safetensors import Description, save_weights

# Steps with a mean loss of ln(classes), give or take a hundredth of it, after which the trainer says so.
_PLATEAU_STEPS = 100


@dataclasses.dataclass(frozen=True)
class _Run:
    """What stays as it is from the first step to the last."""

    config: TrainConfig
    workdir: pathlib.Path
    say: Callable[[str], None]
    device: jax.Device
    splits: data.Splits
    dropout_key: jax.Array
    compiled: CompiledEpoch
    keeper: Keeper


def train_and_evaluate(
    config: TrainConfig, workdir: pathlib.Path, say: Callable[[str], None] = print, resume: bool = False
) -> dict[str, Any]:
    """Trains, evaluates after every epoch, tests after the last, and leaves everything in ``workdir``.

    Args:
      config: what to do.
      workdir: a folder that is not there yet, or is empty.
      say: gets every line for people.
      resume: go on with the run in ``workdir``, from its newest checkpoint that is whole. On the same device and as
        many cores the result is that of an unbroken run, bit for bit.

    Returns:
      the content of ``summary.json``.

    Raises:
      UsageError: for input that cannot be used; nothing has been written then.
      RunError: if a loss or gradient stops being finite, memory does not suffice or the disk fails; what was saved
        before stays.
      Stopped: a signal asked for it; all is saved.
    """
    began = time.monotonic()
    check_workdir(workdir, resume)
    device = choose_device(config.device, config.precision)
    splits = data.load(
        config.dataset,
        config.data_dir,
        config.seed,
        limit_train=config.limit_train,
        limit_eval=config.limit_eval,
        notify=say,
    )
    init_key, dropout_key = jax.random.split(jax.device_put(jax.random.key(config.seed), device))
    state = _initial_state(config, splits, init_key)
    for line in _header(config, splits, _parameters(state), device, workdir):
        say(line)
    train_set = place(splits.train, device)
    compiled = compile_epoch(state, train_set, config.batch_size, dropout_key, config.on_nonfinite == "skip")
    say(f"compiled in {compiled.compile_seconds:.1f} s")

    with lock.hold(workdir), interrupt.watch() as asked:
        check_workdir(workdir, resume)  # again, now that no other process can begin there
        checkpoints = Checkpoints(workdir / "checkpoints", config.keep)
        keeper = Keeper(checkpoints, _record(config, splits, dropout_key, device), config, workdir, asked, began)
        run = _Run(config, workdir, say, device, splits, dropout_key, compiled, keeper)
        with _failures_explained(run):
            state, progress = keeper.restore(state, say) if resume else (state, Progress())
            files.write_whole(workdir / "config.json", config_lib.to_json(config))
            report.write_rows(workdir / "metrics.jsonl", progress.rows)
            state, progress = _train(run, state, train_set, progress)
            return _test(run, state, progress)


def _train(run: _Run, state: TrainState, train_set: Batch, progress: Progress) -> tuple[TrainState, Progress]:
    """The epochs that are left."""
    config, splits, keeper = run.config, run.splits, run.keeper
    eval_set = place(splits.eval, run.device)
    for epoch in range(progress.epoch, config.num_epochs + 1):
        indices = epoch_indices(len(splits.train), config.batch_size, config.seed, epoch)
        description = f"epoch {epoch} of {config.num_epochs}"
        while progress.tally.step < len(indices):
            pause = functools.partial(keeper.due, epoch)
            state, tally = train_one_epoch(
                run.compiled, state, train_set, indices, run.dropout_key, description, progress.tally, pause
            )
            progress = dataclasses.replace(progress, tally=tally)
            if tally.step < len(indices):
                keeper.save(state, progress)
            keeper.stop_if_asked(state, progress)
        if not progress.tally.count:
            raise RunError(f"every step of {description} was skipped: none had a finite loss and gradient")
        evaluation = evaluate(state, eval_set, functools.partial(keeper.stop_if_asked, state, progress))
        if not math.isfinite(evaluation.loss):
            raise NotFiniteError(f"the evaluation loss is {evaluation.loss} after {description}")
        row = _row(progress, evaluation, len(splits.train))
        progress = Progress(epoch + 1, rows=(*progress.rows, row))
        run.say(report.epoch_line(row))
        report.append_row(run.workdir / "metrics.jsonl", row)
        keeper.save(state, progress, evaluation.accuracy)
        if reaches_plateau(progress.rows, len(indices), splits.num_classes):
            run.say(_plateau_hint(config, splits.num_classes))
        keeper.stop_if_asked(state, progress)
    return state, progress


def _test(run: _Run, state: TrainState, progress: Progress) -> dict[str, Any]:
    """The test figure, and what is left of the run for people and programs."""
    config, splits, workdir, rows = run.config, run.splits, run.workdir, progress.rows
    test = evaluate(state, place(splits.test, run.device), functools.partial(run.keeper.stop_if_asked, state, progress))
    run.say(report.test_line(test.loss, test.accuracy))
    summary = {
        "dataset": splits.name,
        "source": splits.source,
        "model": config.model,
        "epochs": config.num_epochs,
        "train_size": len(splits.train),
        "eval_size": len(splits.eval),
        "test_size": len(splits.test),
        "test_loss": test.loss,
        "test_accuracy": test.accuracy,
        "images_per_second": statistics.median(row.images_per_second for row in rows),
        "compile_seconds": run.compiled.compile_seconds,
        "wall_seconds": run.keeper.wall_seconds(),
        "skipped_steps": sum(row.skipped_steps for row in rows),
        "devices": [environment.describe_device(run.device)],
        "versions": environment.versions(),
        "parameters": _parameters(state),
    }
    save_weights(workdir / "model.safetensors", state.params, _description(config, splits, state))
    report.write_curves(workdir / "curves.png", rows, f"{config.model} on {splits.name}, {config.recipe}")
    pictures, labels, names = splits.test.images, splits.test.labels, splits.class_names
    report.write_predictions(workdir / "predictions.png", pictures, labels, test.logits, names)
    report.write_confusion(workdir / "confusion.png", labels, test.logits, names)
    report.write_json(workdir / "summary.json", summary)
    return summary


def _row(progress: Progress, evaluation: Evaluation, train_size: int) -> report.EpochRow:
    tally = progress.tally
    return report.EpochRow(
        epoch=progress.epoch,
        train_loss=tally.loss,
        train_accuracy=tally.accuracy,
        eval_loss=evaluation.loss,
        eval_accuracy=evaluation.accuracy,
        seconds=tally.seconds,
        images_per_second=train_size / tally.seconds,
        skipped_steps=tally.skipped,
    )


@contextlib.contextmanager
def _failures_explained(run: _Run) -> Iterator[None]:
    """Says of what fails what is saved and what to do."""
    try:
        yield
    except NotFiniteError as error:
        raise RunError(
            f"{error}, learning rate {run.config.learning_rate:g}: try a lower --learning-rate, another --init, or "
            f"--on-nonfinite skip ({run.keeper.saved()})"
        ) from error
    except RunError as error:
        raise RunError(f"{error}; {run.keeper.advice()}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"{error.filename or run.workdir}: {reason}; {run.keeper.advice()}") from error


def check_workdir(workdir: pathlib.Path, resume: bool = False) -> None:
    """Refuses a folder that holds anything, as a run is never overwritten; to resume, one that holds no run.

    Raises:
      UsageError: naming the folder.
    """
    try:
        holds_run = (workdir / "config.json").exists()
        others = workdir.exists() and (
            not workdir.is_dir() or any(path.name != lock.NAME for path in workdir.iterdir())
        )
    except (OSError, ValueError) as error:  # a name that no file can have is a ValueError
        raise UsageError(f"{workdir}: cannot be looked into ({getattr(error, 'strerror', None) or error})") from error
    if resume:
        if not holds_run:
            raise UsageError(f"{workdir}: holds no run to go on with")
    elif holds_run:
        raise UsageError(
            f"{workdir}: already holds a run, which is never overwritten: choose another --workdir, or go on with it: "
            f"--resume {workdir}"
        )
    elif others:
        raise UsageError(f"{workdir}: is not an empty folder: choose another --workdir")


def _record(config: TrainConfig, splits: data.Splits, dropout_key: jax.Array, device: jax.Device) -> dict[str, Any]:
    """What a checkpoint says of its run beside how far it has come."""
    return {
        "config": dataclasses.asdict(config),
        "split": describe_split(splits, config.seed),
        "dropout_key": jax.random.key_data(dropout_key).tolist(),
        "environment": {"device": environment.describe_device(device), **environment.versions()},
    }


def _parameters(state: TrainState) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))


def _initial_state(config: TrainConfig, splits: data.Splits, key: jax.Array) -> TrainState:
    model = build(
        config.model,
        splits.num_classes,
        config.width,
        init=config.init,
        precision=config.precision,
    )
    tx = optim.sgd(config.learning_rate, config.momentum, config.weight_decay)
    mean, std = normalization(config.normalize, splits.train.images)
    size = NETWORKS[config.model].image_size
    # On the key's device: everything that it is computed with follows it there.
    return create_train_state(model, tx, key, (size, size, splits.train.images.shape[3]), mean, std)


def _header(
    config: TrainConfig, splits: data.Splits, parameters: int, device: jax.Device, workdir: pathlib.Path
) -> list[str]:
    height, width, channels = splits.train.images.shape[1:]
    found = environment.versions()
    names = ("jaxalex", "jax", "flax", "optax", "python")
    decay = f", weight decay {config.weight_decay:g}" if config.weight_decay else ""
    size = NETWORKS[config.model].image_size
    resized = "" if (height, width) == (size, size) else f" (images resized to {size}x{size})"
    scaled = "" if config.width == 1 else f" at width {config.width:g}"
    return [
        "versions   " + ", ".join(f"{name} {found[name]}" for name in names),
        f"device     {environment.describe_device(device)}; {config.precision}",
        f"dataset    {splits.name} ({splits.source}): {len(splits.train):,} train, {len(splits.eval):,} eval, "
        f"{len(splits.test):,} test; {splits.num_classes} classes, {height}x{width}x{channels}",
        f"model      {config.model}{scaled}{resized}, {parameters:,} parameters, {config.init} initialisation",
        f"training   recipe {config.recipe}: {config.num_epochs} epochs, batch size {config.batch_size}, SGD with "
        f"learning rate {config.learning_rate:g}, momentum {config.momentum:g}{decay}; seed {config.seed}",
        f"run folder {workdir}",
    ]


def reaches_plateau(rows: Sequence[report.EpochRow], steps_per_epoch: int, num_classes: int) -> bool:
    """Whether the loss, with the last epoch, has sat at ln(classes) for long enough to say so; true only once.

    Args:
      rows: the epochs so far.
      steps_per_epoch: training steps in each.
      num_classes: a loss of ln(classes) is that of a network which knows nothing.
    """
    level = math.log(num_classes)
    sitting = 0
    for row in reversed(rows):
        if abs(row.train_loss - level) > 0.01 * level:
            break
        sitting += steps_per_epoch
    return _PLATEAU_STEPS <= sitting < _PLATEAU_STEPS + steps_per_epoch


def _plateau_hint(config: TrainConfig, num_classes: int) -> str:
    if config.init == "torch":
        why = "PyTorch's initialisation starts this network so small that it can sit there for hundreds of steps"
        what = "wait, or use --init flax"
    else:
        why = "the network has not begun to learn"
        what = "try --init flax, or another --learning-rate"
    return f"note: the loss still sits at ln({num_classes}) = {math.log(num_classes):.3f}. {why}: {what}."


def _description(config: TrainConfig, splits: data.Splits, state: TrainState) -> Description:
    return Description(
        model=config.model,
        width=config.width,
        num_classes=splits.num_classes,
        class_names=splits.class_names,
        dataset=splits.name,
        image_size=state.image_hw[0],
        input_channels=splits.train.images.shape[3],
        mean=tuple(float(v) for v in state.mean),
        std=tuple(float(v) for v in state.std),
    )
