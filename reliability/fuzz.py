"""Damages files by chance and reads them: ``python -m reliability.fuzz --minutes 20``.

The content of a file is damaged, or a link, a pipe, a device … takes its place. Each input must be read, or refused in
one line that names the file or its folder; within 10 seconds, within bounds of memory, and what links lead to must stay
as it is. Whatever else happens is a failure; the input is kept, and the exit code is 1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import pathlib
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from reliability import strange
from reliability.mutate import damaged

SECONDS = 10
MEGABYTES = 1024


@dataclasses.dataclass
class Outcome:
    """Results: counts by reader and outcome, and a line for each failure."""

    counts: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)
    failures: list[str] = dataclasses.field(default_factory=list)
    slowest: float = 0.0
    megabytes: float = 0.0

    @property
    def inputs(self) -> int:
        return self.counts.total()


class _TooSlow(BaseException):
    """A reader took too long. A BaseException, so that no reader catches it by accident."""


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    computed, asked = time.process_time(), 0

    def expire(*_: object) -> None:
        nonlocal asked
        asked += 1
        if time.process_time() - computed < seconds / 2 and asked < 6:  # somebody else had the processor: wait on
            signal.setitimer(signal.ITIMER_REAL, seconds)
            return
        raise _TooSlow(f"took more than {asked * seconds} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Trial:
    """One reader with its files: damages one of them at a time.

    Args:
      name, reader: what is tried.
      folder: empty; the whole files, and the damaged copies, lie in it.
      usage_errors: the exceptions that are a proper refusal.
    """

    def __init__(self, name: str, reader: Any, folder: pathlib.Path, usage_errors: tuple[type[Exception], ...]) -> None:
        self.name, self.reader, self.folder, self.usage_errors = name, reader, folder, usage_errors
        self.whole, self.copy = folder / "whole", folder / "copy"
        self.whole.mkdir(parents=True)
        self.outside = folder / "outside"
        self.targets = [path.relative_to(self.whole) for path in reader.make(self.whole)]
        folders = {parent for target in self.targets for parent in target.parents} - {pathlib.Path()}
        self.replaceable = [*self.targets, *sorted(folders)] if reader.strange else []
        shutil.copytree(self.whole, self.copy)
        self.reader.mend(self.copy)
        self.reader.read(self.copy)  # what is whole is read: or nothing would be shown
        self.peak = 0.0

    def run(self, seed: int, outcome: Outcome) -> None:
        """Damages a file by ``seed``, reads it, and records the result in ``outcome``."""
        rng = random.Random(f"{self.name} {seed}")
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.whole, self.copy)
        if self.replaceable and rng.random() < 0.3:
            target, data = rng.choice(self.replaceable), b""
            what = f"replaced by {strange.replace(self.copy / target, self.outside, rng)}"
        else:
            target = rng.choice(self.targets)
            data = damaged((self.whole / target).read_bytes(), rng)
            (self.copy / target).write_bytes(data)
            kept = self.folder / f"failure-{seed}-{target.name}"
            what = f"kept as {kept}"
        before = strange.content(self.outside)
        start = time.process_time()
        try:
            with _deadline(SECONDS):
                self.reader.mend(self.copy)
                self.reader.read(self.copy)
            result, problem = "read", None
        except self.usage_errors as error:
            result, problem = "refused", self._complaint(str(error))
        except (Exception, _TooSlow) as error:
            where = "".join(traceback.format_tb(error.__traceback__)[-2:])
            result, problem = "failed", f"{type(error).__name__}: {error}\n{where}"
        outcome.slowest = max(outcome.slowest, time.process_time() - start)
        grown = _peak_megabytes() - self.peak
        outcome.megabytes = max(outcome.megabytes, grown)
        if problem is None and grown > MEGABYTES:
            problem = f"memory grew by {grown:.0f} MB"
        if strange.content(self.outside) != before:
            problem = f"something outside was changed; {problem}"
        outcome.counts[self.name, "failed" if problem else result] += 1
        if problem:
            if data:
                kept.write_bytes(data)
            outcome.failures.append(f"{self.name}, seed {seed}, {target} ({what}): {problem}")

    def _complaint(self, message: str) -> str | None:
        if "\n" in message:
            return f"more than one line: {message!r}"
        if str(self.copy) not in message:
            return f"does not name the file: {message!r}"
        return None


def trials(folder: pathlib.Path, modules: Sequence[str], only: Sequence[str] = ()) -> list[Trial]:
    """A trial for each reader of ``modules`` (``"reliability.readers"`` …)."""
    made = []
    for module_name in modules:
        module = importlib.import_module(module_name)
        errors = tuple(importlib.import_module(name).UsageError for name in module.USAGE_ERRORS)
        for name, reader in module.READERS.items():
            if not only or name in only:
                made.append(Trial(name, reader, folder / name.replace(" ", "-").replace("'", ""), errors))
    return made


def run(made: Sequence[Trial], count: int | None = None, minutes: float = 0, first_seed: int = 0) -> Outcome:
    """Tries ``count`` inputs, or for ``minutes``, spread over the trials by their shares."""
    outcome, end = Outcome(), time.monotonic() + 60 * minutes
    for trial in made:
        trial.peak = _peak_megabytes()
    order = [trial for trial in made for _ in range(trial.reader.share)]
    random.Random(0).shuffle(order)
    seed = first_seed
    while (count is not None and outcome.inputs < count) or (count is None and time.monotonic() < end):
        order[seed % len(order)].run(seed, outcome)
        seed += 1
    return outcome


def main() -> int:
    """Runs the command; see the module's docstring. Returns the exit code."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m reliability.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20, help="default 20")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N", help="inputs are numbered from here")
    parser.add_argument(
        "--readers", default="reliability.readers", metavar="MODULE", help="or reliability.torch_readers"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="this reader alone; may be repeated"
    )
    flags = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="fuzz-"))
    outcome = run(trials(folder, [flags.readers], flags.only), minutes=flags.minutes, first_seed=flags.first_seed)
    for name in sorted({name for name, _ in outcome.counts}):
        counts = {result: outcome.counts[name, result] for result in ("read", "refused", "failed")}
        print(f"{name:18} " + ", ".join(f"{count:6,} {result}" for result, count in counts.items()))
    print(
        f"{outcome.inputs:,} inputs in {flags.minutes:g} minutes, {len(outcome.failures)} failures; "
        f"the slowest took {outcome.slowest:.1f} s of processor time, memory grew by {outcome.megabytes:.0f} MB at most"
    )
    for failure in outcome.failures[:50]:
        print(failure, file=sys.stderr)
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
