"""Mistakes that porters make, planted in networks that pass: caught, located, and told in the right words."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
from typing import Any

import pytest

from netparity.diagnosis import mistakes
from parity_tests.mistakes import __main__ as command
from parity_tests.mistakes import planting, score
from parity_tests.mistakes.catalogue import MISTAKES
from parity_tests.mistakes.harmless import HARMLESS
from parity_tests.mistakes.networks import NETWORKS
from parity_tests.mistakes.planting import Mistake

PORTS = ("alexnet", "vgg11_bn", "resnet18", "mobilenet_v3_small", "vit_b_16", "convnext_tiny", "lstm", "lenet5")
# What porters are known to get wrong; every one is planted at least once.
KINDS = {
    "norm-epsilon", "bn-momentum", "bn-biased-variance", "bn-statistics", "gelu-tanh", "activation", "same-stride",
    "dilation", "kernel-flip", "conv-transpose", "avg-pool-padding", "ceil-mode", "resize", "flatten-order",
    "attention-scale", "head-order", "packed-order", "mask", "softmax-axis", "rope", "embedding-scale", "norm-axes",
    "group-norm-groups", "bias", "loss-reduction", "label-smoothing", "softmax-twice", "adam-epsilon",
    "adam-bias-correction", "decoupled-decay", "rmsprop-epsilon", "clip-epsilon", "schedule-shift", "momentum",
    "lstm-gates", "lstm-bias", "skip", "dropout-rate", "dropout-scale", "layer-scale", "squeeze-excite-order",
    "class-token", "position-embedding", "global-average", "channel-shuffle", "padding", "stride", "groups",
    "pooling",
}  # fmt: skip
SAMPLE = [
    ("lenet5", "jax", "kernel flipped"),
    ("lenet5", "torch", "bias left out"),
    ("lenet5", "torch", "label smoothing"),
    ("mlp_adam", "jax", "epsilon of Keras"),
]


def _named(network: str, side: str, name: str) -> Mistake:
    (found,) = [one for one in MISTAKES if (one.network, one.side, one.name) == (network, side, name)]
    return found


def test_there_are_enough_mistakes_of_every_kind():
    names = [(one.network, one.side, one.name) for one in MISTAKES]
    assert len(set(names)) == len(names) >= 100
    by_network = collections.Counter(one.network for one in MISTAKES)
    assert {name: by_network[name] for name in PORTS if by_network[name] < 10} == {}
    sides = {(one.network, one.side) for one in MISTAKES}
    assert {(name, side) for name in PORTS for side in ("jax", "torch")} <= sides
    assert {NETWORKS[one.network].library for one in MISTAKES} == {"linen", "nnx", "equinox"}
    assert KINDS - {one.kind for one in MISTAKES} == set()
    assert {one.kind for one in MISTAKES} <= set(mistakes.MISTAKES)


def test_a_sample_is_caught_located_and_told():
    found = score.score([_named(*one) for one in SAMPLE], [NETWORKS["lenet5"]])
    rows = found["mistakes"]
    assert [row["verdict"] for row in rows] == ["right"] * 4, [row["diagnosis"] for row in rows]
    assert [row["found"] for row in rows] == ["conv2", "conv2", "loss", "training"]
    # A loss and an optimizer are not seen in the logits at all.
    assert [row["allclose"]["1e-05"] for row in rows] == [False, False, True, True]
    assert [row["allclose"]["0.1"] for row in rows] == [False, False, True, True]
    assert found["totals"]["located"] == 4
    assert found["right"] == {"networks": 1, "refused": []}
    assert {row["name"] for row in found["harmless"]} == {one.name for one in HARMLESS if one.network == "lenet5"}
    assert all(row["passed"] for row in found["harmless"])
    assert "4 mistakes: 4 caught, 4 located, diagnosed 4 right, 0 wrong, 0 not at all" in score.summary(found)


@pytest.mark.parametrize(
    ("diagnosis", "verdict"),
    [
        ("JAX has epsilon 0.001 where PyTorch has 1e-05", "right"),
        ("JAX has epsilon 1E-3 where PyTorch has 1e-05", "right"),
        ("JAX has epsilon 1e-06 where PyTorch has 1e-05", "wrong"),
        ("first diverging stage: bn1 (output); no known mistake explains it; relative error 1e-03", "none"),
        ("", "none"),
    ],
)
def test_a_diagnosis_is_right_if_it_says_all_that_it_must(diagnosis, verdict):
    mistake = Mistake("n", "k", "lenet5", "jax", "bn1", lambda setup: setup, ("epsilon", "0.001|1e-3", "1e-05"))
    assert score.verdict(mistake, diagnosis) == verdict


def test_the_right_network_stays_as_it_was():
    setup = planting.right(NETWORKS["resnet18"])
    wrong = planting.attributes("bn1", eps=1e-3)(setup)
    eps = [one.module.get_submodule("bn1").eps for one in (wrong, setup)]
    assert eps == [1e-3, 1e-5]
    spoilt = planting.torch("layer1.0", ("out += identity", "pass"))(setup)
    kinds = [type(module.get_submodule("layer1.0")) for module in (setup.module, spoilt.module)]
    assert kinds[0] is not kinds[1]
    assert {kind.__name__ for kind in kinds} == {"BasicBlock"}


def test_a_mistake_that_cannot_be_planted_is_told():
    setup = planting.right(NETWORKS["lenet5"])
    with pytest.raises(ValueError, match=r"the source does not say 'nn\.selu'"):
        planting.jax(("nn.selu", "nn.relu"))(setup)
    with pytest.raises(ValueError, match="conv1 has no eps"):
        planting.attributes("conv1", eps=1e-3)(setup)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["resnet50"], "there is no network resnet50; there are lenet5, "),
        (["--only", "no such", "lenet5"], "no mistake in lenet5 has 'no such' in its name or kind"),
        (["--seeds", "-1"], "--seeds must be at least 0"),
        (["--json", "/no/such/folder/x.json"], "there is no folder /no/such/folder"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(argv, message, capsys):
    assert command.main(argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    out = tmp_path / "out.json"
    assert command.main(["lenet5", "--only", "label smoothing", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    (row,) = json.loads(out.read_text())["mistakes"]
    assert row["diagnosis"] in printed
    assert row["diagnosis"].endswith("JAX has label smoothing 0 where PyTorch has 0.1")
    assert (row["kind"], row["library"], row["side"]) == ("label-smoothing", "linen", "torch")


def test_help_is_instant():
    line = [sys.executable, "-X", "importtime", "-m", "parity_tests.mistakes", "--help"]
    result = subprocess.run(line, capture_output=True, text=True, check=True)
    assert "--only" in result.stdout
    assert not {" torch", " jax", " flax"} & {line.rpartition("|")[2].rstrip() for line in result.stderr.splitlines()}


def _representatives() -> list[Mistake]:
    """The first mistake of every kind and in every network; docs/mistakes.json has them all."""
    chosen: list[Mistake] = []
    seen: set[tuple[str, str]] = set()
    for one in MISTAKES:
        stands_for = {("kind", one.kind), ("network", one.network)}
        if not stands_for <= seen:
            chosen.append(one)
            seen |= stands_for
    return chosen


@pytest.fixture(scope="module")
def scored() -> dict[str, Any]:
    return score.score(_representatives(), list(NETWORKS.values()), seeds=1)


def _told(rows: list[dict[str, Any]]) -> str:
    return "\n".join(f"{one['network']}, {one['side']}: {one['name']}: {one['diagnosis']}" for one in rows)


@pytest.mark.slow
def test_every_kind_of_mistake_is_caught_and_nearly_all_are_located_and_told(scored, capsys):
    with capsys.disabled():
        print(f"\n{score.summary(scored)}")
    rows, totals = scored["mistakes"], scored["totals"]
    assert {one["kind"] for one in rows} >= KINDS
    assert {one["network"] for one in rows} == set(NETWORKS)
    assert [one["name"] for one in rows if not one["caught"]] == []
    wrong = [one for one in rows if one["verdict"] == "wrong"]
    assert not wrong, _told(wrong)
    assert totals["located"] >= 0.95 * totals["planted"], _told([one for one in rows if not one["located"]])
    assert totals["right"] >= 0.85 * totals["planted"], _told([one for one in rows if one["verdict"] == "none"])


@pytest.mark.slow
def test_no_right_network_is_refused(scored):
    assert scored["right"] == {"networks": len(NETWORKS), "refused": []}  # one seed each
    assert [one for one in scored["harmless"] if not one["passed"]] == []
    assert len(scored["harmless"]) == len(HARMLESS)
