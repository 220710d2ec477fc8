"""What is measured: settings, the variants of each framework, and which two figures may be divided by each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxalex.errors import UsageError
from jaxalex.networks.tables import NETWORKS

MODELS = tuple(NETWORKS)
MODES = ("train", "infer")
PRECISIONS = ("float32", "tf32", "bfloat16")
DEVICES = ("cpu", "gpu")
BATCH_SIZES = {"cpu": (1, 32, 128), "gpu": (1, 32, 128, 512, 1024)}
# Rows of each framework, the likely winner first. PyTorch's compiled ones use channels_last, too.
JAX_VARIANTS = {"train": ("train_step", "train_epoch"), "infer": ("eval_step",)}
TORCH_VARIANTS = ("channels_last", "eager", "compile", "compile max-autotune")
# What two rows must share before one may be divided by the other.
SAME = ("model", "mode", "batch_size", "precision", "device", "width", "inputs")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One comparison.

    Attributes:
      model: ``"cifar10"`` or ``"paper"``.
      mode: ``"train"`` (forward, backward and momentum update) or ``"infer"``.
      batch_size: images a step.
      precision: ``"float32"``, ``"tf32"`` or ``"bfloat16"``.
      device: ``"cpu"`` or ``"gpu"``.
      width: factor on hidden channels and units.
    """

    model: str
    mode: str
    batch_size: int
    precision: str
    device: str
    width: float = 1.0

    def __str__(self) -> str:
        narrow = "" if self.width == 1 else f", width {self.width:g}"
        return f"{self.model}, {self.mode}, batch {self.batch_size}, {self.precision}, {self.device}{narrow}"


def plan(
    models: Sequence[str],
    modes: Sequence[str],
    batch_sizes: Sequence[int],
    precisions: Sequence[str],
    device: str,
    width: float,
) -> list[Setting]:
    """Every combination, small batches first.

    Raises:
      UsageError: for TF32 on the CPU.

    >>> [str(s) for s in plan(["paper"], ["infer"], [8, 1], ["float32"], "cpu", 1.0)]
    ['paper, infer, batch 1, float32, cpu', 'paper, infer, batch 8, float32, cpu']
    """
    if device == "cpu" and "tf32" in precisions:
        raise UsageError("--precision tf32: a CPU has no TF32; use float32 or bfloat16")
    return [
        Setting(model, mode, batch_size, precision, device, width)
        for precision in precisions
        for model in models
        for mode in modes
        for batch_size in sorted(set(batch_sizes))
    ]


def check_comparable(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Refuses to compare two rows that were not measured alike.

    Raises:
      UsageError: listing every value in which they differ.

    >>> row = dict.fromkeys(SAME, 1)
    >>> check_comparable(row, {**row, "precision": "bfloat16"})
    Traceback (most recent call last):
    ...
    jaxalex.errors.UsageError: no ratio between rows that differ: precision 1 and bfloat16
    """
    differ = [f"{name} {ours.get(name)} and {theirs.get(name)}" for name in SAME if ours.get(name) != theirs.get(name)]
    if differ:
        raise UsageError(f"no ratio between rows that differ: {', '.join(differ)}")
