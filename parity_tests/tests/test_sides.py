"""How each side is looked into: what is recorded, what is fed, and what cannot be compared."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch import nn

from netparity.jax_side import JaxSide
from netparity.measure import ParityError, max_error
from netparity.torch_side import TorchSide
from parity_tests.alexnet import networks
from parity_tests.alexnet.networks import Case

CASE = Case("cifar10", 1 / 16, 2, num_classes=10)


def _forward(params, images, key):
    x = images.reshape(images.shape[0], -1)
    first = jnp.dot(x, params["a"]["kernel"])
    second = jnp.sin(first)
    return second, {"a": first, "b": second}


PARAMS = {"a.kernel": np.ones((12, 3), np.float32) / 8}
IMAGES = np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3) / 16


def test_a_stage_is_fed_what_we_choose_and_gives_its_own_gradient():
    fed = {"a": np.full((2, 3), 0.5, np.float32), "b": np.zeros((2, 3), np.float32)}
    cotangents = {name: np.ones((2, 3), np.float32) for name in fed}
    found = JaxSide(_forward).isolated(PARAMS, IMAGES, fed, cotangents)
    assert list(found.outputs) == ["a", "b"]
    np.testing.assert_allclose(found.outputs["b"], np.sin(0.5), rtol=1e-6)
    np.testing.assert_allclose(found.vjp_inputs["b"], np.cos(0.5), rtol=1e-6)
    # The first stage's gradient comes from its own cotangent alone, not through the second.
    np.testing.assert_allclose(found.vjp_inputs["a"], np.full(IMAGES.shape, 3 / 8), rtol=1e-6)


def test_activation_gradients_are_those_of_the_whole_network():
    labels = np.array([0, 1])
    found = JaxSide(_forward).gradients(PARAMS, IMAGES, labels)

    def tail(first):
        logp = jax.nn.log_softmax(jnp.sin(first))
        return -logp[jnp.arange(2), jnp.asarray(labels)].mean()

    first = jnp.asarray(IMAGES.reshape(2, -1) @ PARAMS["a.kernel"])
    np.testing.assert_allclose(found.activations["a"], jax.grad(tail)(first), rtol=1e-5)
    assert found.loss == pytest.approx(float(tail(first)), rel=1e-6)


def test_intermediates_hidden_in_one_compiled_function_are_refused():
    hidden = jax.jit(lambda params, images: _forward(params, images, None))
    with pytest.raises(ParityError, match=r"without jax\.jit"):
        JaxSide(lambda params, images, key: hidden(params, images)).shapes(PARAMS, IMAGES)


def test_float64_stays_inside():
    assert (
        JaxSide(_forward).forward({"a.kernel": PARAMS["a.kernel"].astype(float)}, IMAGES.astype(float))["a"].dtype
        == np.float64
    )
    assert not jax.config.jax_enable_x64
    assert jnp.zeros(1).dtype == np.float32


def test_masks_are_those_that_training_draws():
    side, inputs = networks.jax_side(networks.jax_network(CASE)), networks.make_inputs(CASE)
    masks = side.masks(inputs.params, inputs.images, 5)
    seen = networks.jax_network(CASE).apply(
        {"params": networks.nested(inputs.params)},
        inputs.images,
        train=True,
        capture=True,
        rngs={"dropout": jax.random.key(5)},
    )[1]
    for before, name in (("relu6", "drop1"), ("relu7", "drop2")):
        np.testing.assert_array_equal(seen[name], seen[before] * masks[name] * 2)
        assert 0.3 < masks[name].mean() < 0.7


def test_layers_that_work_in_place_are_seen_as_they_were():
    module = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(inplace=True))
    side = TorchSide(module, {"a": "0", "b": "1"}, lambda x: x, lambda x: x)
    params = {"0.weight": -np.ones((2, 3, 1, 1), np.float32), "0.bias": np.zeros(2, np.float32)}
    seen = side.forward(params, np.ones((1, 2, 2, 3), np.float32))
    assert (seen["a"] == -3).all()
    assert (seen["b"] == 0).all()
    fed = {name: value.copy() for name, value in seen.items()}
    found = side.isolated(params, np.ones((1, 2, 2, 3), np.float32), fed, seen)
    assert max_error(found.outputs, seen) == 0


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(ParityError, match="b: the PyTorch network has no module 'nine'"):
        TorchSide(nn.Sequential(nn.ReLU()), {"a": "0", "b": "nine"}, lambda x: x, lambda x: x)
