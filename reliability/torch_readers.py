"""Everything in `torch_ref` that reads a file a stranger may have made: see `reliability.readers`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from reliability.reader import Reader

USAGE_ERRORS = ("torch_ref.cli",)


@functools.cache
def _network() -> Any:
    """A tiny network's arrays and metadata."""
    import torch

    from torch_ref import models, weights

    torch.manual_seed(0)
    network = models.build("cifar10", 10, width=0.02)
    metadata = weights.metadata_of("cifar10", "digits", weights.CLASS_NAMES["digits"], 32, 0.02)
    return network.state_dict(), metadata


def _make_pth(folder: Path) -> list[Path]:
    from torch_ref import weights

    weights.write_pth(_network()[0], folder / "model.pth")
    return [folder / "model.pth"]


def _make_old_pth(folder: Path) -> list[Path]:
    """As PyTorch wrote them before version 1.6, and still reads."""
    import torch

    torch.save(dict(_network()[0]), folder / "model.pth", _use_new_zipfile_serialization=False)
    return [folder / "model.pth"]


def _make_safetensors(folder: Path) -> list[Path]:
    from torch_ref import weights

    arrays, metadata = _network()
    weights.write_safetensors(arrays, metadata, folder / "model.safetensors")
    return [folder / "model.safetensors"]


def _export(source: str, target: str) -> Any:
    def read(folder: Path) -> None:
        from torch_ref.export import convert

        convert(folder / source, folder / target, force=True, given={"dataset": "digits"})

    return read


READERS = {
    "pth": Reader(_make_pth, _export("model.pth", "model.safetensors")),
    "old pth": Reader(_make_old_pth, _export("model.pth", "model.safetensors")),
    "safetensors": Reader(_make_safetensors, _export("model.safetensors", "model.pth")),
}
