"""Networks with any state, and a user's own converter: a right port passes, and a wrong one is told what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as fnn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jax.ad_checkpoint import checkpoint_name
from torch import nn
from torch.nn.utils import parametrizations

import netparity
from netparity import DenseKernel, ParityError, Same
from netparity.adapters.given import JaxNetwork
from netparity.results import Check
from netparity.table import Entry
from parity_tests.tests.pairs import FLOAT64, fails, linen, passes, redrawn

pytestmark = pytest.mark.users_programs

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((5, 4, 6, 3)).astype(np.float32)
VECTORS = RNG.standard_normal((5, 6)).astype(np.float32)
LABELS = np.array([0, 1, 1, 0, 1])
BIASED: dict[str, Any] = {"allow": ["biased running variance"]}


# ---------------------------------------------------------------------------------------------------- statistics


class Normalised(fnn.Module):
    """Of images, or of vectors."""

    momentum: float = 0.9
    epsilon: float = 1e-5
    stuck: bool = False

    @fnn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = fnn.Conv(4, (1, 1), name="fc")(x) if x.ndim == 4 else fnn.Dense(4, name="fc")(x)
        average = self.stuck or not train
        x = fnn.relu(fnn.BatchNorm(average, momentum=self.momentum, epsilon=self.epsilon, name="bn")(x))
        return fnn.Dense(2, name="head")(x.mean(tuple(range(1, x.ndim - 1))))


class TorchNormalised(nn.Module):
    def __init__(self, *, images: bool = True, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.fc = nn.Conv2d(3, 4, 1) if images else nn.Linear(6, 4)
        self.bn = nn.BatchNorm2d(4, momentum=momentum) if images else nn.BatchNorm1d(4, momentum=momentum)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn(self.fc(x)))
        return self.head(x.flatten(2).mean(2) if x.ndim == 4 else x)


def _port(x: np.ndarray = IMAGES, **keywords: Any) -> JaxNetwork:
    return linen(Normalised(**keywords), x, train=False)


def test_batch_normalisation_with_a_biased_variance_that_is_meant_or_not():
    assert passes(_port(), TorchNormalised(), IMAGES, labels=LABELS, **BIASED) == ["fc", "bn", "head"]
    passes(_port(VECTORS), TorchNormalised(images=False), VECTORS, **BIASED)
    stage, said = fails(_port(), TorchNormalised(), IMAGES)
    assert stage == "bn"
    assert "JAX keeps the biased running variance, PyTorch the unbiased one: if that is meant, allow=[" in said


def test_what_is_allowed_must_be_just_that():
    with pytest.raises(
        ParityError, match=r"nothing to allow called biased variance: known are biased running variance"
    ):
        netparity.compare(_port(), TorchNormalised(), IMAGES, allow=["biased variance"])
    # A variance that is moved by another momentum is no biased one.
    assert fails(_port(momentum=0.8), TorchNormalised(), IMAGES, **BIASED)[0] == "bn"


@pytest.mark.parametrize(("flax", "momentum", "right"), [(0.1, 0.1, "0.9"), (0.3, 0.3, "0.7")])
def test_a_momentum_that_is_pytorchs(flax: float, momentum: float, right: str):
    result = netparity.compare(
        _port(momentum=flax), TorchNormalised(momentum=momentum), IMAGES, dtypes=FLOAT64, **BIASED
    )
    first = result.failures[0]
    assert isinstance(first, Check)
    assert (first.level, first.stage, first.name) == ("state", "bn", "bn.mean after a step")
    assert first.note == (
        f"JAX moves by {right} of the difference, PyTorch by its momentum of {momentum:g}: "
        f"a Flax momentum is 1 - PyTorch's, {right} here"
    )
    assert not [one for one in result.layers if not one.passed]


def test_statistics_that_training_does_not_use_and_an_epsilon():
    assert fails(_port(stuck=True), TorchNormalised(), IMAGES, **BIASED)[0] == "bn"
    passes(_port(stuck=True), TorchNormalised(), IMAGES, modes=["evaluation"])
    assert fails(_port(epsilon=1e-3), TorchNormalised(), IMAGES, **BIASED)[0] == "bn"
    assert fails(_port(), TorchNormalised(momentum=None), IMAGES, **BIASED)[0] == "bn"  # an average of all batches


class AlwaysTraining(fnn.Module):
    @fnn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = fnn.Conv(4, (1, 1), name="fc")(x)
        x = fnn.relu(fnn.BatchNorm(use_running_average=False, name="bn")(x))
        return fnn.Dense(2, name="head")(x.mean((1, 2)))


def test_statistics_that_change_in_evaluation_are_refused_in_one_line():
    with pytest.raises(ParityError, match=r"^the JAX network fails on these inputs in evaluation mode: ModifyScope"):
        netparity.compare(linen(AlwaysTraining(), IMAGES), TorchNormalised(), IMAGES)


def test_one_value_of_a_channel_has_no_variance():
    one = IMAGES[:1, :1, :1]
    with pytest.raises(
        ParityError, match=r"^the PyTorch network fails on these inputs in training mode: .*more than 1 value .*evalu"
    ):
        netparity.compare(_port(one), TorchNormalised(), one, **BIASED)
    passes(_port(one), TorchNormalised(), one, modes=["evaluation"])


class Centred(fnn.Module):
    decay: float = 0.9
    stopped: bool = True
    after: bool = False

    @fnn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = fnn.Dense(4, name="fc")(x)
        centre = self.variable("averages", "centre", jnp.zeros, 4)
        before = centre.value
        if train:
            mean = (jax.lax.stop_gradient(x) if self.stopped else x).mean(0)
            centre.value = self.decay * before + (1 - self.decay) * mean
        return fnn.Dense(2, name="head")(x - (before if self.after else centre.value)[None])


class TorchCentred(nn.Module):
    centre: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(6, 4), nn.Linear(4, 2)
        self.register_buffer("centre", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc(x)
        if self.training:
            self.centre.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        return self.head(x - self.centre)


def test_a_moving_average_in_a_buffer():
    module = TorchCentred()
    before = module.centre.clone()
    passes(linen(Centred(), VECTORS, train=False), module, VECTORS, dtypes=("float64", "float32"))
    assert torch.equal(module.centre, before)
    for wrong in (Centred(decay=0.99), Centred(stopped=False), Centred(after=True)):
        assert fails(linen(wrong, VECTORS, train=False), module, VECTORS)[0] == "head"


# ---------------------------------------------------------------------------------------------------- spectral norm


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.sqrt((x * x).sum())


def _spectral(
    change: Callable[[Any, Any], Any] = lambda before, after: after, iterations: int = 1, normalised: bool = True
) -> Callable[..., Any]:
    """A network whose first layer is divided by its largest singular value, of one more power iteration each time."""

    def forward(params: Any, x: jax.Array, *, state: Any, train: bool) -> Any:
        weight, u, v = params["fc"]["kernel"].T, state["fc"]["u"], state["fc"]["v"]
        for _ in range(iterations if train else 0):
            u = _unit(jnp.dot(weight, v))
            v = _unit(jnp.dot(weight.T, u))
        u, v = jax.lax.stop_gradient((u, v))
        if normalised:
            weight = weight / jnp.dot(u, jnp.dot(weight, v))
        x = checkpoint_name(jnp.dot(x, weight.T) + params["fc"]["bias"][None], "fc")
        x = jnp.dot(jnp.tanh(x), params["head"]["kernel"]) + params["head"]["bias"][None]
        return x, change(state, {"fc": {"u": u, "v": v}})

    return forward


def _random(*shape: int, unit: bool = False) -> np.ndarray:
    array = np.random.default_rng(sum(shape)).standard_normal(shape)
    return (array / np.linalg.norm(array) if unit else array).astype(np.float32)


PARAMS = {
    "fc": {"kernel": _random(6, 8), "bias": _random(8)},
    "head": {"kernel": _random(8, 2), "bias": _random(2)},
}
STATE = {"fc": {"u": _random(8, unit=True), "v": _random(6, unit=True)}}
SPECTRAL: Mapping[str, Entry] = {
    "fc.kernel": DenseKernel("fc.parametrizations.weight.original"),
    "fc.bias": Same("fc.bias"),
    "fc.u": Same("fc.parametrizations.weight.0._u"),
    "fc.v": Same("fc.parametrizations.weight.0._v"),
    "head.kernel": DenseKernel("head.weight"),
    "head.bias": Same("head.bias"),
}


class TorchSpectral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = parametrizations.spectral_norm(nn.Linear(6, 8)), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.fc(x)))


def test_spectral_normalisation_by_hand():
    def port(forward: Callable[..., Any]) -> JaxNetwork:
        return netparity.function(forward, PARAMS, state=STATE)

    module, table = TorchSpectral(), {"table": SPECTRAL}
    stages = passes(port(_spectral()), module, VECTORS, dtypes=("float64", "float32"), **table)
    assert stages == ["fc", "output"]
    assert fails(port(_spectral(normalised=False)), module, VECTORS, **table)[0] == "fc"
    assert fails(port(_spectral(iterations=2)), module, VECTORS, **table)[0] == "fc"
    # The numbers of this pass are right, those of the next would not be.
    stage, said = fails(port(_spectral(lambda before, after: before)), module, VECTORS, **table)
    assert (stage, "fc.u after a step" in said) == ("fc", True)


# ---------------------------------------------------------------------------------------------------- converters


class Layers(fnn.Module):
    @fnn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return fnn.Dense(6, name="fc2")(fnn.relu(fnn.Dense(6, name="fc1")(x)))


class TorchLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.relu(self.fc1(x)))


def _converted(state_dict: Mapping[str, torch.Tensor], forgotten: str = "") -> Any:
    def layer(name: str) -> dict[str, np.ndarray]:
        weight = state_dict[f"{name}.weight"].numpy()
        return {"kernel": weight if name == forgotten else weight.T, "bias": state_dict[f"{name}.bias"].numpy()}

    return {"params": {name: layer(name) for name in ("fc1", "fc2")}}


def test_a_users_own_converter():
    module = TorchLayers()
    weights = module.state_dict()
    given: dict[str, Any] = {"state_dict": weights}
    passes(netparity.linen(Layers(), _converted(weights)), module, VECTORS, **given)
    result = netparity.compare(netparity.linen(Layers(), _converted(weights, "fc2")), module, VECTORS, **given)
    (wrong,) = result.failures
    assert isinstance(wrong, Check)
    assert (wrong.level, wrong.stage) == ("weights", "fc2.kernel")
    assert wrong.note == "the converter gives other numbers than the table does"
    # Without the state_dict both sides get the same wrong weights, which is no difference.
    passes(netparity.linen(Layers(), _converted(weights, "fc2")), module, VECTORS)


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (
            {"fc1.bias": torch.zeros(3)},
            r"^state_dict is not the PyTorch network's: fc1\.bias \[3\] for PyTorch's \[6\]$",
        ),
        ({"other": torch.zeros(3)}, r"other \[3\] for PyTorch's none$"),
        ({"fc1.bias": "a"}, r"^state_dict's fc1\.bias is str, no array: "),
    ],
)
def test_weights_that_are_not_the_networks_are_named(added: dict[str, Any], message: str):
    module = TorchLayers()
    weights = module.state_dict()
    with pytest.raises(ParityError, match=message):
        netparity.compare(
            netparity.linen(Layers(), _converted(weights)), module, VECTORS, state_dict={**weights, **added}
        )


@pytest.mark.slow
def test_rounding_in_float32_is_never_a_mistake():
    network, module = _port(), TorchNormalised()
    for seed in range(20):
        passes(redrawn(network, seed), module, IMAGES, dtypes=("float64", "float32"), seed=seed, **BIASED)
