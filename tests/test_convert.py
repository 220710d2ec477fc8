"""Layouts, by hand: where each number of a PyTorch array ends up."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalex import convert, models
from jaxalex.errors import UsageError


def _params(name: str = "cifar10", size: int = 32, width: float = 0.05) -> dict:
    model = models.build(name, width=width)
    return jax.tree.map(np.asarray, jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, size, size, 3)))["params"])


@pytest.mark.parametrize(("name", "size"), [("cifar10", 32), ("paper", 224)])
def test_round_trip_is_exact(name: str, size: int) -> None:
    params = _params(name, size)
    arrays = convert.to_torch(params, name)
    back = convert.from_torch(arrays, name)
    for layer in params:
        for part in ("kernel", "bias"):
            np.testing.assert_array_equal(back[layer][part], params[layer][part])
    assert list(arrays) == [
        *(f"conv{n}.0.{part}" for n in range(1, 6) for part in ("weight", "bias")),
        *("fc1.1.weight", "fc1.1.bias", "fc2.0.weight", "fc2.0.bias", "fc3.0.weight", "fc3.0.bias"),
    ]


def test_where_each_number_goes() -> None:
    params = _params()
    arrays = convert.to_torch(params, "cifar10")
    # A convolution's kernel is [h, w, in, out] here and [out, in, h, w] there.
    assert arrays["conv2.0.weight"][7, 2, 0, 1] == params["conv2"]["kernel"][0, 1, 2, 7]
    assert arrays["fc3.0.weight"][4, 100] == params["fc3"]["kernel"][100, 4]
    # conv5 has 13 channels at this width and fc1 sees 4×4 pixels: channel 5 of the pixel in row 2, column 3 is value
    # (2·4 + 3)·13 + 5 in our order, 5·16 + 2·4 + 3 in PyTorch's.
    assert arrays["fc1.1.weight"][9, 5 * 16 + 2 * 4 + 3] == params["fc1"]["kernel"][(2 * 4 + 3) * 13 + 5, 9]


def test_a_feature_map_that_is_not_square() -> None:
    model = models.build("cifar10", width=0.05)
    params = jax.tree.map(np.asarray, model.init(jax.random.key(0), jnp.zeros((1, 40, 24, 3)))["params"])
    arrays = convert.to_torch(params, "cifar10", feature_hw=(5, 3))
    # Channel 5 of row 4, column 2.
    assert arrays["fc1.1.weight"][9, 5 * 15 + 4 * 3 + 2] == params["fc1"]["kernel"][(4 * 3 + 2) * 13 + 5, 9]
    back = convert.from_torch(arrays, "cifar10", feature_hw=(5, 3))
    np.testing.assert_array_equal(back["fc1"]["kernel"], params["fc1"]["kernel"])
    with pytest.raises(UsageError, match="3x3 feature map of 13 channels"):
        convert.to_torch(params, "cifar10")


def test_weights_of_another_network_are_refused_with_every_shape() -> None:
    arrays = convert.to_torch(_params("paper", 224), "paper")
    with pytest.raises(UsageError) as caught:
        convert.from_torch(arrays, "cifar10")
    assert "conv1.0.weight: expected (5, 3, 3, 3), found (5, 3, 11, 11)" in str(caught.value)
    assert "conv2.0.weight: expected (13, 5, 3, 3), found (13, 5, 5, 5)" in str(caught.value)


def test_every_missing_and_unknown_name_is_listed() -> None:
    arrays = convert.to_torch(_params(), "cifar10")
    arrays["features.0.weight"] = arrays.pop("conv1.0.weight")
    del arrays["fc3.0.bias"]
    with pytest.raises(UsageError) as caught:
        convert.from_torch(arrays, "cifar10")
    for line in ("conv1.0.weight: missing", "fc3.0.bias: missing", "features.0.weight: unknown"):
        assert line in str(caught.value)


def test_layers_that_do_not_chain_are_refused() -> None:
    arrays = convert.to_torch(_params(), "cifar10")
    arrays["fc2.0.weight"] = arrays["fc2.0.weight"][:, 1:]
    arrays["conv3.0.bias"] = np.zeros(3, np.float32)
    with pytest.raises(UsageError) as caught:
        convert.from_torch(arrays, "cifar10")
    assert "fc2.0.weight: expected (205, 205), found (205, 204)" in str(caught.value)
    assert "conv3.0.bias: expected (19,), found (3,)" in str(caught.value)
