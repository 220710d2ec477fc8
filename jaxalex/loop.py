"""The whole of a training run: data, network, steps and reports, in the order of the data flow."""

from __future__ import annotations

import math
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from jaxalex import config as config_lib
from jaxalex import data, environment, models, optim, report
from jaxalex.checkpoint import Checkpoints
from jaxalex.config import TrainConfig
from jaxalex.data.stats import normalization
from jaxalex.devices import choose_device
from jaxalex.epochs import compile_epoch, epoch_indices, evaluate, place, train_one_epoch
from jaxalex.errors import UsageError
from jaxalex.state import TrainState, create_train_state
from jaxalex.weights import Description, save_weights

# Steps with a mean loss of ln(classes), give or take a hundredth of it, after which the trainer says so.
_PLATEAU_STEPS = 100


def train_and_evaluate(
    config: TrainConfig, workdir: pathlib.Path, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Trains, evaluates after every epoch, tests after the last, and leaves everything in ``workdir``.

    Args:
      config: what to do.
      workdir: a folder that is not there yet, or is empty.
      say: gets every line for people.

    Returns:
      the content of ``summary.json``.

    Raises:
      UsageError: for input that cannot be used; nothing has been written then.
      RunError: if the loss stops being finite.
    """
    began = time.perf_counter()
    check_workdir(workdir)
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
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))

    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(config_lib.to_json(config))
    for line in _header(config, splits, parameters, device, workdir):
        say(line)
    train_set, eval_set, test_set = (place(part, device) for part in (splits.train, splits.eval, splits.test))
    compiled = compile_epoch(state, train_set, config.batch_size, dropout_key)
    say(f"compiled in {compiled.compile_seconds:.1f} s")

    rows: list[report.EpochRow] = []
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        for epoch in range(1, config.num_epochs + 1):
            indices = epoch_indices(len(splits.train), config.batch_size, config.seed, epoch)
            description = f"epoch {epoch} of {config.num_epochs}"
            state, trained = train_one_epoch(compiled, state, train_set, indices, dropout_key, description)
            evaluation = evaluate(state, eval_set)
            row = report.EpochRow(
                epoch=epoch,
                train_loss=trained.loss,
                train_accuracy=trained.accuracy,
                eval_loss=evaluation.loss,
                eval_accuracy=evaluation.accuracy,
                seconds=trained.seconds,
                images_per_second=len(splits.train) / trained.seconds,
            )
            rows.append(row)
            say(report.epoch_line(row))
            report.append_row(workdir / "metrics.jsonl", row)
            checkpoints.save(epoch, state, evaluation.accuracy)
            if reaches_plateau(rows, len(indices), splits.num_classes):
                say(_plateau_hint(config, splits.num_classes))

    test = evaluate(state, test_set)
    say(report.test_line(test.loss, test.accuracy))
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
        "compile_seconds": compiled.compile_seconds,
        "wall_seconds": time.perf_counter() - began,
        "devices": [environment.describe_device(device)],
        "versions": environment.versions(),
        "parameters": parameters,
    }
    save_weights(workdir / "model.safetensors", state.params, _description(config, splits, state))
    report.write_curves(workdir / "curves.png", rows, f"{config.model} on {splits.name}, {config.recipe}")
    pictures, labels, names = splits.test.images, splits.test.labels, splits.class_names
    report.write_predictions(workdir / "predictions.png", pictures, labels, test.logits, names)
    report.write_confusion(workdir / "confusion.png", labels, test.logits, names)
    report.write_json(workdir / "summary.json", summary)
    return summary


def check_workdir(workdir: pathlib.Path) -> None:
    """Refuses a folder that holds anything: a run is never overwritten.

    Raises:
      UsageError: naming the folder.
    """
    if workdir.is_dir() and (workdir / "config.json").exists():
        raise UsageError(f"{workdir}: already holds a run, which is never overwritten: choose another --workdir")
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UsageError(f"{workdir}: is not an empty folder: choose another --workdir")


def _initial_state(config: TrainConfig, splits: data.Splits, key: jax.Array) -> TrainState:
    model = models.build(
        config.model,
        splits.num_classes,
        config.width,
        init=config.init,
        precision=config.precision,
    )
    tx = optim.sgd(config.learning_rate, config.momentum, config.weight_decay)
    mean, std = normalization(config.normalize, splits.train.images)
    size = models.MODELS[config.model].image_size
    # On the key's device: everything that it is computed with follows it there.
    return create_train_state(model, tx, key, (size, size, splits.train.images.shape[3]), mean, std)


def _header(
    config: TrainConfig, splits: data.Splits, parameters: int, device: jax.Device, workdir: pathlib.Path
) -> list[str]:
    height, width, channels = splits.train.images.shape[1:]
    found = environment.versions()
    names = ("jaxalex", "jax", "flax", "optax", "python")
    decay = f", weight decay {config.weight_decay:g}" if config.weight_decay else ""
    size = models.MODELS[config.model].image_size
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


def reaches_plateau(rows: list[report.EpochRow], steps_per_epoch: int, num_classes: int) -> bool:
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
