"""How many of the planted faults are caught and located, and how often a right program is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from netparity.diagnosis.diagnose import Diagnosis, diagnose
from parity_tests.alexnet.diagnosis import others
from parity_tests.faults.bench import (
    LEVELS,
    Bench,
    Finding,
    Level,
    bench,
    changed,
    first_failure,
    single_layers,
)
from parity_tests.faults.network import NETWORK, ROUNDING
from parity_tests.faults.parts import PARTS
from parity_tests.faults.planting import Fault
from parity_tests.faults.training import CHANGES_NOTHING, TRAINING
from parity_tests.ports.threads import one_thread

SEEDS = 20


def catalogue(model: str, *, own_only: bool = False) -> list[Fault]:
    """The faults that are planted in a network; ``own_only`` leaves out those that know nothing of its layers."""
    chosen = (*NETWORK, *PARTS) if own_only else (*NETWORK, *PARTS, *ROUNDING, *TRAINING)
    return [fault for fault in chosen if model in fault.models]


@one_thread()
def score(
    model: str,
    faults: list[Fault] | None = None,
    seeds: int = SEEDS,
    progress: Callable[[str], None] = lambda text: None,
    levels: Sequence[Level] = LEVELS,
) -> dict[str, Any]:
    """Plants every fault, and checks the right program from many seeds.

    Args:
      model: a key of `jaxalex.networks.tables.NETWORKS`.
      faults: of the network; None plants the whole `catalogue`.
      seeds: from how many seeds the right programs are checked, at least 1.
      progress: gets a line when something begins.
      levels: at which faults are looked for, and right programs judged.

    Returns:
      the object under ``faults`` in ``report.json``.
    """
    faults = catalogue(model) if faults is None else faults
    first = bench(model)
    benches: dict[tuple[int, int] | None, Bench] = {None: first}
    for size in {fault.image_hw: None for fault in faults}:
        benches.setdefault(size, first if size is None else bench(model, image_hw=size))
    rows = []
    for number, fault in enumerate(faults, start=1):
        progress(f"{model}: fault {number} of {len(faults)}: {fault.name}")
        rows.append(plant(benches[fault.image_hw], fault, levels))
    alarms = false_alarms(first, seeds, progress, levels)
    for size, other in benches.items():
        if size is not None and first_failure(single_layers(other.pair(other.right), other.fed)) is not None:
            alarms.append(f"images of {size[0]}x{size[1]}")
    return {
        "planted": len(rows),
        "caught": sum(row["caught"] for row in rows),
        "located": sum(row["located"] for row in rows),
        "false_alarms": len(alarms),
        "right_programs": seeds + len(benches) - 1,
        "alarms": alarms,
        "table": rows,
        "changes_nothing": [{"name": name, "reason": reason} for name, reason in CHANGES_NOTHING],
    }


def plant(on: Bench, fault: Fault, levels: Sequence[Level] = LEVELS) -> dict[str, Any]:
    """Plants one fault and looks for it at the levels that can see it: a row of the table."""
    found = fault.plant(on.case, on.right)
    pieces = changed(found, on.right)
    failure = first_failure(one for level in levels if level.pieces & pieces for one in level.judge(on, found))
    diagnosis = None if failure is None else diagnose(failure, on.pair(found), others(*found))
    return _row(fault, failure, diagnosis)


def _row(fault: Fault, failure: Finding | None, diagnosis: Diagnosis | None) -> dict[str, Any]:
    found = None if failure is None else failure.stage
    return {
        "name": fault.name,
        "trap": fault.trap,
        "side": fault.plant.side,
        "expected_stage": fault.stage,
        "found_stage": found,
        "caught": found is not None,
        "located": found == fault.stage,
        "diagnosis": None if diagnosis is None else diagnosis.text,
    }


def false_alarms(
    first: Bench, seeds: int, progress: Callable[[str], None], levels: Sequence[Level] = LEVELS
) -> list[str]:
    """What was refused of the right program, from other parameters, images, masks and batches each time.

    Args:
      first: the bench of seed 0, on which the levels that depend on no seed are judged too.
    """
    alarms, model = [], first.case.model
    for seed in range(seeds):
        progress(f"{model}: right program, seed {seed + 1} of {seeds}")
        on = bench(model, seed, like=first) if seed else first
        chosen = [level for level in levels if level.seeded or seed == 0]
        failure = first_failure(one for level in chosen for one in level.judge(on, on.right))
        if failure is not None:
            alarms.append(f"seed {seed}: {failure}")
    return alarms
