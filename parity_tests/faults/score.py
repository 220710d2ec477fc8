"""How many of the planted faults are caught and located, and how often a right program is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from netparity import levels
from netparity.diagnosis import diagnose
from netparity.results import Check, StageResult
from parity_tests.alexnet import data as data_level
from parity_tests.alexnet import trajectory
from parity_tests.alexnet.diagnosis import others
from parity_tests.alexnet.initialisers import initialisers
from parity_tests.alexnet.networks import Case, Inputs, make_inputs
from parity_tests.alexnet.optimizer import optimizer
from parity_tests.alexnet.programs import programs
from parity_tests.alexnet.trajectory import Settings, lockstep
from parity_tests.faults import probe
from parity_tests.faults.network import NETWORK
from parity_tests.faults.planting import Fault, Programs
from parity_tests.faults.training import CHANGES_NOTHING, TRAINING

WIDTH = 1 / 16
SEEDS = 20
_WITHOUT_SEED = ("normalisation", "optimizer")
_STEPS = 5  # the last batch is a partial one


@dataclasses.dataclass(frozen=True)
class Bench:
    """The right programs of a narrow network, and what was found of them; a level whose pieces are all right is not
    run again for every fault."""

    case: Case
    right: Programs
    inputs: Inputs
    images: Any
    seed: int = 0
    found: dict[Any, StageResult | Check | None] = dataclasses.field(default_factory=dict)
    runs: dict[Any, Any] = dataclasses.field(default_factory=dict)

    def first_failure(self, pieces: Programs) -> StageResult | Check | None:
        """The first thing that does not pass, level by level."""
        ours, theirs = pieces
        images = self.images
        levels: tuple[tuple[str, tuple[Any, ...], Callable[[], Any]], ...] = (
            ("normalisation", (ours.normalize, ours.statistics, theirs.normalize, theirs.statistics),
             lambda: data_level.normalisation(ours, theirs, images.train)),
            ("network", (ours.side, theirs.side), lambda: self._network(pieces)),
            ("optimizer", (ours.sgd, theirs.sgd, theirs.rate), lambda: optimizer(ours, theirs, ["float64"])),
            ("training", (ours.side, ours.sgd, ours.train_step, theirs.side, theirs.sgd),
             lambda: self._training(pieces, images)),
            ("metrics", (ours.side, ours.evaluate, theirs.side, theirs.evaluate),
             lambda: data_level.metrics(ours, theirs, self.inputs.params, images.test, self.case.image_shape[:2])),
            ("initialisers", (ours.schemes, theirs.schemes), lambda: initialisers(ours, theirs, self.seed)),
        )  # fmt: skip
        for name, parts, run in levels:
            key = (name, *map(id, parts))
            if key not in self.found:
                # The pieces are kept too, so that no other one can get their identity.
                self.found[key], self.runs[key] = _first(run()), parts
            failure = self.found[key]
            if failure is not None:
                return failure
        return None

    def pair(self, pieces: Programs) -> levels.Pair:
        inputs = self.inputs
        return levels.Pair(pieces[0].side, pieces[1].side, inputs.params, inputs.images, inputs.labels, self.seed)

    def _network(self, pieces: Programs) -> Iterator[StageResult | Check]:
        yield from _judged(self.pair(pieces))

    def _training(self, pieces: Programs, images: Any) -> Iterator[Check]:
        ours, theirs = pieces
        pixels = data_level.resized(images.train.images[:40], *self.case.image_shape[:2])
        batches = trajectory.batches(pixels, images.train.labels[:40], 4, _STEPS, self.seed)
        params, settings = self.inputs.params, Settings(seed=self.seed)
        like = self.runs.get("jax") if (ours.network, ours.sgd) == (self.right[0].network, self.right[0].sgd) else None
        if like is None:
            like = trajectory.JaxRun(ours, params, "float64", settings, self.case.image_shape[:2])
            if ours is self.right[0]:
                self.runs["jax"] = like
        for row in lockstep(ours, theirs, params, batches, "float64", settings, like=like):
            name = f"parameters after step {row['step']}"
            yield trajectory.check("training", "training", name, row["parameters"], trajectory.bounds.TRAJECTORY_LIMIT)


def bench(model: str, seed: int = 0, image_hw: tuple[int, int] | None = None, like: Bench | None = None) -> Bench:
    """A bench of a narrow network of ten classes; ``like`` shares its programs and what does not depend on the seed."""
    case = Case(model, WIDTH, batch_size=2, num_classes=10, image_hw=image_hw)
    images = data_level.load_digits().splits if like is None else like.images
    made = Bench(case, programs(case) if like is None else like.right, make_inputs(case, seed), images, seed)
    if like is not None:
        made.runs.update(like.runs)
        made.found.update({key: found for key, found in like.found.items() if key[0] in _WITHOUT_SEED})
    return made


def catalogue(model: str, *, own_only: bool = False) -> list[Fault]:
    """The faults that are planted in a network; ``own_only`` leaves out what is the same in the other one."""
    chosen = [fault for fault in (*NETWORK, *TRAINING) if model in fault.models]
    return [fault for fault in chosen if len(fault.models) == 1] if own_only else chosen


def score(
    model: str,
    faults: list[Fault] | None = None,
    seeds: int = SEEDS,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Plants every fault, and checks the right program from many seeds.

    Returns:
      the object under ``faults`` in ``report.json``.
    """
    faults = catalogue(model) if faults is None else faults
    benches: dict[tuple[int, int] | None, Bench] = {None: bench(model)}
    rows = []
    for number, fault in enumerate(faults, start=1):
        progress(f"{model}: fault {number} of {len(faults)}: {fault.name}")
        if fault.image_hw not in benches:
            benches[fault.image_hw] = bench(model, image_hw=fault.image_hw)
        rows.append(plant(benches[fault.image_hw], fault))
    progress(f"{model}: faults in the probe")
    rows += _probe_faults()
    alarms = false_alarms(benches[None], seeds, progress)
    for size, other in benches.items():
        if size is not None and _first(_single_layers(other.pair(other.right))) is not None:
            alarms.append(f"images of {size[0]}x{size[1]}")
    alarms += [f"probe, seed {seed}" for seed in range(seeds) if _first(_judged(probe.pair(seed))) is not None]
    return {
        "planted": len(rows),
        "caught": sum(row["caught"] for row in rows),
        "located": sum(row["located"] for row in rows),
        "false_alarms": len(alarms),
        "right_programs": 2 * seeds + len(benches) - 1,
        "alarms": alarms,
        "table": rows,
        "changes_nothing": [{"name": name, "reason": reason} for name, reason in CHANGES_NOTHING],
    }


def plant(on: Bench, fault: Fault) -> dict[str, Any]:
    """Plants one fault and looks for it: a row of the table."""
    pieces = fault.plant(on.case, on.right)
    failure = on.first_failure(pieces)
    found, stage = None if failure is None else failure.stage, fault.stage_of(on.case.model)
    return {
        "name": fault.name,
        "trap": fault.trap,
        "side": fault.side,
        "expected_stage": stage,
        "found_stage": found,
        "caught": found is not None,
        "located": found == stage,
        "diagnosis": None if failure is None else diagnose(failure, on.pair(pieces), others(*pieces)),
    }


def false_alarms(first: Bench, seeds: int, progress: Callable[[str], None]) -> list[str]:
    """What was refused of the right program, from other parameters, images, masks and batches each time."""
    alarms, model = [], first.case.model
    first.first_failure(first.right)
    for seed in range(1, seeds + 1):
        progress(f"{model}: right program, seed {seed} of {seeds}")
        failure = bench(model, seed, like=first).first_failure(first.right)
        if failure is not None:
            alarms.append(f"seed {seed}: {failure}")
    return alarms


def _single_layers(pair: levels.Pair) -> Iterator[StageResult | Check]:
    """Shapes, and in float64 every layer in isolation."""
    yield from levels.shapes(pair)
    truth = pair.torch.forward(pair.params_as("float64"), pair.images.astype(np.float64))
    yield from levels.layers(pair, levels.feed(truth, pair.seed), ["float64"])


def _judged(pair: levels.Pair) -> Iterator[StageResult | Check]:
    """All that is judged of a pair of networks, in order; who stops at the first failure computes no more."""
    yield from _single_layers(pair)
    truth = pair.torch.forward(pair.params_as("float64"), pair.images.astype(np.float64))
    yield from levels.layers(pair, levels.feed(truth, pair.seed), ["float32"])
    yield from levels.forward(pair, ["float64"], truth)
    yield from levels.gradients(pair, ["float64"])


def _first(found: Iterable[StageResult | Check]) -> StageResult | Check | None:
    return next((one for one in found if not one.passed), None)


def _probe_faults() -> list[dict[str, Any]]:
    rows = []
    for name, trap, stage, pair in (
        ("a padded pool over negative values padded with zeros", "pooling's padding value", "pool1",
         probe.pair(zero_padded=True)),
        ("LRN's alpha not divided by n where PyTorch divides it", "LRN's alpha", "lrn1", probe.pair(alpha=0.1)),
    ):  # fmt: skip
        failure = _first(_judged(pair))
        found = None if failure is None else failure.stage
        rows.append(
            {
                "name": name,
                "trap": trap,
                "side": "torch",
                "expected_stage": stage,
                "found_stage": found,
                "caught": found is not None,
                "located": found == stage,
                "diagnosis": None if failure is None else diagnose(failure, pair),
            }
        )
    return rows
