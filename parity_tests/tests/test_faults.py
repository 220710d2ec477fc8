"""The check can fail: planted faults are caught and located, right programs are not refused."""

from __future__ import annotations

import pytest

from parity_tests.faults.planting import Fault
from parity_tests.faults.score import catalogue, score

DIAGNOSES = [
    ("conv2's kernel with height and width swapped", "PyTorch: kernel with height and width swapped"),
    ("flatten by height, width, channel", "PyTorch: flatten order: height, width, channel"),
    ("no padding in conv3", "JAX has padding 1 where PyTorch has 0"),
    ("loss summed over the batch", "JAX has the mean of the loss over the batch where PyTorch has the sum"),
    ("weight decay after the momentum trace", "JAX: weight decay after the momentum trace"),
    ("channels in the order blue, green, red", "PyTorch: channels reversed"),
    ("schedule one step late", "PyTorch: schedule one step late"),
    ("drop1 does not scale what it keeps", "PyTorch: what dropout keeps is not scaled"),
]


def representatives() -> list[Fault]:
    """Of the CIFAR-10 network's faults those with a known diagnosis, and one for each way to plant one."""
    chosen: list[Fault] = []
    seen: set[object] = set()
    for fault in catalogue("cifar10"):
        kinds: set[object] = {type(fault.plant)}
        if fault.name in dict(DIAGNOSES):
            kinds.add(("diagnosis", fault.name))
        if not kinds <= seen:
            chosen.append(fault)
            seen |= kinds
    return chosen


SCORES = {
    "some": lambda: score("cifar10", representatives(), seeds=2),
    "cifar10": lambda: score("cifar10"),
    "paper": lambda: score("paper", catalogue("paper", own_only=True), seeds=2),
}
EVERY_SCORE = [name if name == "some" else pytest.param(name, marks=pytest.mark.slow) for name in SCORES]
CIFAR10_SCORES = EVERY_SCORE[:2]


@pytest.fixture(scope="module")
def scored():
    """A score by name; each is made once."""
    made: dict[str, dict] = {}

    def get(name: str) -> dict:
        if name not in made:
            made[name] = SCORES[name]()
        return made[name]

    return get


@pytest.mark.parametrize("name", EVERY_SCORE)
def test_every_fault_is_caught_and_located(scored, name, capsys):
    found = scored(name)
    with capsys.disabled():
        print(f"\n{name}: caught {found['caught']}, located {found['located']} of {found['planted']} planted faults")
    missed = [row for row in found["table"] if not row["located"]]
    assert not missed
    assert found["caught"] == found["located"] == found["planted"] == len(found["table"])


@pytest.mark.parametrize("name", EVERY_SCORE)
def test_no_right_program_is_refused(scored, name):
    assert scored(name)["alarms"] == []


def test_a_few_faults_are_planted_on_either_side(scored):
    assert {row["side"] for row in scored("some")["table"]} == {"jax", "torch"}


@pytest.mark.slow
def test_there_are_at_least_forty_distinct_faults_and_twenty_right_programs(scored):
    names = {(row["name"], row["side"]) for row in scored("cifar10")["table"]}
    assert len(names) == scored("cifar10")["planted"] >= 40
    assert scored("cifar10")["right_programs"] >= 20


@pytest.mark.parametrize("name", CIFAR10_SCORES)
@pytest.mark.parametrize(("fault", "diagnosis"), DIAGNOSES)
def test_known_mistakes_are_named(scored, name, fault, diagnosis):
    rows = [row for row in scored(name)["table"] if row["name"] == fault]
    assert diagnosis in [row["diagnosis"] for row in rows]
