"""Running the real commands of both programs, with the time of every line they print."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.process import ROOT, Tether
from benchmarks.protocol import one_line
from jaxalex.errors import RunError

# The last line that each prints before its first step.
_READY = {"jaxalex.train": "compiled in ", "torch_ref.train": "workdir:"}


def timed(arguments: Sequence[str], timeout: float | None = None) -> tuple[float, list[tuple[float, str]]]:
    """Runs ``python -m`` with arguments.

    Returns:
      wall seconds of the process, and each line of its output with the seconds after which it came.

    Raises:
      RunError: if it fails or does not end in time.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    unwanted = {"JAX_COMPILATION_CACHE_DIR"}
    env = {k: v for k, v in os.environ.items() if k not in unwanted} | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", *arguments]
    lines = []
    start = time.perf_counter()
    with tempfile.TemporaryFile(mode="w+", errors="replace") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=env, start_new_session=True
        )
        tether = Tether(process)
        timer = threading.Timer(threading.TIMEOUT_MAX if timeout is None else timeout, process.kill)
        timer.daemon = True
        with process:
            try:
                timer.start()
                assert process.stdout is not None
                for line in process.stdout:
                    lines.append((time.perf_counter() - start, line.rstrip("\n")))
                code = process.wait()
            finally:  # stopped ourselves: it must not go on alone
                timer.cancel()
                tether.kill()
        seconds = time.perf_counter() - start
        errors.seek(0)
        last = one_line("\n".join(reversed(errors.read().splitlines()[-20:])))
    if code:
        late = timeout is not None and seconds >= timeout
        reason = f"did not end within {timeout:.0f} s" if late else f"exit code {code}: {last}"
        raise RunError(f"python -m {arguments[0]}: {reason}")
    return seconds, lines


def training(
    program: str, flags: Sequence[str], cache: pathlib.Path | None = None, timeout: float | None = None
) -> dict[str, Any]:
    """One training run, in a folder that is thrown away.

    Args:
      program: ``"jaxalex.train"`` or ``"torch_ref.train"``.
      flags: of the command, without ``--workdir``.
      cache: the compilation cache's folder, for JAX; None means none.
      timeout: seconds after which the run has failed.

    Returns:
      ``wall_seconds`` of the process, ``ready_seconds`` (until the first step could begin), ``first_step_seconds``
      (until the end of the first epoch's steps), ``epoch_seconds``, a list, ``train_size`` and ``test_accuracy``.

    Raises:
      RunError: if the run fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder) / "run"
        arguments = [program, *flags, "--workdir", str(workdir)]
        if program == "jaxalex.train":
            arguments += ["--compilation-cache", str(cache) if cache else "off"]
        wall, lines = timed(arguments, timeout)
        epochs = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        summary = json.loads((workdir / "summary.json").read_text())
    ready = next(seconds for seconds, line in lines if line.startswith(_READY[program]))
    return {
        "wall_seconds": wall,
        "ready_seconds": ready,
        "first_step_seconds": ready + epochs[0]["seconds"],
        "epoch_seconds": [epoch["seconds"] for epoch in epochs],
        "train_size": summary["train_size"],
        "test_accuracy": summary["test_accuracy"],
        "device": summary["devices"][0],
    }
