"""The whole of a training run: data, network, epochs, test, and what is left in the folder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn, optim
from torch.utils.data import DataLoader
from tqdm import tqdm

from torch_ref import data, models, report, weights
from torch_ref.cli import RunError, UsageError
from torch_ref.config import Config
from torch_ref.training import Mean, SoftmaxCrossEntropyLoss, evaluate, train_epoch

FILES = ("config.json", "metrics.jsonl", "summary.json", "curves.png", "model.pth")


def train_and_evaluate(config: Config, workdir: Path | None = None) -> dict[str, Any]:
    """Trains as ``config`` says, tests, and leaves the five ``FILES`` in ``workdir``.

    Args:
      config: the options, each within its range.
      workdir: folder to make or fill; None makes a new one under ``runs/``.

    Returns:
      What ``summary.json`` holds.

    Raises:
      UsageError: before anything is written, for absent data, an absent GPU or a folder that holds a run.
      RunError: when a loss is not finite.
    """
    start = time.perf_counter()
    _refuse_used(workdir)
    device = find_device(config.device)
    image_size = weights.IMAGE_SIZES[config.model]
    splits = data.load(config.dataset, config.data_dir, image_size, config.seed, config.limit_train, config.limit_eval)
    torch.manual_seed(config.seed)
    model = models.build(config.model, len(splits.class_names), width=config.width).to(device)
    workdir = _make(workdir, config)
    summary: dict[str, Any] = {
        "dataset": config.dataset,
        "model": config.model,
        "epochs": config.num_epochs,
        "train_size": len(splits.train),
        "eval_size": len(splits.eval),
        "test_size": len(splits.test),
        "devices": [report.device_name(device)],
        "versions": report.versions(),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    metadata = weights.metadata_of(config.model, config.dataset, splits.class_names, image_size, config.width)
    _write_json(workdir / "config.json", {**dataclasses.asdict(config), "metadata": metadata})
    print(report.header(summary, len(splits.class_names), config.width, workdir), flush=True)

    rows, test = _fit(config, model, splits, device, workdir)
    report.curves(rows, f"AlexNet ({config.model}) on {config.dataset}, PyTorch", workdir / "curves.png")
    train_seconds = sum(row["seconds"] for row in rows)
    summary |= {
        "test_loss": test.loss,
        "test_accuracy": test.accuracy,
        "images_per_second": len(splits.train) * len(rows) / train_seconds,
        "compile_seconds": 0.0,  # eager: nothing is compiled
        "wall_seconds": time.perf_counter() - start,
    }
    _write_json(workdir / "summary.json", summary)
    return summary


def find_device(name: str) -> torch.device:
    """The device called ``"auto"``, ``"cpu"`` or ``"gpu"``; on a GPU float32 means float32, not TF32.

    Raises:
      UsageError: for ``"gpu"`` where there is none.
    """
    has_gpu = torch.cuda.is_available()
    if name == "gpu" and not has_gpu:
        raise UsageError("--device gpu: PyTorch finds no GPU here; --device cpu runs without one")
    if name == "cpu" or not has_gpu:
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = False  # which its convolutions take unless told otherwise
    return torch.device("cuda")


def _fit(
    config: Config, model: nn.Module, splits: data.Splits, device: torch.device, workdir: Path
) -> tuple[list[dict[str, Any]], Mean]:
    """All epochs, a row of metrics for each, then the test; the weights are saved after every epoch."""
    shuffle = torch.Generator().manual_seed(config.seed)
    train_loader = DataLoader(splits.train, config.batch_size, shuffle=True, generator=shuffle)
    eval_loader = DataLoader(splits.eval, config.batch_size)
    test_loader = DataLoader(splits.test, config.batch_size)
    criterion = SoftmaxCrossEntropyLoss() if config.softmax_in_network else nn.CrossEntropyLoss()
    optimizer = optim.SGD(
        model.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    rows = []
    for epoch in range(1, config.num_epochs + 1):
        start = time.perf_counter()
        title = f"Epoch {epoch}/{config.num_epochs}"
        size = len(splits.train)
        with tqdm(total=size, desc=title, unit="img", leave=False, file=sys.stderr) as bar:

            def progress(images: int, loss: float, bar: Any = bar) -> None:
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update(images)

            train = train_epoch(model, train_loader, criterion, optimizer, device, epoch, progress)
        seconds = time.perf_counter() - start
        evaluation = _finite(evaluate(model, eval_loader, criterion, device), f"after epoch {epoch}")
        row = {
            "epoch": epoch,
            "train_loss": train.loss,
            "train_accuracy": train.accuracy,
            "eval_loss": evaluation.loss,
            "eval_accuracy": evaluation.accuracy,
            "seconds": seconds,
            "images_per_second": size / seconds,
        }
        rows.append(row)
        with (workdir / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        weights.write_pth(model.state_dict(), workdir / "model.pth")
        print(report.epoch_line(row), flush=True)
    test = _finite(evaluate(model, test_loader, criterion, device), "on the test images")
    print(report.test_line(test.loss, test.accuracy), flush=True)
    return rows, test


def _finite(mean: Mean, where: str) -> Mean:
    if not math.isfinite(mean.loss):
        raise RunError(f"the loss is {mean.loss} {where}: try a lower learning rate")
    return mean


def _refuse_used(workdir: Path | None) -> None:
    if workdir is None:
        return
    if workdir.exists() and not workdir.is_dir():
        raise UsageError(f"{workdir} is not a folder")
    held = [name for name in FILES if os.path.lexists(workdir / name)]  # a link, too: it may lead to a new file
    if held:
        raise UsageError(f"{workdir} already holds a run ({', '.join(held)}): give another --workdir")


def _make(workdir: Path | None, config: Config) -> Path:
    """Makes the run's folder: the one given, or one that no other run has."""
    try:
        if workdir is not None:
            workdir.mkdir(parents=True, exist_ok=True)
            return workdir
        stamp = time.strftime("%Y%m%d-%H%M%S")
        for suffix in ("", *(f"-{i}" for i in range(2, 100))):
            new = Path("runs") / f"torch-{config.dataset}-{config.model}-{stamp}{suffix}"
            with contextlib.suppress(FileExistsError):  # another run's, perhaps made just now
                new.mkdir(parents=True)
                return new
    except OSError as error:
        raise UsageError(f"cannot make the run's folder: {error}") from error
    raise UsageError("no free name under runs/: give --workdir")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
