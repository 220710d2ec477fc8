"""What `netparity.compare` cannot compare: one `ParityError` that says all that is wrong, and where."""

from __future__ import annotations

from typing import Any

import flax.linen as fnn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from netparity import AsIs, ConvKernel, DenseKernel, ParityError, Same, compare, infer_table, linen
from netparity.results import Check

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((3, 6, 8, 2)).astype(np.float32)
LABELS = np.array([0, 4, 1])
TABLE: dict[str, Any] = {
    "conv.kernel": ConvKernel("conv.weight"),
    "conv.bias": Same("conv.bias"),
    "fc.kernel": DenseKernel("fc.weight"),
    "fc.bias": Same("fc.bias"),
}


class FlaxNet(fnn.Module):
    """A convolution, a mean over the map, and a dense layer."""

    fails: bool = False

    @fnn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if self.fails and train:
            raise ValueError("never trained\nand more")
        return fnn.Dense(5, name="fc")(fnn.Conv(4, (3, 3), padding=1, name="conv")(x).mean((1, 2)))


class TorchNet(nn.Module):
    """The same network, with a ReLU that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.unused = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 5), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


class NeverTrained(TorchNet):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise ValueError("never trained")
        return super().forward(x)


class Narrow(TorchNet):
    """Each channel is convolved by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, groups=2)


def _sum(outputs: Any, labels: Any) -> Any:
    return outputs.sum()


def _variables(network: fnn.Module) -> Any:
    return network.init(jax.random.key(0), jnp.asarray(IMAGES))


def _compare(
    jax_network: Any = None, module: Any = None, inputs: Any = IMAGES, labels: Any = LABELS, **keywords: Any
) -> None:
    """`compare` with everything right but what is given."""
    network = linen(FlaxNet(), _variables(FlaxNet())) if jax_network is None else jax_network
    compare(
        network, TorchNet() if module is None else module, inputs, labels=labels, **{"dtypes": ["float64"], **keywords}
    )


def test_what_the_tests_change_passes_as_it_is():
    network = linen(FlaxNet(), _variables(FlaxNet()))
    result = compare(network, TorchNet(), IMAGES, labels=LABELS, table=TABLE, dtypes=["float64"])
    assert result.passed, result.failures


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        # Arguments of the wrong kind.
        (
            {"jax_network": FlaxNet()},
            ["the JAX network is FlaxNet", "netparity.linen(module, variables)", "netparity.function(forward, params)"],
        ),
        ({"jax_network": TorchNet()}, ["the JAX network is TorchNet"]),
        ({"jax_network": lambda params, x: x}, ["the JAX network is function"]),
        ({"module": TorchNet().state_dict()}, ["the PyTorch network is OrderedDict, not an nn.Module"]),
        ({"inputs": np.array(["a"])}, ["an input of dtype <U1 is neither floating nor of integers"]),
        ({"inputs": IMAGES.astype(complex)}, ["an input of dtype complex128"]),
        ({"table": {**TABLE, "fc.bias": "fc.bias"}}, ["fc.bias"]),
        ({"layouts": {"conv": "NCHW"}}, ["conv"]),
        # Inputs that a network does not take.
        (
            {"inputs": IMAGES[..., :1]},
            ["the JAX network fails on these inputs in evaluation mode: ScopeParamShapeError: ", '"kernel" in "/conv"'],
        ),
        ({"inputs": (IMAGES, IMAGES)}, ["the JAX network fails on these inputs in evaluation mode: TypeError: "]),
        ({"inputs": IMAGES[:0], "labels": LABELS[:0]}, ["[0, 6, 8, 2]"]),
        (
            {"module": nn.Sequential(nn.Conv2d(3, 4, 3))},
            [
                "the PyTorch network fails on the inputs [3, 6, 8, 2], channels first or as they are: RuntimeError: ",
                "to have 3 channels, but got 2 channels instead",
            ],
        ),
        ({"module": NeverTrained()}, ["the PyTorch network fails", "in training mode: ValueError: never trained"]),
        # Labels that the loss does not take.
        ({"labels": LABELS[:2]}, ["labels", "[2]"]),
        ({"labels": np.array([0, 5, 1])}, ["labels", "5"]),
        # Names that are nowhere.
        (
            {"stages": {"nowhere": "conv", "conv": "conv", "there": "fc"}},
            ["the JAX network has no value called nowhere, there in evaluation mode; it has conv, fc, output"],
        ),
        (
            {"stages": {"conv": "nine", "fc": "ten"}},
            ["conv: the PyTorch network has no module 'nine'; fc: the PyTorch network has no module 'ten'"],
        ),
        ({"stages": {}}, ["stages"]),
        ({"dropouts": ["drop"]}, ["drop"]),
        ({"layouts": {"nowhere": AsIs(), "there": AsIs()}}, ["no stage: nowhere", "no stage: there"]),
        ({"allow": ["cheese", "mice"]}, ["nothing to allow called cheese, mice: known are biased running variance"]),
        ({"allow": "biased running variance"}, ["allow"]),
        (
            {"dtypes": ["float16"], "modes": ["sleep"]},
            ["dtypes are of float64, float32; float16 is none", "modes are of training, evaluation; sleep is none"],
        ),
        ({"dtypes": []}, ["dtypes are of float64, float32"]),
        ({"modes": []}, ["modes are of training, evaluation, at least one"]),
        ({"state_dict": {"nowhere": torch.zeros(2)}}, ["nowhere"]),
        # One loss of two.
        ({"jax_loss": _sum}, ["one loss is given: give jax_loss and torch_loss, or none of them"]),
        ({"torch_loss": _sum}, ["one loss is given"]),
        # Parameters that are left over.
        (
            {"table": {"conv.kernel": Same("conv.weight"), "cheese.kernel": Same("mice.weight")}},
            [
                "conv.kernel: JAX has [3, 3, 2, 4], PyTorch's conv.weight gives [4, 2, 3, 3]",
                "cheese.kernel: no such JAX parameter",
                "cheese.kernel: no such PyTorch parameter mice.weight",
                *(f"{name}: a JAX parameter without an entry" for name in ("conv.bias", "fc.kernel", "fc.bias")),
                *(f"{name}: a PyTorch parameter without an entry" for name in ("conv.bias", "fc.weight", "fc.bias")),
            ],
        ),
        (
            {"module": nn.Sequential(TorchNet(), nn.Linear(5, 5))},
            ["the table of parameters cannot be inferred", "1.weight [5, 5]: nothing in JAX", "1.bias [5]: nothing in"],
        ),
        (
            {"module": Narrow()},
            ["conv.kernel [3, 3, 2, 4]: nothing in PyTorch fits", "conv.weight [4, 1, 3, 3]: nothing in JAX fits"],
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_in_one_error(given, parts):
    with pytest.raises(ParityError) as caught:
        _compare(**given)
    message = str(caught.value)
    for part in parts:
        assert part in message
    assert "\n" not in message


def test_a_jax_network_that_fails_in_training_is_told_in_one_line():
    network = FlaxNet(fails=True)
    expected = "the JAX network fails on these inputs in training mode: ValueError: never trained$"
    with pytest.raises(ParityError, match=expected):
        _compare(jax_network=linen(network, _variables(network)))


def test_a_module_that_is_never_called_is_no_stage():
    result = compare(
        linen(FlaxNet(), _variables(FlaxNet())),
        TorchNet(),
        IMAGES,
        labels=LABELS,
        stages={"conv": "conv", "fc": "unused"},
    )
    (failure,) = result.failures
    assert isinstance(failure, Check)
    assert (failure.level, failure.stage, failure.note) == ("shapes", "fc", "PyTorch never gets there")


@pytest.mark.parametrize(
    ("module", "variables", "message"),
    [
        (TorchNet(), {"params": {}}, "takes a flax.linen.Module and its variables, not TorchNet"),
        (FlaxNet(), {"conv": {"kernel": np.ones(1)}}, "takes what module.init returned"),
        (FlaxNet(), None, "takes what module.init returned"),
        (FlaxNet(), {"params": {"conv": {"kernel": "text"}}}, "conv.kernel"),
    ],
)
def test_what_is_no_linen_network_is_refused(module, variables, message):
    with pytest.raises(ParityError, match=message):
        linen(module, variables)


def test_a_table_that_cannot_be_inferred_names_what_is_left():
    with pytest.raises(ParityError, match=r"1\.weight \[5, 5\]: nothing in JAX fits; 1\.bias \[5\]: nothing in JAX"):
        infer_table(linen(FlaxNet(), _variables(FlaxNet())), nn.Sequential(TorchNet(), nn.Linear(5, 5)), IMAGES)
