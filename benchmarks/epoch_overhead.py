"""How much of the bare compiled step's speed is left in a training epoch: ``python -m benchmarks.epoch_overhead``.

The two run in turn, in one process, on the same images: A, an epoch as `jaxalex.train` runs it (order, placement on
the device, metrics, progress); B, the same compiled step called as often, with nothing around it. Compilation and one
warm-up of each come first.
"""

from __future__ import annotations

import json
import pathlib
import statistics
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import flags
from jaxalex import cli
from jaxalex.system import settings


def measure(batch_size: int, num_steps: int, pairs: int, device_name: str, width: float) -> dict[str, Any]:
    """Measures both in pairs; images/s as medians over the pairs, with quartiles of their ratio."""
    import jax
    import numpy as np

    from jaxalex import models
    from jaxalex.data import ImageSet
    from jaxalex.system import environment
    from jaxalex.system.devices import choose_device
    from jaxalex.training import epochs, optim, placement
    from jaxalex.training.state import create_train_state

    device = choose_device(device_name, "float32")
    rng = np.random.default_rng(0)
    size = batch_size * num_steps
    labels = rng.integers(0, 10, size, dtype=np.int32)
    images = ImageSet(rng.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8), labels)
    half = np.full(3, 0.5, np.float32)
    key = jax.device_put(jax.random.key(0), device)
    state = create_train_state(models.build("cifar10", width=width), optim.sgd(0.01, 0.9), key, (32, 32, 3), half, half)
    placed = placement.place(images, placement.on_device(device))
    compiled = epochs.compile_epoch(state, placed, batch_size, key)
    step = compiled.programs[compiled.steps_per_dispatch]
    calls = num_steps // compiled.steps_per_dispatch
    data, rows, *_ = next(placed.dispatches(epochs.epoch_indices(size, batch_size, 0, 0), compiled.steps_per_dispatch))

    epoch_rates, step_rates = [], []
    for pair in range(pairs + 1):
        indices = epochs.epoch_indices(size, batch_size, 0, pair)
        state, result = epochs.train_one_epoch(compiled, state, placed, indices, key, "measuring")
        start = time.perf_counter()
        for _ in range(calls):
            state, metrics = step(state, data, rows, key)
        jax.block_until_ready((state, metrics))
        seconds = time.perf_counter() - start
        if pair:  # the first is warm-up
            epoch_rates.append(size / result.seconds)
            step_rates.append(calls * compiled.steps_per_dispatch * batch_size / seconds)
    ratios = [a / b for a, b in zip(epoch_rates, step_rates, strict=True)]
    return {
        "what": "images/s of a training epoch over those of its bare compiled step, float32",
        "model": "cifar10",
        "width": width,
        "batch_size": batch_size,
        "steps": num_steps,
        "pairs": pairs,
        "epoch_images_per_second": statistics.median(epoch_rates),
        "step_images_per_second": statistics.median(step_rates),
        "ratio_median": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
        "device": environment.describe_device(device),
        "versions": environment.versions(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see ``--help``. Returns the exit code."""

    def command() -> None:
        parser = cli.Parser("python -m benchmarks.epoch_overhead", __doc__ or "")
        parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="default 32")
        parser.add_argument("--steps", type=int, default=30, metavar="N", help="steps an epoch (default 30)")
        parser.add_argument("--pairs", type=int, default=5, metavar="N", help="counted pairs, at least 2 (default 5)")
        parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto", help="default auto")
        parser.add_argument("--width", type=float, default=1.0, metavar="F", help="of the network (default 1.0)")
        parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the result there, too")
        args = parser.parse(argv)
        flags.check(args, pairs=2)
        settings.start_jax()
        result = measure(args.batch_size, args.steps, args.pairs, args.device, args.width)
        text = json.dumps(result, indent=2)
        print(text)
        if args.json:
            args.json.write_text(text + "\n")

    return cli.run(command)


if __name__ == "__main__":
    cli.end(main())
