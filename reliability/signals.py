"""Sends training runs signals at random moments: ``python -m reliability.signals --moments 100``.

An unbroken run comes first. A second one is started and resumed again and again, with programs compiled anew or from
a cache, and each process gets Ctrl-C, SIGTERM or SIGHUP at a random moment between its start and its end. Each must
end with the signal's exit code and at most one line on stderr, and no signal may be lost; the run must come to the
unbroken one's result, bit for bit. Otherwise the exit code is 1.
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

from reliability.runs import SMALL, differences, start

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Until its own code runs Python answers a signal by itself: it dies of it, for Ctrl-C with a traceback.
_BEFORE_THE_COMMAND = 0.3


def _one(flags: list[str], number: signal.Signals, after: float) -> tuple[str, float]:
    """Starts a process, sends it a signal, and judges how it ended; returns that in words, and the seconds it took.

    Raises:
      SystemExit: the signal was lost, or the process did not end as it should.
    """
    began = time.monotonic()
    with start(*flags) as process:
        try:
            output, error = process.communicate(timeout=after)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            sent = time.monotonic()
            output, error = process.communicate()
        else:
            if process.returncode:
                raise SystemExit(f"{flags} ended with {process.returncode} without a signal: {error}") from None
            return "ended before", 0.0
    seconds = time.monotonic() - sent
    what = f"{number.name} after {sent - began:.2f} s: exit code {process.returncode} after {seconds:.2f} s"
    done = "all of it is in" in output
    if process.returncode == 128 + number and error.count("\n") == 1 and error.startswith("error: stopped by"):
        return f"{number.name}, saved" if "saved up to" in error else f"{number.name}, nothing to save", seconds
    if process.returncode == -number and (after < _BEFORE_THE_COMMAND or done):
        return f"{number.name}, outside of the command", seconds
    if process.returncode == 0 and done and seconds < 1 and not error:  # it came after the last check
        return f"{number.name}, when all was done", seconds
    raise SystemExit(f"{what}\n{flags}\n{output}\n{error}")


def main() -> int:
    """Runs the command; see the module's docstring. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m reliability.signals", description=__doc__)
    parser.add_argument("--moments", type=int, default=100, metavar="N", help="signals to send (default 100)")
    parser.add_argument("--num-epochs", type=int, default=40, metavar="N", help="of the runs (default 40)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments")
    flags = parser.parse_args()

    folder = pathlib.Path(tempfile.mkdtemp(prefix="signals-"))
    whole, run, rng = folder / "whole", folder / "run", random.Random(flags.seed)
    begin = [*SMALL, "--num-epochs", str(flags.num_epochs)]
    caches = ["off", str(folder / "cache")]
    began = time.monotonic()
    _one([*begin, "--workdir", str(whole), "--compilation-cache", caches[1]], signal.SIGKILL, 3600)
    length = time.monotonic() - began
    counts: Counter[str] = Counter()
    slowest, runs = 0.0, 0
    while sum(counts.values()) - counts["ended before"] < flags.moments:
        begun = (run / "config.json").exists()
        goal = ["--resume", str(run)] if begun else [*begin, "--workdir", str(run)]
        cache = rng.choice(caches)
        came, seconds = _one([*goal, "--compilation-cache", cache], rng.choice(_SIGNALS), rng.uniform(0, length))
        counts[came] += 1
        slowest = max(slowest, seconds)
        print(f"{sum(counts.values()):3}: {came} in {seconds:.2f} s", flush=True)
        if (run / "summary.json").exists():
            found = differences(whole, run)
            if found:
                raise SystemExit(f"the runs differ in {', '.join(found)}")
            shutil.rmtree(run)
            runs += 1
    print(
        f"{dict(sorted(counts.items()))}; the longest stop took {slowest:.1f} s; {runs} runs came to their end, each "
        "the same as the unbroken one"
    )
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
