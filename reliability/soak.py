"""Kills real training runs at random moments: ``python -m reliability.soak --kills 30``.

An unbroken run of the quick start comes first. A second one is killed with SIGKILL again and again, is resumed each
time, and is asked to stop with SIGTERM and Ctrl-C as well. Both must come to the same parameters, optimizer state and
metrics, bit for bit, and no resume may find the folder unreadable; otherwise the exit code is 1.
"""

from __future__ import annotations

import argparse
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter

from reliability.runs import differences, start


def _finish(*flags: str) -> str:
    with start(*flags) as process:
        output, error = process.communicate()
    if process.returncode:
        raise SystemExit(f"training ended with {process.returncode}: {error}")
    return output


def _wait_for(process: subprocess.Popen[str], beginning: str) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(beginning):
            break
    return lines


def _interrupt(run: pathlib.Path, begin: list[str], number: signal.Signals, rng: random.Random) -> tuple[str, float]:
    """Starts or resumes the run and sends it a signal at a random moment; returns how it ended, and the seconds."""
    begun = (run / "config.json").exists()
    with start(*(["--resume", str(run)] if begun else [*begin, "--workdir", str(run)])) as process:
        lines = []
        if number != signal.SIGKILL or rng.random() < 0.85:  # else somewhere in the start
            lines = _wait_for(process, "going on" if begun and (run / "checkpoints").exists() else "compiled")
        time.sleep(rng.uniform(0.5, 12))
        sent = time.monotonic()
        process.send_signal(number)
        output, error = process.communicate()
        seconds = time.monotonic() - sent
    if process.returncode == 0:
        return "finished before", seconds
    expected = -signal.SIGKILL if number == signal.SIGKILL else 128 + number
    if process.returncode != expected:
        raise SystemExit(f"{number.name} ended with {process.returncode}, not {expected}: {error}")
    warned = any(line.startswith("warning") for line in [*lines, *output.splitlines()])
    return f"{number.name}{', a damaged checkpoint passed over' if warned else ''}", seconds


def main() -> int:
    """Runs the command; see the module's docstring. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m reliability.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=30, metavar="N", help="SIGKILLs that must hit (default 30)")
    parser.add_argument("--stops", type=int, default=3, metavar="N", help="of each, SIGTERM and Ctrl-C (default 3)")
    parser.add_argument("--width", type=float, default=1.0, metavar="F", help="of the network (default 1.0, full)")
    parser.add_argument("--num-epochs", type=int, default=4, metavar="N", help="of the runs (default 4)")
    parser.add_argument("--every", default="4", metavar="N", help="steps between checkpoints (default 4)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments")
    flags = parser.parse_args()

    folder = pathlib.Path(tempfile.mkdtemp(prefix="soak-"))
    whole, run, rng = folder / "whole", folder / "run", random.Random(flags.seed)
    begin = ["--recipe", "quickstart", "--width", str(flags.width), "--num-epochs", str(flags.num_epochs)]
    begin += ["--checkpoint-every", flags.every]
    _finish(*begin, "--workdir", str(whole))
    counts: Counter[str] = Counter()
    signals = [signal.SIGKILL] * flags.kills + [signal.SIGTERM, signal.SIGINT] * flags.stops
    rng.shuffle(signals)
    halves, slowest, runs = 0, 0.0, 1
    while signals:
        came, seconds = _interrupt(run, begin, signals[-1], rng)
        counts[came] += 1
        if came == "finished before":  # compared, and begun anew for the signals that are left
            _compare(differences(whole, run))
            shutil.rmtree(run)
            runs += 1
            continue
        if signals.pop() == signal.SIGKILL:
            halves += any((run / "checkpoints").glob("*.partial"))
        else:
            slowest = max(slowest, seconds)
        print(f"{len(signals):3} to go: {came} in {seconds:.1f} s", flush=True)
    if run.exists():
        _finish("--resume", str(run))
    else:
        _finish(*begin, "--workdir", str(run))
    _compare(differences(whole, run))
    print(
        f"{dict(counts)}; {halves} kills hit a checkpoint being written; {runs} runs, each the same as the unbroken "
        f"one; the longest stop after SIGTERM or Ctrl-C took {slowest:.1f} s"
    )
    shutil.rmtree(folder)
    return 0


def _compare(found: list[str]) -> None:
    if found:
        raise SystemExit(f"the runs differ in {', '.join(found)}")


if __name__ == "__main__":
    sys.exit(main())
