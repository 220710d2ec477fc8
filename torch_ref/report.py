"""What a run shows: its header, its lines, its picture."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
    }


def device_name(device: torch.device) -> str:
    """A device, for people: the GPU's name, or the number of threads."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"{device.type} ({threads} thread{'' if threads == 1 else 's'})"


def header(summary: Mapping[str, Any], num_classes: int, width: float, workdir: Path) -> str:
    """The lines above a run: devices, versions, data set and sizes, network and parameters, folder."""
    sizes = ", ".join(f"{summary[f'{split}_size']:,} {split}" for split in ("train", "eval", "test"))
    network = summary["model"] + ("" if width == 1 else f" at width {width:g}")
    return "\n".join(
        [
            f"devices:    {', '.join(summary['devices'])}",
            f"versions:   {', '.join(f'{name} {version}' for name, version in summary['versions'].items())}",
            f"dataset:    {summary['dataset']}: {sizes} images, {num_classes} classes",
            f"model:      {network}: {summary['parameters']:,} parameters",
            f"workdir:    {workdir}",
        ]
    )


def epoch_line(row: Mapping[str, Any]) -> str:
    """An epoch's line.

    >>> epoch_line({"epoch": 1, "train_loss": 1.9312, "train_accuracy": 26.18, "eval_loss": 1.5529,
    ...             "eval_accuracy": 42.7})
    '[Epoch   1] train_loss: 1.931 train_acc: 26.180% eval_loss: 1.553 eval_acc: 42.700%'
    """
    return (
        f"[Epoch {row['epoch']:3d}] "
        f"train_loss: {row['train_loss']:.3f} train_acc: {row['train_accuracy']:.3f}% "
        f"eval_loss: {row['eval_loss']:.3f} eval_acc: {row['eval_accuracy']:.3f}%"
    )


def test_line(loss: float, accuracy: float) -> str:
    """The line of the test images; ``accuracy`` in percent.

    >>> test_line(1.553, 42.7)
    '[Test     ] loss: 1.553 acc: 42.700%'
    """
    return f"[Test     ] loss: {loss:.3f} acc: {accuracy:.3f}%"


def curves(rows: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Draws loss and accuracy by epoch, train and eval, as a PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    figure.suptitle(title)
    epochs = [row["epoch"] for row in rows]
    panels = figure.subplots(1, 2)
    for axes, quantity, label in zip(panels, ("loss", "accuracy"), ("loss", "accuracy (%)"), strict=True):
        for split, colour in (("train", "#4c72b0"), ("eval", "#dd8452")):
            values = [row[f"{split}_{quantity}"] for row in rows]
            axes.plot(epochs, values, color=colour, marker="o", markersize=4, linewidth=1.8, label=split)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    highest = max(max(row["train_loss"], row["eval_loss"]) for row in rows)
    panels[0].set_ylim(0, 1.08 * highest)
    panels[1].set_ylim(0, 100)
    figure.savefig(path)
