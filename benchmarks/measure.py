"""One setting, measured: every variant of both frameworks in turn, the slow ones dropped early, ratios by pairs."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.figures import busy_seconds, pairwise, spread
from benchmarks.process import OutOfMemory, Worker, WorkerError
from benchmarks.settings import JAX_VARIANTS, Setting, check_comparable
from benchmarks.tables import BUSY
from jaxalex.errors import RunError, UsageError
from jaxalex.system import environment

# After so many rounds, a variant slower than its framework's best by this factor is not sampled any more.
_SCREENING_ROUNDS, _HOPELESS = 2, 1.15
_MIN_ROUNDS = 3
_PART_SAMPLES = 3
# Of a row, next to its rate; None where it was not measured.
FACTS = (
    *("forward_ms", "backward_ms", "optimizer_ms", "compile_seconds"),
    *("first_step_seconds", "first_step_seconds_cached", "peak_memory_bytes"),
)
# How far the two sides' losses on the same batch may lie apart, relative.
_SAME_LOSS = {"float32": 1e-3, "tf32": 1e-2, "bfloat16": 5e-2}


@dataclasses.dataclass(frozen=True)
class Options:
    """How a setting is measured.

    Attributes:
      repeats: rounds, if time allows; in each, every variant is sampled once.
      sample_seconds: a sample is as many calls as take at least so long.
      setting_seconds: no round begins after so long, once there have been three.
      warmup: calls before the first sample, at least 3.
      torch_variants: the rows of PyTorch.
      parts: whether to measure forward, backward and optimizer apart, and the first step with a compilation cache.
      seed: of parameters and batch.
      memory_limit: bytes that a worker may take on top of what its imports took; None is no limit.
    """

    repeats: int = 7
    sample_seconds: float = 0.3
    setting_seconds: float = 40.0
    warmup: int = 3
    torch_variants: Sequence[str] = ()
    parts: bool = True
    seed: int = 0
    memory_limit: int | None = None


@dataclasses.dataclass
class Contestant:
    """One variant of one framework: its worker, its images/s by round, and how busy others kept the processor then."""

    framework: str
    variant: str
    scratch: pathlib.Path
    worker: Worker | None = None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    calls: int = 1
    rates: dict[int, float] = dataclasses.field(default_factory=dict)
    elsewhere: list[float] = dataclasses.field(default_factory=list)
    problem: str | None = None

    @property
    def rate(self) -> float:
        """Median images/s; 0 where nothing was measured."""
        return statistics.median(self.rates.values()) if self.rates else 0.0

    def start(self, setting: Setting, options: Options) -> None:
        """Brings it to where a sample can be taken: built, compiled, warmed up.

        Raises:
          WorkerError: if the worker failed, or memory ran out.
        """
        self.worker = Worker(self.framework, self.scratch)
        self.facts |= first_step(self.worker, setting, self.variant, options, self.scratch / "xla")
        self.worker.ask("reset_memory")
        seconds = self.worker.ask("sample", program="step", calls=options.warmup)["seconds"] / options.warmup
        self.calls = max(1, math.ceil(options.sample_seconds / max(seconds, 1e-9)))

    def sample(self, number: int) -> None:
        """Takes one sample."""
        assert self.worker is not None
        before = busy_seconds()
        sample = self.worker.ask("sample", program="step", calls=self.calls)
        self.rates[number] = self.calls * self.facts["images"] / sample["seconds"]
        if before is not None:
            others = (busy_seconds() or 0.0) - before - sample["cpu_seconds"]
            self.elsewhere.append(max(0.0, others) / (environment.cpu_count() * sample["seconds"]))

    def account(self) -> None:
        """Asks for peak memory and the last loss."""
        if self.worker is not None:
            self.facts["peak_memory_bytes"] = self.worker.ask("memory")
            self.facts["loss"] = self.worker.ask("loss", program="step")

    def stop(self) -> None:
        """Ends the worker."""
        if self.worker is not None:
            self.worker.close()
            self.worker = None


def first_step(worker: Worker, setting: Setting, variant: str, options: Options, cache: pathlib.Path) -> dict[str, Any]:
    """Builds a worker's network and runs its first step; see the workers' ``build`` and ``first``."""
    facts = worker.ask("hello", device=setting.device, precision=setting.precision)
    facts |= worker.ask(
        "build",
        setting=dataclasses.asdict(setting),
        variant=variant,
        seed=options.seed,
        memory_limit=options.memory_limit,
        cache=str(cache),
    )
    return facts | worker.ask("first", program="step", spawned=worker.spawned)


def measure_setting(setting: Setting, options: Options, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Rows of one setting, JAX's first; the best of each framework has ``"best"`` set.

    Raises:
      OutOfMemory: naming the variant for which memory ran out.
      RunError: if the two sides turn out not to compute the same.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        contestants = [
            Contestant(framework, variant, pathlib.Path(folder) / f"{framework}-{number}")
            for framework, variants in (("jax", JAX_VARIANTS[setting.mode]), ("torch", options.torch_variants))
            for number, variant in enumerate(variants)
        ]
        for contestant in contestants:
            stack.callback(contestant.stop)
            contestant.scratch.mkdir()
            say(f"{setting}: starting {contestant.framework} {contestant.variant}")
            _blaming(contestant, lambda c: c.start(setting, options))
        _in_turn(contestants, setting, options, say)
        best = {framework: _best(contestants, framework) for framework in ("jax", "torch")}
        for contestant in contestants:
            _blaming(contestant, lambda c: c.account())  # before the parts take memory, too
        winners = [contestant for contestant in best.values() if contestant is not None and options.parts]
        for contestant in winners:
            say(f"{setting}: parts of {contestant.framework} {contestant.variant}")
            _blaming(contestant, lambda c: _parts(c, setting, options))
        for contestant in contestants:
            contestant.stop()
        for contestant in winners:
            if contestant.facts["compile_seconds"] > 0:
                _blaming(contestant, lambda c: _first_step_again(c, setting, options))
        _check_losses(setting, contestants)
        return _rows(setting, contestants, best)


def _blaming(contestant: Contestant, work: Callable[[Contestant], None]) -> None:
    """Does something with a contestant; where its worker fails, it is out, and its row says why.

    Raises:
      OutOfMemory: naming the variant for which memory ran out.
    """
    try:
        work(contestant)
    except OutOfMemory as error:
        raise OutOfMemory(f"{contestant.framework} {contestant.variant}: {error}") from error
    except WorkerError as error:
        contestant.stop()
        contestant.problem = str(error)


def _in_turn(contestants: Sequence[Contestant], setting: Setting, options: Options, say: Callable[[str], None]) -> None:
    """Rounds of one sample each, JAX and PyTorch alternating."""
    began = time.monotonic()
    for number in range(options.repeats):
        if number >= _MIN_ROUNDS and time.monotonic() - began > options.setting_seconds:
            break
        running = [c for c in contestants if c.worker is not None]
        say(f"{setting}: round {number + 1}, {len(running)} variants")
        for contestant in _alternating(running):
            _blaming(contestant, lambda c, number=number: c.sample(number))  # type: ignore[misc]
        if number + 1 == _SCREENING_ROUNDS:
            for contestant in running:
                best = _best(contestants, contestant.framework)
                if best is not None and contestant.rate * _HOPELESS < best.rate:
                    _blaming(contestant, lambda c: c.account())
                    contestant.stop()


def _alternating(contestants: Sequence[Contestant]) -> list[Contestant]:
    sides = [[c for c in contestants if c.framework == framework] for framework in ("jax", "torch")]
    longest = max(len(side) for side in sides)
    return [side[i] for i in range(longest) for side in sides if i < len(side)]


def _best(contestants: Sequence[Contestant], framework: str) -> Contestant | None:
    measured = [c for c in contestants if c.framework == framework and c.rates]
    return max(measured, key=lambda c: c.rate) if measured else None


def _parts(contestant: Contestant, setting: Setting, options: Options) -> None:
    """Forward alone, forward with backward, and the rest as differences of medians, in milliseconds."""
    if setting.mode != "train" or contestant.worker is None:
        return
    medians = {}
    for program in ("forward", "gradient"):
        facts = contestant.worker.ask("first", program=program, spawned=contestant.worker.spawned)
        calls = max(1, math.ceil(contestant.calls * contestant.facts["images"] / facts["images"]))
        contestant.worker.ask("sample", program=program, calls=options.warmup - 1)  # it was called once already
        samples = [
            contestant.worker.ask("sample", program=program, calls=calls)["seconds"] for _ in range(_PART_SAMPLES)
        ]
        medians[program] = 1e3 * statistics.median(samples) / calls
    step = 1e3 * setting.batch_size / contestant.rate
    contestant.facts |= {
        "forward_ms": medians["forward"],
        "backward_ms": medians["gradient"] - medians["forward"],
        "optimizer_ms": step - medians["gradient"],
    }


def _first_step_again(contestant: Contestant, setting: Setting, options: Options) -> None:
    """The first step once more, in a fresh process, with what the first one left in the cache."""
    with Worker(contestant.framework, contestant.scratch) as worker:
        facts = first_step(worker, setting, contestant.variant, options, contestant.scratch / "xla")
    contestant.facts["first_step_seconds_cached"] = facts["first_step_seconds"]


def _check_losses(setting: Setting, contestants: Sequence[Contestant]) -> None:
    losses = {f"{c.framework} {c.variant}": c.facts["loss"] for c in contestants if c.facts.get("loss") is not None}
    for name, loss in losses.items():
        if not math.isfinite(loss):
            raise RunError(f"{setting}: the loss of {name} is {loss}, so its speed means nothing")
    if setting.mode == "infer" and losses:  # in training, dropout and the number of steps make the losses differ
        apart = max(losses.values()) - min(losses.values())
        if apart > _SAME_LOSS[setting.precision] * max(losses.values()):
            raise RunError(f"{setting}: the two sides do not compute the same, losses are {losses}")


def _rows(setting: Setting, contestants: Sequence[Contestant], best: Mapping[str, Contestant | None]) -> list[Any]:
    rows = {id(c): _row(setting, c, c is best[c.framework]) for c in contestants}
    peer = best["torch"]
    for contestant in contestants:
        row = rows[id(contestant)]
        if peer is not None and contestant.rates:
            try:
                check_comparable(row, rows[id(peer)])
            except UsageError as error:
                row["note"] = str(error)
                continue
            found = pairwise(contestant.rates, peer.rates)
            row |= {"ratio": statistics.median(found), "ratio_quartiles": spread(found), "ratio_n": len(found)}
    return list(rows.values())


def _row(setting: Setting, contestant: Contestant, is_best: bool) -> dict[str, Any]:
    facts, rates = contestant.facts, list(contestant.rates.values())
    elsewhere = statistics.median(contestant.elsewhere) if contestant.elsewhere else None
    busy = None
    if elsewhere is not None and elsewhere > BUSY:
        busy = f"other programs kept {100 * elsewhere:.0f} % of the processor busy"
    return {
        **dataclasses.asdict(setting),
        "inputs": facts.get("inputs"),
        "framework": contestant.framework,
        "variant": contestant.variant,
        "best": is_best,
        "n": len(rates),
        "images_per_second": contestant.rate or None,
        "images_per_second_quartiles": spread(rates),
        "ms_per_step": 1e3 * setting.batch_size / contestant.rate if rates else None,
        **{name: facts.get(name) for name in FACTS},
        "busy_elsewhere": elsewhere,
        "ratio": None,
        "ratio_quartiles": None,
        "ratio_n": 0,
        "note": contestant.problem or busy,
    }


def not_measured(setting: Setting) -> dict[str, Any]:
    """The row of a setting in which nothing could be measured."""
    return _row(setting, Contestant("jax", JAX_VARIANTS[setting.mode][0], pathlib.Path()), False)
