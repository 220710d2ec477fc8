"""Right ports pass as they are: what a natural port and its original do differently, and are right to."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import flax.linen as fnn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax import lax
from torch import nn

from netparity import AsIs, ConvKernel, DenseKernel, ParityError, Result, Same, compare, function, linen
from netparity.results import Check

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((3, 6, 8, 3)).astype(np.float32)
LABELS = np.array([0, 3, 1])


class FlaxNet(fnn.Module):
    """torchvision's order: the dropout stands between flatten and the dense layer."""

    channels_dropped: bool = False
    dtype: Any = None

    @fnn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        seen = {}
        x = seen["conv"] = fnn.Conv(4, (3, 3), padding=1, dtype=self.dtype, precision="highest", name="conv")(x)
        x = seen["relu"] = fnn.relu(x)
        if self.channels_dropped:
            x = seen["drop"] = fnn.Dropout(0.5, broadcast_dims=(1, 2), deterministic=not train)(x)
        x = x.reshape(x.shape[0], -1)
        if not self.channels_dropped:
            x = seen["drop"] = fnn.Dropout(0.25, deterministic=not train)(x)
        x = seen["fc"] = fnn.Dense(5, precision="highest", name="fc")(x)
        return x, seen


TABLE: dict[str, Same | ConvKernel | DenseKernel] = {
    "conv.kernel": ConvKernel("conv.weight"),
    "conv.bias": Same("conv.bias"),
    "fc.kernel": DenseKernel("fc.weight", flattened=(6, 8, 4)),
    "fc.bias": Same("fc.bias"),
}
STAGES = {name: name for name in ("conv", "relu", "drop", "fc")}


def _compared(
    network: fnn.Module, module: nn.Module, table: Any = None, stages: Any = None, layouts: Any = None
) -> Result:
    def forward(params: Any, images: jax.Array, key: jax.Array | None) -> Any:
        return network.apply(
            {"params": params}, images, train=key is not None, rngs={} if key is None else {"dropout": key}
        )

    params = network.init(jax.random.key(1), jnp.asarray(IMAGES), train=False)["params"]
    ours = function(forward, params, intermediates=True)
    return compare(
        ours,
        module,
        IMAGES,
        labels=LABELS,
        table=table or TABLE,
        stages=stages or STAGES,
        dropouts=["drop"],
        layouts=layouts,
    )


def _torch_net(*, inplace: bool = False) -> nn.Sequential:
    layers: list[tuple[str, nn.Module]] = [
        ("conv", nn.Conv2d(3, 4, 3, padding=1)),
        ("relu", nn.ReLU(inplace=inplace)),
        ("flatten", nn.Flatten()),
        ("drop", nn.Dropout(0.25, inplace=inplace)),
        ("fc", nn.Linear(6 * 8 * 4, 5)),
    ]
    return nn.Sequential(OrderedDict(layers))


@pytest.mark.parametrize("inplace", [False, True])
def test_a_dropout_between_flatten_and_the_dense_layer(inplace):
    result = _compared(FlaxNet(), _torch_net(inplace=inplace))
    assert result.passed, result.failures


def test_an_unpermuted_kernel_behind_such_a_dropout_is_still_found():
    result = _compared(FlaxNet(), _torch_net(), {**TABLE, "fc.kernel": DenseKernel("fc.weight")})
    assert result.failures[0].stage == "drop"  # where the unpermuted order first shows


class _Cut(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :100]


class _Filled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.pad(x, (0, self.in_features - x.shape[1])))


def test_a_flat_stage_of_another_size_is_told_in_its_shapes():
    module = _torch_net()
    module.drop, module.fc = _Cut(), _Filled(192, 5)  # PyTorch's own shapes fit together
    (failure,) = [one for one in _compared(FlaxNet(), module).failures if one.stage == "drop"]
    assert isinstance(failure, Check)
    assert failure.note == "JAX [3, 192], PyTorch [3, 100]"


def test_a_dropout_of_whole_channels():
    module = _torch_net()
    module.flatten, module.drop = nn.Dropout2d(0.5), nn.Flatten()  # the two change places
    stages = {**STAGES, "drop": "flatten"}
    result = _compared(FlaxNet(channels_dropped=True), module, stages=stages)
    assert result.passed, result.failures


def test_a_layer_with_a_dtype_of_its_own_is_named():
    with pytest.raises(
        ParityError, match=r"fed float64, .* dtype of its own at conv \(float32\), .*leave out the layers' dtype="
    ):
        _compared(FlaxNet(dtype=jnp.float32), _torch_net())


class FlaxNorm(fnn.Module):
    """Batch normalisation with statistics of its own, and no dropout anywhere."""

    stuck: bool = False

    @fnn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        evaluating = self.stuck or not train
        x = fnn.Conv(8, (3, 3), padding=1, precision="highest", name="conv")(x)
        x = fnn.BatchNorm(evaluating, momentum=0.9, epsilon=1e-5, name="norm")(x)
        return fnn.Dense(5, precision="highest", name="fc")(x.reshape(x.shape[0], -1))


def test_batch_normalisation_in_both_modes_with_running_statistics():
    variables = FlaxNorm().init(jax.random.key(1), jnp.asarray(IMAGES), train=False)
    mean, var = RNG.standard_normal(8).astype(np.float32), RNG.uniform(0.5, 2, 8).astype(np.float32)
    variables = {**variables, "batch_stats": {"norm": {"mean": mean, "var": var}}}
    norm = nn.BatchNorm2d(8)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    layers: list[tuple[str, nn.Module]] = [("conv", nn.Conv2d(3, 8, 3, padding=1)), ("norm", norm)]
    module = nn.Sequential(OrderedDict([*layers, ("flat", nn.Flatten()), ("fc", nn.Linear(384, 5))]))
    keywords: dict[str, Any] = {"labels": LABELS, "dtypes": ["float64"], "allow": ["biased running variance"]}
    result = compare(linen(FlaxNorm(), variables), module, IMAGES, **keywords)
    assert result.passed, result.failures
    assert {(row.stage, row.mode) for row in result.layers} == {
        *((name, "training") for name in ("conv", "norm", "fc")),
        ("norm", "evaluation"),  # the others compute the same
    }
    # Modules and arrays of both users are as they were.
    np.testing.assert_array_equal(variables["batch_stats"]["norm"]["mean"], mean)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())

    # A port that never leaves evaluation mode is wrong where the modes differ.
    result = compare(linen(FlaxNorm(stuck=True), variables), module, IMAGES, **keywords)
    assert {one.stage for one in result.failures if not isinstance(one, Check)} == {"norm"}
    assert result.failures[0].stage == "norm"


class _Attention(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = x.unflatten(2, (2, 4)).transpose(1, 2)
        return q @ q.transpose(2, 3)


class _Pooled(nn.Module):
    def forward(self, weights: torch.Tensor) -> torch.Tensor:
        return weights.flatten(1)[:, :5]


def _attention(params: Any, images: jax.Array, key: jax.Array | None) -> Any:
    x = jnp.dot(images, params["proj"]["kernel"], precision="highest")
    q = x.reshape(*x.shape[:2], 2, 4).transpose(0, 2, 1, 3)
    weights = jnp.einsum("bhqd,bhkd->bhqk", q, q, precision=lax.Precision.HIGHEST)
    logits = weights.reshape(len(images), -1)[:, :5]
    return logits, {"proj": x, "scores": weights, "logits": logits}


@pytest.mark.parametrize("tokens", [6, 2])
def test_an_attention_map_is_no_image(tokens):
    module = nn.Sequential(OrderedDict(proj=nn.Linear(7, 8, bias=False), scores=_Attention(), logits=_Pooled()))
    x = RNG.standard_normal((3, tokens, 7)).astype(np.float32)
    params = {"proj": {"kernel": RNG.standard_normal((7, 8)).astype(np.float32)}}
    stages = {name: name for name in ("proj", "scores", "logits")}
    # Two heads of two tokens look like an image of either layout: such a map must be stated.
    stated = {"scores": AsIs()} if tokens == 2 else None
    labels = np.array([0, 3, 1])
    table = {"proj.kernel": DenseKernel("proj.weight")}
    ours = function(_attention, params, intermediates=True)
    result = compare(ours, module, x, labels=labels, table=table, stages=stages, layouts=stated, dtypes=["float64"])
    assert result.passed, result.failures


def test_a_layout_for_what_is_no_stage_is_refused():
    with pytest.raises(ParityError, match="no stage: nowhere"):
        _compared(FlaxNet(), _torch_net(), layouts={"nowhere": AsIs()})
