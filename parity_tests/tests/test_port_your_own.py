"""The documented way for networks of one's own, on the documented example."""

from __future__ import annotations

import json

import pytest
from torch import nn

from netparity import ConvKernel, DenseKernel, ParityError, Same, finish
from parity_tests.examples import vgg


def test_the_example_passes_with_the_same_report(tmp_path, capsys):
    assert finish("vgg", vgg.compared(), tmp_path) == 0
    assert "… and 32 more, each farther from its limits" in capsys.readouterr().out  # and ten that are shown
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed"] is True
    assert {row["stage"] for row in report["models"]["vgg"]["layers"]} == set(vgg.STAGES)
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_a_mistake_in_the_table_is_located_and_explained(capsys):
    wrong = {**vgg.TABLE, "hidden.kernel": DenseKernel("dense1.weight")}  # as if nothing had been flattened
    result = vgg.compared(wrong)
    assert finish("vgg", result) == 1
    assert result.diagnosis is not None
    assert "first diverging stage: hidden (output)" in result.diagnosis
    assert "flatten order" in result.diagnosis


def test_another_network_is_located():
    module = vgg.torch_vgg()
    module.conv3 = nn.Conv2d(8, 16, 3, padding=1, padding_mode="replicate")
    result = vgg.compared(module=module)
    assert not result.passed
    assert result.diagnosis is not None
    assert "first diverging stage: conv3" in result.diagnosis
    assert "the edge repeated" in result.diagnosis


def test_every_entry_that_does_not_fit_is_listed():
    wrong = dict(vgg.TABLE)
    del wrong["conv1.bias"]
    wrong["conv9.kernel"] = ConvKernel("conv9.weight")
    wrong["conv2.kernel"] = ConvKernel("conv3.weight")
    wrong["logits.bias"] = Same("dense1.bias")
    wrong["hidden.kernel"] = DenseKernel("dense1.weight", flattened=(4, 4, 16))
    with pytest.raises(ParityError) as caught:
        vgg.compared(wrong)
    message = str(caught.value)
    for part in (
        "conv1.bias: a JAX parameter without an entry",
        "conv1.bias: a PyTorch parameter without an entry",
        "conv9.kernel: no such JAX parameter",
        "conv9.kernel: no such PyTorch parameter conv9.weight",
        "conv2.weight: a PyTorch parameter without an entry",
        "conv3.weight: named by 2 entries",
        "conv2.kernel: JAX has [3, 3, 8, 8], PyTorch's conv3.weight gives [3, 3, 8, 16]",
        "logits.bias: JAX has [10], PyTorch's dense1.bias gives [32]",
        "hidden.kernel: dense1.weight has 192 inputs, which is not a flattened [4, 4, 16]",
    ):
        assert part in message


def test_stages_must_be_the_same_ones():
    stages = dict(vgg.STAGES)
    stages["extra"] = stages.pop("drop")
    with pytest.raises(ParityError, match="dropouts: drop is no stage"):
        vgg.compared(stages=stages)
