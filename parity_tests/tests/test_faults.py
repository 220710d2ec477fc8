"""The check can fail: planted faults are caught and located, right programs are not refused."""

from __future__ import annotations

import pytest

from parity_tests.faults import score as fault_score


@pytest.fixture(scope="module")
def scores() -> dict[str, dict]:
    return {
        "cifar10": fault_score.score("cifar10"),
        "paper": fault_score.score("paper", fault_score.catalogue("paper", own_only=True), seeds=2),
    }


@pytest.mark.parametrize("model", ["cifar10", "paper"])
def test_every_fault_is_caught_and_located(scores, model, capsys):
    score = scores[model]
    with capsys.disabled():
        print(f"\n{model}: caught {score['caught']}, located {score['located']} of {score['planted']} planted faults")
    missed = [row for row in score["table"] if not row["located"]]
    assert not missed
    assert score["caught"] == score["located"] == score["planted"]


def test_there_are_at_least_forty_distinct_ones(scores):
    names = {(row["name"], row["side"]) for row in scores["cifar10"]["table"]}
    assert len(names) == scores["cifar10"]["planted"] >= 40


@pytest.mark.parametrize("model", ["cifar10", "paper"])
def test_no_right_program_is_refused(scores, model):
    assert scores[model]["alarms"] == []
    assert scores["cifar10"]["right_programs"] >= 20


@pytest.mark.parametrize(
    ("name", "diagnosis"),
    [
        ("conv2's kernel with height and width swapped", "PyTorch: kernel with height and width swapped"),
        ("flatten by height, width, channel", "PyTorch: flatten order: height, width, channel"),
        ("no padding in conv3", "JAX: padding 1 for 0"),
        ("loss summed over the batch", "PyTorch: sum for mean"),
        ("weight decay after the momentum trace", "JAX: weight decay after the momentum trace"),
        ("channels in the order blue, green, red", "PyTorch: channels reversed"),
        ("schedule one step late", "PyTorch: schedule one step late"),
        ("drop1 does not scale what it keeps", "PyTorch: what is kept is not scaled"),
    ],
)
def test_known_mistakes_are_named(scores, name, diagnosis):
    rows = [row for row in scores["cifar10"]["table"] if row["name"] == name]
    assert diagnosis in [row["diagnosis"] for row in rows]
