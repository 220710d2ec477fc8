"""What the chip can do, measured: the rate of a large matrix product, and of a large copy."""

from __future__ import annotations

import math
import pathlib
import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

from benchmarks.process import Worker

_SIZES = {"cpu": ((1024, 2048), 2**26), "gpu": ((8192, 16384), 2**29)}
_QUICK = ((256,), 2**20)
_SAMPLES, _SAMPLE_SECONDS = 5, 0.3


def measure(device: str, precisions: Sequence[str], quick: bool) -> dict[str, Any]:
    """Measures both frameworks in turn; the better one is the chip's rate.

    Args:
      device: ``"cpu"`` or ``"gpu"``.
      precisions: in which to multiply.
      quick: small arrays and short samples.

    Returns:
      ``{"device", "matmul_flops_per_second": {precision: {"jax", "torch", "best", "size"}},
      "copy_bytes_per_second": {"jax", "torch", "best", "bytes"}, "n"}``: medians; a copy's bytes are those read and
      those written.
    """
    sizes, numbers = _QUICK if quick else _SIZES[device]
    matmul = {}
    for precision in precisions:
        rates = [{**_in_turn(device, "matmul", precision, size, 2 * size**3, quick), "size": size} for size in sizes]
        matmul[precision] = max(rates, key=lambda rate: rate["best"])
    moved = 2 * 4 * numbers
    return {
        "device": device,
        "matmul_flops_per_second": matmul,
        "copy_bytes_per_second": {**_in_turn(device, "copy", "float32", numbers, moved, quick), "bytes": moved},
        "n": _SAMPLES,
    }


def _in_turn(device: str, kind: str, precision: str, size: int, work: int, quick: bool) -> dict[str, float]:
    sample_seconds = 0.02 if quick else _SAMPLE_SECONDS
    with (
        tempfile.TemporaryDirectory() as folder,
        Worker("jax", pathlib.Path(folder)) as jax_worker,
        Worker("torch", pathlib.Path(folder)) as torch_worker,
    ):
        workers = {"jax": jax_worker, "torch": torch_worker}
        calls = {}
        for name, worker in workers.items():
            worker.ask("hello", device=device, precision=precision)
            worker.ask("roofline", kind=kind, precision=precision, size=size)
            seconds = worker.ask("sample", program="roofline", calls=3)["seconds"] / 3
            seconds = worker.ask("sample", program="roofline", calls=3)["seconds"] / 3  # the first ones were warm-up
            calls[name] = max(1, math.ceil(sample_seconds / max(seconds, 1e-9)))
        rates: dict[str, list[float]] = {"jax": [], "torch": []}
        for _ in range(_SAMPLES):
            for name, worker in workers.items():
                seconds = worker.ask("sample", program="roofline", calls=calls[name])["seconds"]
                rates[name].append(work * calls[name] / seconds)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return medians | {"best": max(medians.values())}
