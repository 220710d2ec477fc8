"""The check can fail: planted faults are caught and located, right programs are not refused."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from jaxalex.networks.tables import NETWORKS
from parity_tests.faults.bench import LEVELS
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


OWN_DIAGNOSES = [
    ("original", "norm1's alpha divided by n: PyTorch's 1e-4 for the paper's", "JAX: alpha not divided by n"),
    ("original", "norm1's k 1 for 2", "JAX has k 2 where PyTorch has 1"),
    ("original", "norm2's size 3 for 5", "JAX has size 5 where PyTorch has 3"),
    ("original", "norm1 before relu1", "norm1 stands elsewhere in the network"),
    ("original", "conv3 in two groups, too", "PyTorch: two groups for one"),
    ("torchvision", "drop2 after fc2's ReLU instead of before fc2", "fc2 stands elsewhere in the network"),
    ("torchvision", "no padding in conv3", "JAX has padding 1 where PyTorch has 0"),
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


CHEAP = LEVELS[:3]  # what they look at compiles in a few seconds


def own(model: str, but: Collection[str] = ()):
    """The faults of a network's own layers, looked for where they show, but for those of some other networks."""
    others = {fault.name for other in but for fault in catalogue(other)}
    faults = [fault for fault in catalogue(model, own_only=True) if fault.name not in others]
    return score(model, faults, seeds=1, levels=LEVELS[1:2])


SCORES = {
    "some": lambda: score("cifar10", representatives(), seeds=1, levels=CHEAP),
    "cifar10": lambda: score("cifar10"),
    "paper": lambda: own("paper", but=("cifar10", "original", "torchvision")),
    "original": lambda: own("original"),
    "torchvision": lambda: own("torchvision"),
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


@pytest.mark.slow
@pytest.mark.parametrize(("model", "fault", "diagnosis"), OWN_DIAGNOSES)
def test_known_mistakes_in_the_other_networks_are_named(scored, model, fault, diagnosis):
    rows = [row for row in scored(model)["table"] if row["name"] == fault]
    assert diagnosis in [row["diagnosis"] for row in rows]


def test_every_network_has_faults_of_its_own():
    shared = set.intersection(*({fault.name for fault in catalogue(model)} for model in NETWORKS))
    assert len(shared) >= 60
    for model in NETWORKS:
        assert {fault.name for fault in catalogue(model)} - shared
