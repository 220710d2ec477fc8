"""A whole training run, in the order of the data flow: data, network, steps, reports."""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxalex import config as config_lib
from jaxalex import data
from jaxalex.config import TrainConfig
from jaxalex.errors import NotFiniteError, RunError
from jaxalex.networks.alexnet import build
from jaxalex.networks.tables import NETWORKS
from jaxalex.system import environment, files, interrupt, lock
from jaxalex.system.devices import choose_device
from jaxalex.training import (
    advice,
    augment,
    capacity,
    finetuning,
    folder,
    optim,
    placement,
    report,
    results,
)
from jaxalex.training.checkpoint import Checkpoints
from jaxalex.training.epochs import (
    Evaluation,
    compile_epoch,
    epoch_indices,
    evaluate,
    train_one_epoch,
)
from jaxalex.training.keeper import Keeper
from jaxalex.training.placement import Placed, Streaming, place
from jaxalex.training.progress import Progress, describe_run
from jaxalex.training.run import Run
from jaxalex.training.schedule import Schedule, Stopwatch, plateau_learning_rate
from jaxalex.training.state import TrainState, create_train_state, input_scale


def train_and_evaluate(
    config: TrainConfig, workdir: pathlib.Path | None, say: Callable[[str], None] = print, resume: bool = False
) -> dict[str, Any]:
    """Trains, evaluates after every epoch, tests after the last, and leaves everything in ``workdir``.

    Args:
      config: the run's configuration.
      workdir: a folder that does not exist yet or is empty; with ``resume``, one that holds a run. None makes a new
        one under ``runs/``, named after the time and the data set.
      say: gets every line for people.
      resume: go on with the run in ``workdir`` from its newest intact checkpoint. On the same device with the same
        number of cores the result is that of an unbroken run, bit for bit.

    Returns:
      the content of ``summary.json``.

    Raises:
      UsageError: the input cannot be used; nothing has been written.
      RunError: a loss or gradient stopped being finite, memory ran out or the disk failed; what was saved before
        stays.
      Stopped: a signal asked for it; everything is saved.
    """
    began = time.monotonic()
    if workdir is not None:
        folder.check(workdir, resume)
    device = choose_device(config.device, config.precision)
    start = finetuning.read(config, workdir, resume)
    sharding = placement.on_device(device)
    size = NETWORKS[config.model].image_size
    splits = data.load(
        config.dataset,
        config.data_dir,
        config.seed,
        limit_train=config.limit_train,
        limit_eval=config.limit_eval,
        image_size=augment.stored_size(size) if config.augment == "paper" else size,
        skip_bad=config.on_bad_image == "skip",
        room=placement.room_for_images(config.keep_decoded, sharding),
        workers=config.data_workers,
        download=not resume,  # what was begun with them has them somewhere
        notify=say,
    )
    init_key, dropout_key = jax.random.split(jax.device_put(jax.random.key(config.seed), sharding))
    from_file = config.normalize == "weights"
    sample = splits.train.sample() if _needs_statistics(config) else splits.train.take(np.arange(0)).images
    scale = finetuning.scale(start) if from_file else input_scale(config.normalize, sample)
    basis = augment.colour_basis(sample) if config.augment == "paper" else None
    del sample
    create = functools.partial(_initial_state, config, splits, scale, basis, init_key)
    capacity.check(create, config.width, splits, placement.free_bytes(sharding))
    # Waited for, so that whatever goes wrong does so here, and the state is in memory before what is free is read.
    state = jax.block_until_ready(finetuning.begin(start, create(config.width)))
    described = environment.describe_device(device)
    for line in report.header_lines(config, splits, results.count_parameters(state), state.image_hw[0], described):
        say(line)
    for line in finetuning.header_lines(config, start, splits.class_names, scale):
        say(line)
    del start  # gives back the memory that its parameters take
    train_set = place(splits.train, sharding)
    compiled = compile_epoch(state, train_set, config.batch_size, dropout_key, config.on_nonfinite == "skip")
    say(f"compiled in {compiled.compile_seconds:.1f} s")
    workdir = workdir or folder.make_new(data.short_name(config.dataset))
    with lock.hold(workdir) as check_lock, interrupt.watch() as asked:
        say(f"run folder {workdir}")
        folder.check(workdir, resume)  # again: until the lock was held another process could have begun there
        keeper = Keeper(
            Checkpoints(workdir / "checkpoints", config.keep),
            record=describe_run(config, splits, dropout_key, device),
            steps_per_epoch=-(-len(train_set) // config.batch_size),
            schedule=Schedule(*config_lib.parse_every(config.checkpoint_every)),
            workdir=workdir,
            asked=asked,
            stopwatch=Stopwatch(began),
            check_lock=check_lock,
        )
        run = Run(config, workdir, say, sharding, splits, dropout_key, compiled, keeper, _once(say, "note: left out: "))
        with advice.failures_explained(workdir, config, keeper.saved_step):
            state, progress = keeper.restore(state, say) if resume else (state, Progress())
            folder.remove_leftovers(workdir)
            files.write_whole(workdir / "config.json", config_lib.to_json(config))
            report.write_rows(workdir / "metrics.jsonl", progress.rows)
            state, progress = _train(run, state, train_set, progress)
            summary = results.test_and_write(run, state, progress)
    say(f"all of it is in {workdir}: summary.json, model.safetensors, curves.png, examples.png …")
    return summary


def _once(say: Callable[[str], None], before: str) -> Callable[[str], None]:
    """Says each line the first time only."""
    said: set[str] = set()

    def say_once(line: str) -> None:
        if line not in said:
            said.add(line)
            say(before + line)

    return say_once


def _needs_statistics(config: TrainConfig) -> bool:
    """Whether a run looks at its training pictures before it begins."""
    return config.normalize in ("dataset", "mean") or config.augment == "paper"


def _train(
    run: Run, state: TrainState, train_set: Placed | Streaming, progress: Progress
) -> tuple[TrainState, Progress]:
    """The remaining epochs."""
    config, splits, keeper = run.config, run.splits, run.keeper
    eval_set = place(splits.eval, run.sharding)
    for epoch in range(progress.epoch, config.num_epochs + 1):
        indices = epoch_indices(len(splits.train), config.batch_size, config.seed, epoch)
        description = f"epoch {epoch} of {config.num_epochs}"
        state, learning_rate = _with_learning_rate(run, state, progress)
        while progress.tally.step < len(indices):
            pause = functools.partial(keeper.due, epoch)
            state, tally = train_one_epoch(
                run.compiled,
                state,
                train_set,
                indices,
                run.dropout_key,
                description,
                progress.tally,
                pause,
                run.left_out,
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
        for problem in evaluation.problems:
            run.left_out(problem)
        row = _row(progress, evaluation, train_set, learning_rate)
        progress = Progress(epoch + 1, rows=(*progress.rows, row))
        run.say(report.epoch_line(row))
        keeper.save(state, progress, evaluation.accuracy)
        # After the checkpoint: rows without one mean that somebody took the checkpoints away.
        keeper.check_lock()
        report.append_row(run.workdir / "metrics.jsonl", row)
        if report.reaches_plateau(progress.rows, len(indices), splits.num_classes):
            run.say(report.plateau_hint(None if config.weights else config.init, splits.num_classes))
        keeper.stop_if_asked(state, progress)
    return state, progress


def _with_learning_rate(run: Run, state: TrainState, progress: Progress) -> tuple[TrainState, float | None]:
    """The state with the learning rate of the current epoch, which follows from the finished ones; None if constant."""
    config, rows = run.config, progress.rows
    if config.schedule == "constant":
        return state, None
    rate = plateau_learning_rate(config.learning_rate, [row.eval_accuracy for row in rows], config.patience)
    if rows and rate != rows[-1].learning_rate:
        run.say(f"learning rate {rate:g} from epoch {progress.epoch} on: the evaluation has stopped improving")
    return state.replace(opt_state=optim.with_learning_rate(state.opt_state, rate)), rate


def _row(
    progress: Progress, evaluation: Evaluation, train_set: Placed | Streaming, learning_rate: float | None
) -> report.EpochRow:
    tally = progress.tally
    return report.EpochRow(
        epoch=progress.epoch,
        train_loss=tally.loss,
        train_accuracy=tally.accuracy,
        eval_loss=evaluation.loss,
        eval_accuracy=evaluation.accuracy,
        seconds=tally.seconds,
        images_per_second=len(train_set) / tally.seconds,
        skipped_steps=tally.skipped,
        learning_rate=learning_rate,
        waiting_seconds=tally.waited if isinstance(train_set, Streaming) else None,
        unreadable=tally.unreadable + len(evaluation.problems),
    )


def _initial_state(
    config: TrainConfig,
    splits: data.Splits,
    scale: tuple[np.ndarray, np.ndarray],
    colour_basis: np.ndarray | None,
    key: jax.Array,
    width: float,
) -> TrainState:
    model = build(
        config.model,
        splits.num_classes,
        width,
        init=config.init,
        precision=config.precision,
    )
    sgd = optim.sgd if config.schedule == "constant" else optim.adjustable_sgd
    tx = sgd(config.learning_rate, config.momentum, config.weight_decay)
    size = NETWORKS[config.model].image_size
    # The state lies where the key does: a computation follows its arguments.
    return create_train_state(model, tx, key, (size, size, splits.train.image_shape[2]), *scale, colour_basis)
