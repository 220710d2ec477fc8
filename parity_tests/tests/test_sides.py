"""How each side is looked into: what is recorded, what is fed, and what cannot be compared."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.ad_checkpoint import checkpoint_name
from torch import nn

from netparity.graph import ByHand
from netparity.jax_side import JaxSide, mean_cross_entropy
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
    found = JaxSide(ByHand(_forward)).isolated(PARAMS, IMAGES, fed, cotangents)
    assert list(found.outputs) == ["a", "b"]
    np.testing.assert_allclose(found.outputs["b"], np.sin(0.5), rtol=1e-6)
    np.testing.assert_allclose(found.products["b", "a"], np.cos(0.5), rtol=1e-6)
    # The first stage's gradient comes from its own cotangent alone, not through the second.
    np.testing.assert_allclose(found.products["a", "input"], np.full(IMAGES.shape, 3 / 8), rtol=1e-6)
    # Every row of the kernel meets the same pixel of both images.
    summed = np.repeat(IMAGES.reshape(2, 12).sum(axis=0)[:, None], 3, axis=1)
    np.testing.assert_allclose(found.products["a", "a.kernel"], summed, rtol=1e-6)
    assert set(found.products) == {("a", "input"), ("a", "a.kernel"), ("b", "a")}


def test_activation_gradients_are_those_of_the_whole_network():
    labels = np.array([0, 1])
    found = JaxSide(ByHand(_forward)).gradients(PARAMS, IMAGES, labels)

    def tail(first):
        logp = jax.nn.log_softmax(jnp.sin(first))
        return -logp[jnp.arange(2), jnp.asarray(labels)].mean()

    first = jnp.asarray(IMAGES.reshape(2, -1) @ PARAMS["a.kernel"])
    np.testing.assert_allclose(found.activations["a"], jax.grad(tail)(first), rtol=1e-5)
    assert found.loss == pytest.approx(float(tail(first)), rel=1e-6)


def test_intermediates_hidden_in_one_compiled_function_are_refused():
    hidden = jax.jit(lambda params, images: _forward(params, images, None))
    with pytest.raises(ParityError, match=r"without jax\.jit"):
        JaxSide(ByHand(lambda params, images, key: hidden(params, images))).shapes(PARAMS, IMAGES)


def test_intermediates_that_are_marked_are_found_inside_a_compiled_function():
    @jax.jit
    def hidden(params, images):
        first = checkpoint_name(jnp.dot(images.reshape(images.shape[0], -1), params["a"]["kernel"]), "a")
        return checkpoint_name(jnp.sin(first), "b")

    side = JaxSide(ByHand(lambda params, images, key: (hidden(params, images), {})))
    assert list(side.shapes(PARAMS, IMAGES).items()) == [("a", (2, 3)), ("b", (2, 3))]
    fed = {"a": np.full((2, 3), 0.5, np.float32), "b": np.zeros((2, 3), np.float32)}
    found = side.isolated(PARAMS, IMAGES, fed, {name: np.ones((2, 3), np.float32) for name in fed})
    np.testing.assert_allclose(found.outputs["b"], np.sin(0.5), rtol=1e-6)
    np.testing.assert_allclose(found.products["b", "a"], np.cos(0.5), rtol=1e-6)


def test_float64_stays_inside():
    assert (
        JaxSide(ByHand(_forward))
        .forward({"a.kernel": PARAMS["a.kernel"].astype(float)}, IMAGES.astype(float))["a"]
        .dtype
        == np.float64
    )
    assert not jax.config.read("jax_enable_x64")
    assert jnp.zeros(1).dtype == np.float32


@dataclasses.dataclass(frozen=True)
class _Counted:
    """`_forward`, which counts in ``traces`` how often JAX traces it; equal to another of the same name."""

    name: str
    traces: list[str] = dataclasses.field(compare=False)

    def __call__(self, params, images, key):
        self.traces.append("training" if key is not None else "evaluation")
        return _forward(params, images, key)


def test_equal_sides_share_one_compiled_program():
    traces: list[str] = []
    first = JaxSide(ByHand(_Counted("shared", traces))).forward(PARAMS, IMAGES)
    for _ in range(2):
        again = JaxSide(ByHand(_Counted("shared", traces))).forward(PARAMS, IMAGES)
        assert max_error(again, first) == 0
    assert traces == ["evaluation"]


def test_another_dtype_or_mode_is_another_program_and_compiles_once():
    traces: list[str] = []
    side = JaxSide(ByHand(_Counted("by dtype and mode", traces)))
    double = {"a.kernel": PARAMS["a.kernel"].astype(float)}
    for _ in range(2):
        assert side.forward(PARAMS, IMAGES)["b"].dtype == np.float32
        assert side.forward(double, IMAGES.astype(float))["b"].dtype == np.float64
        assert side.gradients(PARAMS, IMAGES, np.array([0, 1])).activations["b"].dtype == np.float32
        assert list(side.forward(PARAMS, IMAGES, seed=1)) == ["a", "b"]
    assert traces == ["evaluation", "evaluation", "evaluation", "training"]


def test_sides_of_another_loss_are_not_equal():
    labels = np.array([0, 1])
    once = JaxSide(ByHand(_forward)).gradients(PARAMS, IMAGES, labels).loss
    twice = JaxSide(ByHand(_forward), lambda z, y: 2 * mean_cross_entropy(z, y)).gradients(PARAMS, IMAGES, labels).loss
    assert twice == pytest.approx(2 * once)


def _forward_with_noise(params, images, key):
    """Has a stage in training that evaluation has not, and another order of its names."""
    x = images.reshape(images.shape[0], -1) @ params["a"]["kernel"]
    if key is None:
        return x, {"a": x}
    noisy = x * (jax.random.uniform(key, x.shape) < 0.5)
    return noisy, {"a": x, "Noise": noisy}


@pytest.mark.parametrize("training_first", [True, False])
def test_training_may_have_other_stages_than_evaluation(training_first):
    def forward(params, images, key):  # a network of its own each time: nothing is compiled yet
        return _forward_with_noise(params, images, key)

    side, expected = JaxSide(ByHand(forward), dropouts=("Noise",)), {False: ["a"], True: ["a", "Noise"]}
    for training in (training_first, not training_first, training_first):
        seed = 3 if training else None
        assert list(side.forward(PARAMS, IMAGES, seed)) == expected[training]
        assert list(side.gradients(PARAMS, IMAGES, np.array([0, 1]), seed).activations) == expected[training]
        fed = {name: np.ones((2, 3), np.float32) for name in expected[training]}
        assert list(side.isolated(PARAMS, IMAGES, fed, fed, seed).outputs) == expected[training]
    evaluation = side.forward(PARAMS, IMAGES)["a"]
    np.testing.assert_allclose(evaluation, IMAGES.reshape(2, -1) @ PARAMS["a.kernel"], rtol=1e-6)


def test_a_stage_that_is_fed_nothing_is_refused():
    fed = {"a": np.ones((2, 3), np.float32)}
    with pytest.raises(ParityError, match=r"has the stages a, Noise in training, and is fed a:"):
        JaxSide(ByHand(_forward_with_noise), dropouts=("Noise",)).isolated(PARAMS, IMAGES, fed, fed, 3)


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


def test_a_module_keeps_its_weights_its_buffers_and_the_mode_of_each_part():
    module = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5))
    module.train()
    module[1].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    side = TorchSide(module, {"a": "0", "b": "1", "c": "2"}, lambda x: x, lambda x: x)
    params = {name: np.full(value.shape, 2, np.float32) for name, value in module.named_parameters()}
    images, labels = np.ones((1, 2, 2, 3), np.float32), np.zeros((1, 2, 2), np.int64)
    masks = {"c": np.ones((1, 2, 2, 2), np.uint8)}
    side.shapes(params, images, {})
    side.forward(params, images)
    side.gradients(params, images, labels, masks)
    assert [part.training for part in module] == [True, False, True]
    assert module.training
    for name, value in module.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name]), name


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(ParityError, match="b: the PyTorch network has no module 'nine'"):
        TorchSide(nn.Sequential(nn.ReLU()), {"a": "0", "b": "nine"}, lambda x: x, lambda x: x)
