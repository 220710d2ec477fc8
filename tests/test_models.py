"""The networks are the published ones: literal expectations from the published tables."""

from __future__ import annotations

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxalex import config, models, summary
from jaxalex.errors import UsageError
from jaxalex.networks import initializers, rows
from jaxalex.networks.rows import Conv, Dense, Dropout, Flatten, Logits, Pool, ReLU

ORDER = [
    *("conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "conv3", "relu3", "conv4", "relu4", "conv5", "relu5"),
    *("pool3", "fc1", "relu6", "drop1", "fc2", "relu7", "drop2", "fc3"),
]


def _small(name: str = "cifar10", **options: object) -> tuple[models.AlexNet, dict, jax.Array]:
    model = models.build(name, width=0.05, **options)
    images = jax.random.normal(jax.random.key(1), (3, 40, 32, 3))
    return model, jax.jit(model.init)(jax.random.key(0), images)["params"], images


@pytest.mark.parametrize(
    ("name", "size", "parameters"),
    [
        ("paper", 224, 62_378_344),
        ("cifar10", 32, 36_113_290),
        ("original", 224, 60_965_224),
        ("torchvision", 224, 61_100_840),
    ],
)
def test_parameter_counts(name: str, size: int, parameters: int) -> None:
    params = jax.eval_shape(models.build(name).init, jax.random.key(0), jnp.zeros((1, size, size, 3)))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    assert list(params) == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc1", "fc2", "fc3"]
    assert all(set(layer) == {"kernel", "bias"} for layer in params.values())


# Out size, channels, kernel, padding, stride. Krizhevsky et al. 2012 in one tower:
PAPER_TABLE = {
    "conv1": ([55, 55], 96, 11, 2, 4),
    "pool1": ([27, 27], 96, 3, 0, 2),
    "conv2": ([27, 27], 256, 5, 2, 1),
    "pool2": ([13, 13], 256, 3, 0, 2),
    "conv3": ([13, 13], 384, 3, 1, 1),
    "conv4": ([13, 13], 384, 3, 1, 1),
    "conv5": ([13, 13], 256, 3, 1, 1),
    "pool3": ([6, 6], 256, 3, 0, 2),
    "fc1": (None, 4096, None, None, None),
    "fc2": (None, 4096, None, None, None),
    "fc3": (None, 1000, None, None, None),
}
CIFAR10_TABLE = {
    "conv1": ([32, 32], 64, 3, 1, 1),
    "pool1": ([16, 16], 64, 2, 0, 2),
    "conv2": ([16, 16], 256, 3, 1, 1),
    "pool2": ([8, 8], 256, 2, 0, 2),
    "conv3": ([8, 8], 384, 3, 1, 1),
    "conv4": ([8, 8], 256, 3, 1, 1),
    "conv5": ([8, 8], 256, 3, 1, 1),
    "pool3": ([4, 4], 256, 2, 0, 2),
    "fc1": (None, 4096, None, None, None),
    "fc2": (None, 4096, None, None, None),
    "fc3": (None, 10, None, None, None),
}
# As published: a response normalisation after conv1 and conv2 (section 3.3).
ORIGINAL_TABLE = {}
for _name, _row in PAPER_TABLE.items():
    ORIGINAL_TABLE[_name] = _row
    if _name in ("conv1", "conv2"):
        ORIGINAL_TABLE[f"norm{_name[-1]}"] = (*_row[:2], None, None, None)
# Krizhevsky 2014, as torchvision's documentation has it: 64, 192, 384, 256 and 256 filters.
TORCHVISION_TABLE = {
    "conv1": ([55, 55], 64, 11, 2, 4),
    "pool1": ([27, 27], 64, 3, 0, 2),
    "conv2": ([27, 27], 192, 5, 2, 1),
    "pool2": ([13, 13], 192, 3, 0, 2),
    "conv3": ([13, 13], 384, 3, 1, 1),
    "conv4": ([13, 13], 256, 3, 1, 1),
    "conv5": ([13, 13], 256, 3, 1, 1),
    "pool3": ([6, 6], 256, 3, 0, 2),
    "avgpool": ([6, 6], 256, None, None, None),
    "fc1": (None, 4096, None, None, None),
    "fc2": (None, 4096, None, None, None),
    "fc3": (None, 1000, None, None, None),
}
GROUPS = {"original": {"conv2": 2, "conv4": 2, "conv5": 2}}


@pytest.mark.parametrize(
    ("name", "table", "parameters", "macs"),
    # Multiply-adds by hand: the sum over the table of kernel² · in · out · pixels / groups, and in · out.
    [
        ("paper", PAPER_TABLE, 62_378_344, 1_135_256_096),
        ("cifar10", CIFAR10_TABLE, 36_113_290, 224_108_544),
        ("original", ORIGINAL_TABLE, 60_965_224, 724_406_816),
        ("torchvision", TORCHVISION_TABLE, 61_100_840, 714_188_480),
    ],
)
def test_summary_prints_the_published_table(name, table, parameters, macs, capsys) -> None:
    assert summary.main(["--model", name, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    rows = {
        row["name"]: (row["out_size"], row["channels"], row["kernel"], row["padding"], row["stride"])
        for row in printed["layers"]
    }
    assert rows == table
    assert list(rows) == list(table)
    groups = {row["name"]: row["groups"] for row in printed["layers"] if row["groups"] not in (None, 1)}
    assert groups == GROUPS.get(name, {})
    assert (printed["parameters"], printed["macs"]) == (parameters, macs)
    assert sum(row["parameters"] for row in printed["layers"]) == parameters
    assert summary.main(["--model", name]) == 0
    text = capsys.readouterr().out
    assert f"{parameters:,}" in text
    assert f"{macs:,}" in text


@pytest.mark.parametrize(("size", "conv1"), [(224, 55), (227, 56), (223, 55)])
def test_padding_two_at_227_gives_56(size: int, conv1: int, capsys) -> None:
    # floor((227 - 11 + 4) / 4) + 1 = 56: 227 belongs to the formulation without padding.
    summary.main(["--model", "paper", "--image-size", str(size), "--json"])
    assert json.loads(capsys.readouterr().out)["layers"][0]["out_size"] == [conv1, conv1]


def test_image_too_small_shows_the_arithmetic(capsys) -> None:
    assert summary.main(["--model", "paper", "--image-size", "50"]) == 2
    assert "pool3 gets 2x2 and gives floor((2 - 3 + 2*0) / 2) + 1 = 0" in capsys.readouterr().err
    model = models.build("cifar10", width=0.05)
    with pytest.raises(UsageError, match=r"32x7 .* pool3"):
        model.init(jax.random.key(0), jnp.zeros((1, 32, 7, 3)))


def test_torchvisions_network_takes_any_image_from_63_pixels_on() -> None:
    model = models.build("torchvision", width=0.05)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 63, 80, 3)))["params"]
    assert params["fc1"]["kernel"].shape[0] == 6 * 6 * 13
    assert jax.eval_shape(model.apply, {"params": params}, jnp.zeros((2, 224, 130, 3))).shape == (2, 1000)
    with pytest.raises(UsageError, match=r"62x63 are too small: pool3"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 62, 63, 3)))


@pytest.mark.parametrize("width", [0.01, 0.05, 0.33])
def test_both_towers_are_as_wide(width: float) -> None:
    model = models.build("original", width=width)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 72, 3)))["params"]
    for layer, groups in GROUPS["original"].items():
        before = {"conv2": "conv1", "conv4": "conv3", "conv5": "conv4"}[layer]
        inputs, features = shapes[layer]["kernel"].shape[2:]
        assert inputs * groups == shapes[before]["bias"].shape[0]
        assert features % groups == 0


def test_the_2014_networks_dropout_comes_before_its_dense_layers() -> None:
    names = [row.name for row in models.NETWORKS["torchvision"].layers if not isinstance(row, Flatten)]
    assert names[-8:] == ["avgpool", "drop1", "fc1", "relu6", "drop2", "fc2", "relu7", "fc3"]


def test_capture_names_every_intermediate_in_order() -> None:
    model, params, images = _small()
    logits, seen = model.apply({"params": params}, images, capture=True)
    assert list(seen) == ORDER
    # Height 40 and width 32, halved three times; width 0.05 of the channels, rounded.
    sizes = {"conv1": (40, 32, 3), "pool1": (20, 16, 3), "conv2": (20, 16, 13), "pool2": (10, 8, 13)}
    sizes |= {"conv3": (10, 8, 19), "conv5": (10, 8, 13), "pool3": (5, 4, 13), "fc1": (205,), "fc3": (10,)}
    assert {name: seen[name].shape[1:] for name in sizes} == sizes
    np.testing.assert_array_equal(seen["relu1"], np.maximum(seen["conv1"], 0))
    np.testing.assert_array_equal(logits, seen["fc3"])


@pytest.mark.users_programs
@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10", "paper"])
def test_the_faster_order_is_the_same_function(name: str) -> None:
    """Without capture ReLU comes after pooling: same logits, same gradients, dropout included."""
    model = models.build(name, width=0.05)
    images = jax.random.normal(jax.random.key(1), (2, 75, 67, 3))
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    rngs = {"dropout": jax.random.key(2)}

    def fast(params: dict) -> jax.Array:
        return model.apply({"params": params}, images, train=True, rngs=rngs)

    def named(params: dict) -> jax.Array:
        return model.apply({"params": params}, images, train=True, capture=True, rngs=rngs)[0]

    np.testing.assert_array_equal(jax.jit(fast)(params), jax.jit(named)(params))
    for actual, expected in zip(
        jax.tree.leaves(jax.jit(jax.grad(lambda p: (fast(p) ** 2).sum()))(params)),
        jax.tree.leaves(jax.jit(jax.grad(lambda p: (named(p) ** 2).sum()))(params)),
        strict=True,
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_pooling_moves_before_the_relu_that_it_follows() -> None:
    rewritten = rows.pool_before_relu(models.NETWORKS["cifar10"].layers)
    names = [row.name for row in rewritten if not isinstance(row, Flatten)]
    assert names[:6] == ["conv1", "pool1", "relu1", "conv2", "pool2", "relu2"]
    assert names[6:13] == ["conv3", "relu3", "conv4", "relu4", "conv5", "pool3", "relu5"]
    assert names[13:] == ["fc1", "relu6", "drop1", "fc2", "relu7", "drop2", "fc3"]
    others = (Pool("pool", 2, 2), Conv("conv", 8, 3), Pool("next", 2, 2), ReLU("relu"), Flatten())
    assert rows.pool_before_relu(others) == others


@pytest.mark.parametrize("pool", [Pool("pool1", 2, 2), Pool("pool1", 3, 2), Pool("pool1", 2, 1)])
def test_the_rewritten_table_is_the_same_function(pool: Pool) -> None:
    """Bit for bit, gradients too, where no sum changes its order: windows that overlap, and ties at zero."""
    layers = (Conv("conv1", 4, 3), ReLU("relu1"), pool, Flatten(), Logits("out"))
    rewritten = rows.pool_before_relu(layers)
    assert rewritten != layers
    images = jnp.round(jax.random.normal(jax.random.key(1), (2, 9, 8, 3)))
    params = jax.jit(models.AlexNet(layers, 3).init)(jax.random.key(0), images)["params"]
    kernel = jnp.round(2 * jax.random.normal(jax.random.key(2), (3, 3, 3, 4)))  # integers, so that there are ties
    params = {**params, "conv1": {"kernel": kernel, "bias": jnp.array([0.0, 1.0, -4.0, -200.0])}}

    def result(layers: rows.Layers) -> tuple:
        def loss(params: dict, images: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits, seen = models.AlexNet(layers, 3).apply({"params": params}, images, capture=True)
            return (logits**2).sum(), seen[layers[2].name]

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(params, images)

    assert (np.asarray(result(layers)[0][1]) == 0).any()
    for actual, expected in zip(jax.tree.leaves(result(rewritten)), jax.tree.leaves(result(layers)), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_any_table_is_a_network() -> None:
    """Dropout before a dense layer, no ReLU after it, another rate: another table, and the names are its own."""
    layers = (Pool("shrink", 2, 2), Flatten(), Dropout("before", 0.25), Dense("wide", 1000), Logits("out"))
    images = jnp.ones((2, 8, 8, 3))
    model = models.AlexNet(layers, 3)
    params = model.init(jax.random.key(0), images)["params"]
    assert {name: layer["kernel"].shape for name, layer in params.items()} == {"wide": (48, 1000), "out": (1000, 3)}
    rngs = {"dropout": jax.random.key(1)}
    logits, seen = model.apply({"params": params}, images, train=True, capture=True, rngs=rngs)
    assert list(seen) == ["shrink", "before", "wide", "out"]
    assert logits.shape == (2, 3)
    kept = 1 / (1 - 0.25)
    assert set(np.unique(seen["before"])) == {np.float32(0), np.float32(kept)}


def test_a_subclass_may_compute_a_row_in_its_own_way() -> None:
    class Leaky(models.AlexNet):
        def relu(self, x: jax.Array) -> jax.Array:
            return jnp.maximum(x, 0.5 * x)

    model, params, images = _small()
    seen = Leaky(model.layers, 10, model.width).apply({"params": params}, images, capture=True)[1]
    np.testing.assert_array_equal(seen["relu1"], np.maximum(seen["conv1"], 0.5 * seen["conv1"]))


def test_the_classes_are_the_networks_of_their_names() -> None:
    classes = {
        "paper": models.AlexNetPaper,
        "cifar10": models.AlexNetCifar10,
        "original": models.AlexNetOriginal,
        "torchvision": models.AlexNetTorchvision,
    }
    assert set(classes) == set(models.NETWORKS)
    for name, published in ((name, kind()) for name, kind in classes.items()):
        built = models.build(name)
        assert (published.layers, published.num_classes) == (built.layers, built.num_classes)
        assert models.NETWORKS[name].name == name


def test_output_is_logits_and_not_probabilities() -> None:
    """With a softmax inside, cross-entropy over ten classes cannot fall below log(e + 9) - 1 = 1.461."""
    floor = math.log(math.e + 9) - 1
    assert floor == pytest.approx(1.461, abs=1e-3)
    model, params, images = _small()
    params = dict(params, fc3={"kernel": params["fc3"]["kernel"], "bias": 20.0 * jax.nn.one_hot(4, 10)})
    logits = jax.jit(model.apply)({"params": params}, images)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.full(3, 4)).mean()
    assert loss < 0.01
    assert not np.allclose(logits.sum(axis=1), 1)


def test_dropout_only_in_training_and_only_by_key() -> None:
    model, params, images = _small(init="he")

    apply = jax.jit(model.apply, static_argnames=("train", "capture"))

    def run(seed: int, train: bool) -> dict:
        rngs = {"dropout": jax.random.key(seed)}
        return apply({"params": params}, images, train=train, capture=True, rngs=rngs)[1]

    np.testing.assert_array_equal(run(0, False)["fc3"], run(1, False)["fc3"])
    np.testing.assert_array_equal(run(0, True)["fc3"], run(0, True)["fc3"])
    assert not np.array_equal(run(0, True)["fc3"], run(1, True)["fc3"])
    seen = run(3, True)
    for before, after in (("relu6", "drop1"), ("relu7", "drop2")):
        kept = seen[after] != 0
        np.testing.assert_allclose(seen[after][kept], 2 * seen[before][kept])  # 1 / (1 - 0.5)
        assert 0.4 < kept.sum() / (seen[before] != 0).sum() < 0.6
    with pytest.raises(Exception, match="dropout"):
        model.apply({"params": params}, images, train=True)


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels_and_classes(channels: int) -> None:
    model = models.build("cifar10", num_classes=7, width=0.05)
    images = jnp.ones((2, 16, 24, channels))
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    assert params["conv1"]["kernel"].shape == (3, 3, channels, 3)
    assert jax.jit(model.apply)({"params": params}, images).shape == (2, 7)


def test_dtypes() -> None:
    model, params, images = _small(precision="bfloat16")
    logits, seen = jax.jit(model.apply, static_argnames="capture")({"params": params}, images, capture=True)
    assert seen["conv3"].dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32
    reference = jax.jit(models.build("cifar10", width=0.05).apply)({"params": params}, images)
    assert np.abs(logits - reference).max() < 0.02 * np.abs(reference).max()
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        full = jax.eval_shape(models.build("cifar10", width=0.05).apply, {"params": double}, images)
        assert full.dtype == jnp.float64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vgg"}, "unknown model 'vgg': known are cifar10, paper, original, torchvision"),
        ({"name": "paper", "init": "zeros"}, "unknown init 'zeros'"),
        ({"name": "paper", "width": 0.0}, "width must be a number above 0, not 0.0"),
        ({"name": "paper", "width": float("nan")}, "width must be"),
        ({"name": "paper", "num_classes": 0}, "num_classes must be at least 1, not 0"),
    ],
)
def test_build_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        models.build(**arguments)


def test_config_knows_the_same_names() -> None:
    assert config.MODELS == ("cifar10", "paper", "original", "torchvision")
    assert set(config.MODELS) == set(models.NETWORKS)
    assert set(config.INITS) == set(initializers.SCHEMES)


# Bounds and deviations by hand, for a fan-in of 3·3·32 = 288 (conv2) and 2048 (fc2).
@pytest.mark.parametrize(
    ("scheme", "conv2_std", "fc2_std", "conv2_bias", "conv3_bias"),
    [
        ("torch", 1 / math.sqrt(3 * 288), 1 / math.sqrt(3 * 2048), None, None),
        ("flax", 1 / math.sqrt(288), 1 / math.sqrt(2048), 0.0, 0.0),
        ("he", math.sqrt(2 / 288), math.sqrt(2 / 2048), 0.0, 0.0),
        ("paper", 0.01, 0.01, 1.0, 0.0),
    ],
)
def test_initialisation_schemes(scheme, conv2_std, fc2_std, conv2_bias, conv3_bias) -> None:
    model = models.build("cifar10", width=0.5, init=scheme)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    for name, std in (("conv2", conv2_std), ("fc2", fc2_std)):
        kernel = np.asarray(params[name]["kernel"])
        assert kernel.std() == pytest.approx(std, rel=0.01)
        assert abs(kernel.mean()) < 5 * std / math.sqrt(kernel.size)
    if scheme == "torch":
        assert np.abs(params["conv2"]["kernel"]).max() <= 1 / math.sqrt(288)
        assert np.asarray(params["fc2"]["bias"]).std() == pytest.approx(1 / math.sqrt(3 * 2048), rel=0.05)
    else:
        assert set(np.unique(params["conv2"]["bias"])) == {conv2_bias}
        assert set(np.unique(params["conv3"]["bias"])) == {conv3_bias}
