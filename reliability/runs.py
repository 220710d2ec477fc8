"""Training runs as real processes, and the comparison of two finished runs bit for bit."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

_TIMINGS = ("seconds", "images_per_second", "compile_seconds", "wall_seconds")
# 12 steps an epoch; checkpoints after 10, 12, 20, 24, 30 and 36 of them.
SMALL = ["--dataset", "digits", "--width", "0.05", "--limit-train", "90", "--limit-eval", "40", "--batch-size", "8"]
SMALL += ["--init", "flax", "--checkpoint-every", "10"]
# A process that was started in the background of a script ignores Ctrl-C, one under nohup SIGHUP, and so would its
# children.
_START = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
_START += "; signal.signal(signal.SIGHUP, signal.SIG_DFL)"
_START += "; from jaxalex import cli, train; cli.end(train.main())"


def start(*flags: str) -> subprocess.Popen[str]:
    """A real training process."""
    command = [sys.executable, "-W", "error", "-c", _START, *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], beginning: str) -> None:
    """Reads the process's output up to a line that starts with ``beginning``."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            return
    raise AssertionError(f"it ended without {beginning!r}: {process.stderr.read() if process.stderr else ''}")


def stop(process: subprocess.Popen[str], signal_number: signal.Signals) -> tuple[int, str, float]:
    """Sends a signal; gives exit code, stderr and the seconds until the process had ended."""
    began = time.monotonic()
    process.send_signal(signal_number)
    _, error = process.communicate(timeout=120)
    return process.returncode, error, time.monotonic() - began


def small(**changes: Any) -> Any:
    """The configuration that the flags `SMALL` stand for, with three epochs."""
    from jaxalex import config

    values = {"dataset": "digits", "width": 0.05, "limit_train": 90, "limit_eval": 40, "batch_size": 8, "init": "flax"}
    return config.from_recipe("baseline", values | {"checkpoint_every": "10", "num_epochs": 3} | changes)


def assert_same(run: pathlib.Path, other: pathlib.Path) -> None:
    """Bit for bit the same parameters, optimizer state, metrics and keys."""
    assert differences(run, other) == []


def like(settings: Any) -> Any:
    """A state of a configuration's network and optimizer, for ten classes of colour pictures."""
    import jax
    import numpy as np

    from jaxalex import models
    from jaxalex.system.devices import choose_device
    from jaxalex.training import optim
    from jaxalex.training.state import create_train_state

    choose_device("auto", "float32")  # without the traceback of a GPU plugin that finds no GPU
    half = np.full(3, 0.5)
    model = models.build(settings.model, 10, settings.width, init="flax")
    tx = optim.sgd(settings.learning_rate, settings.momentum, settings.weight_decay)
    size = models.NETWORKS[settings.model].image_size
    return create_train_state(model, tx, jax.random.key(9), (size, size, 3), half, half)


def outcome(run: pathlib.Path) -> dict[str, Any]:
    """All of a finished run that must not depend on how often it was interrupted."""
    import jax
    import numpy as np

    from jaxalex import config
    from jaxalex.training.checkpoint import Checkpoints

    found = Checkpoints(run / "checkpoints").restore(like(config.read(run)), print)
    assert found is not None, f"{run}: holds no checkpoint"
    step, state, record = found
    leaves = jax.tree_util.tree_leaves_with_path((state.params, state.opt_state, state.step))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    return {
        "step": step,
        "dropout_key": record["dropout_key"],
        "rows": [{name: value for name, value in row.items() if name not in _TIMINGS} for row in rows],
        "summary": {name: value for name, value in summary.items() if name not in _TIMINGS},
        "model.safetensors": (run / "model.safetensors").read_bytes(),
        **{jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves},
    }


def differences(run: pathlib.Path, other: pathlib.Path) -> list[str]:
    """Names of the parameters, optimizer states, metrics and keys in which two finished runs differ."""
    a, b = outcome(run), outcome(other)
    return [name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]
