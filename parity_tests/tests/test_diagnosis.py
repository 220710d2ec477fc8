"""What is said of a difference: known mistakes in words, patterns where none is known, and a script that shows it."""

from __future__ import annotations

import dataclasses
import functools
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import flax.linen as fnn
import jax
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import netparity
from netparity import ParityError
from netparity.diagnosis import diagnose, patterns, variants
from netparity.diagnosis.mistakes import MISTAKES
from netparity.diagnosis.variants.variant import Variant
from netparity.watching import Call, Watch


class Net(fnn.Module):
    """A dense layer, a normalisation, an activation, a dense layer."""

    epsilon: float = 1e-5
    activation: Callable[[jax.Array], jax.Array] = staticmethod(lambda x: fnn.gelu(x, approximate=False))
    after: Callable[[jax.Array], jax.Array] = staticmethod(lambda x: x)

    @fnn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.activation(fnn.LayerNorm(epsilon=self.epsilon)(fnn.Dense(12)(x)))
        return self.after(fnn.Dense(5)(x))


def _module() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 12), nn.LayerNorm(12), nn.GELU(), nn.Linear(12, 5))


def _compared(net: Net, module: nn.Module | None = None, **keywords: Any) -> netparity.Comparison:
    x = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    variables = Net().init(jax.random.key(0), x)
    moved = jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(1), a.shape), variables)
    return netparity.compare(netparity.linen(net, moved), module or _module(), x, dtypes=["float64"], **keywords)


def test_two_modules_agree_and_there_is_nothing_to_reproduce(tmp_path):
    result = _compared(Net())
    assert result.passed, str(result)
    assert (result.diagnosis, result.advice) == (None, None)
    with pytest.raises(ParityError, match="nothing to reproduce: no stage differs"):
        result.repro(tmp_path)


@pytest.mark.parametrize(
    ("net", "stage", "said", "mend"),
    [
        (Net(epsilon=1e-6), "LayerNorm_0", "JAX has epsilon 1e-06 where PyTorch has 1e-05", "epsilon=1e-5"),
        (Net(activation=fnn.gelu), "Dense_1", "JAX has GELU (tanh) where PyTorch has GELU (erf)", "approximate=False"),
        (Net(activation=lambda x: x), "Dense_1", "JAX has nothing where PyTorch has GELU (erf)", None),
        (Net(after=lambda x: x - x.mean(0, keepdims=True)), "output", None, None),
    ],
)
def test_what_differs_is_named_and_how_it_is_mended(net, stage, said, mend):
    result = _compared(net)
    assert result.diagnosis is not None
    assert result.diagnosis.startswith(f"first diverging stage: {stage} (output); ")
    expected = f"the difference vanishes under: {said}" if said else "no known mistake explains it"
    assert expected in result.diagnosis
    assert mend is None or mend in (result.advice or "")
    assert result.diagnosis in str(result)


def test_what_differs_in_float32_alone_has_no_pattern_in_float64():
    result = _compared(Net())
    assert result.pair is not None
    errors: dict[str, Any] = {
        "float32_jax_max": 2e-7,
        "float32_torch_max": 2e-8,
        "float32_jax_rms": 2e-7,
        "float32_torch_rms": 2e-8,
    }
    row = dataclasses.replace(result.layers[0], float64_error=None, bound=1e-6, **errors)
    assert not row.passed
    said = diagnose.describe(row, result.pair)
    assert said.text == "first diverging stage: Dense_0 (output); no known mistake explains it"


class _Reversed(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias).flip(-1)


class _WithoutBias(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight)


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (_WithoutBias(12, 5), "the difference vanishes under: PyTorch: bias left out"),
        (_Reversed(12, 5), "no known mistake explains it: JAX's output is PyTorch's with axis 1 reversed"),
    ],
)
def test_a_layer_with_a_forward_of_its_own_is_what_is_told(last, said):
    module = _module()
    module[3] = last
    assert said in (_compared(Net(), module).diagnosis or "") or "a reversal" in (
        _compared(Net(), module).diagnosis or ""
    )


def test_the_script_shows_the_difference_with_nothing_of_this_project(tmp_path):
    path = _compared(Net(activation=fnn.gelu), name="two layers").repro(tmp_path / "shown")
    assert sorted(one.name for one in path.parent.iterdir()) == ["arrays.npz", "jax_stage.bin", "repro.py"]
    text = path.read_text()
    assert "JAX has GELU (tanh) where PyTorch has GELU (erf)" in text
    assert "torch.ops.aten.gelu.default" in text
    assert "netparity" not in re.sub("netparity_mark", "", text)
    alone = (
        "import sys; sys.modules['netparity'] = None; import runpy; runpy.run_path(sys.argv[1], run_name='__main__')"
    )
    run = subprocess.run([sys.executable, "-c", alone, str(path)], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 1, run.stderr
    lines = run.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["output", "vjp_input", "vjp_kernel", "vjp_bias"]
    assert all(re.search(r"relative error \d\.\de-0[345]; at \(", line) for line in lines[:3])
    assert "relative error 0.0e+00" in lines[3]  # the last bias follows the activation


TRUE = np.random.default_rng(3).standard_normal((3, 4, 6))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (TRUE, None),
        (-TRUE, "-1 times it"),
        (TRUE / 8, "0.125 times it"),
        (0 * TRUE, "zero"),
        (TRUE + 2, "it plus 2"),
        (TRUE[:, ::-1], "it with axis 1 reversed"),
        (np.roll(TRUE, 1, 2), "it shifted by 1 along axis 2"),
        (TRUE.transpose(0, 2, 1), "it with its axes in the order 0, 2, 1"),
        (TRUE[..., [0, 2, 1, 4, 3, 5]], "it with the entries of axis 2 in another order"),
        (np.abs(TRUE), f"it with {(TRUE < 0).sum()} of 72 signs changed"),
        (TRUE + (np.arange(6) == 4), "it but for 1 of 6 entries of axis 2: 4"),
        (TRUE * np.array([1, 2, 3.0])[:, None, None], "it with each entry of axis 0 times a factor of its own, 1 to 3"),
        (
            TRUE.reshape(3, 4, 2, 3).mT.reshape(3, 4, 6),
            "it with axis 2 read as 2 times 3 the other way round",
        ),
        (TRUE**3, None),
        (TRUE * np.nan, "not finite (NaN or infinite)"),
    ],
)
def test_a_pattern_is_told_where_no_mistake_is_known(found, said):
    assert patterns.relation(found, TRUE, name="it") == said


def test_what_differs_at_the_border_alone_is_told():
    image = np.random.default_rng(4).standard_normal((2, 9, 8, 5))
    found = image.copy()
    found[:, 0] += np.random.default_rng(5).standard_normal((2, 8, 5))
    found[:, :, -1] -= 3 * image[:, :, -1]
    assert patterns.relation(found, image, name="it") == "it but at the border"


LAYERS = (
    *(nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, groups=2), nn.ConvTranspose2d(4, 4, 3, 2, 1), nn.BatchNorm2d(4)),
    *(nn.BatchNorm2d(4).eval(), nn.GroupNorm(2, 4), nn.LayerNorm(8), nn.RMSNorm(8), nn.LocalResponseNorm(5), nn.ReLU()),
    *(nn.GELU(), nn.ELU(), nn.LeakyReLU(0.3), nn.Softplus(), nn.Softmax(1), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2)),
    *(nn.AvgPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Flatten()),
)


def _calls() -> list[tuple[Call, Variant]]:
    """Every other way to make the calls of layers of all kinds."""
    image, rows, tokens = torch.randn(2, 4, 6, 8), torch.randn(2, 5, 8), torch.tensor([[1, 2], [3, 0]])
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    attention, recurrent = (
        nn.MultiheadAttention(8, 2, batch_first=True),
        (nn.LSTM(8, 3), nn.GRU(8, 3, batch_first=True)),
    )
    made: list[Callable[[], Any]] = [functools.partial(layer, image) for layer in LAYERS]
    made += [functools.partial(layer, rows) for layer in (nn.Linear(8, 12), *recurrent)]
    made += [
        lambda: nn.Embedding(7, 3, padding_idx=0)(tokens),
        lambda: attention(rows, rows, rows, attn_mask=~mask),
        lambda: F.scaled_dot_product_attention(image, image, image, is_causal=True),
        lambda: F.cross_entropy(torch.randn(3, 5), torch.tensor([0, 4, 1]), label_smoothing=0.1),
        lambda: F.mse_loss(rows, rows + 1),
        lambda: F.pad(image, (1, 2, 0, 1)),
        lambda: rows.masked_fill(mask[:, :1], -1e9).chunk(2, -1)[0].transpose(1, 2) @ rows[:, :, :4].tril() / 2.5,
        lambda: torch.cat([-rows[..., 4:], rows[..., :4]], -1).view(2, 5, 2, 4).mean((1, 2)) + 1e-6,
        lambda: (rows * rows - 3 * rows).pow(2).roll(1, 1).sum(1),
    ]
    found: list[tuple[Call, Variant]] = []
    for call in made:
        watch = Watch(note=True)
        with watch:
            call()
        found += [(one, variant) for one in watch.calls for variant in variants.of(one)]
    return found


def test_every_mistake_that_is_told_is_in_the_catalogue_and_can_be_computed():
    found = _calls()
    assert len(found) > 400
    assert {variant.key for _, variant in found} - {""} <= set(MISTAKES)
    told = [variant.told("jax") for _, variant in found]
    assert all(line.startswith(("JAX: ", "JAX has ")) and "  " not in line for line in told)
    failed = 0
    for call, variant in found:
        try:
            variant.run(call)
        except (RuntimeError, ValueError, TypeError, IndexError):  # it does not fit these shapes
            failed += 1
    assert failed < len(found) / 6
