"""Networks of any graph: a right port passes as it is, and a wrong one fails where it is wrong."""

from __future__ import annotations

from collections.abc import Callable
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

import netparity
from netparity import DenseKernel, ParityError, Same, Stack
from parity_tests.tests.pairs import fails, linen, passes, redrawn

pytestmark = pytest.mark.users_programs

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((5, 4, 6, 3)).astype(np.float32)
VECTORS = RNG.standard_normal((5, 6)).astype(np.float32)
SEQUENCES = RNG.standard_normal((5, 7, 6)).astype(np.float32)
TOKENS = RNG.integers(0, 11, (5, 7)).astype(np.int32)
LABELS = np.array([0, 1, 1, 0, 1])
BOTH = ("float64", "float32")


# ---------------------------------------------------------------------------------------------------- branches


class Residual(fnn.Module):
    skip: bool = True

    @fnn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = fnn.Conv(7, (3, 3), padding=1, name="stem")(x)
        y = fnn.relu(fnn.Conv(7, (3, 3), padding=1, name="conv1")(x))
        y = fnn.Conv(7, (1, 1), name="conv2")(y)
        x = checkpoint_name(fnn.relu(x + y if self.skip else y), "act")
        return fnn.Dense(2, name="head")(x.mean((1, 2)))


class TorchResidual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv1 = nn.Conv2d(3, 7, 3, padding=1), nn.Conv2d(7, 7, 3, padding=1)
        self.conv2, self.act, self.head = nn.Conv2d(7, 7, 1), nn.ReLU(inplace=True), nn.Linear(7, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.act(x + self.conv2(F.relu(self.conv1(x))))
        return self.head(x.mean((2, 3)))


def test_a_residual_branch_and_a_lost_skip_connection():
    stages = passes(linen(Residual(), IMAGES), TorchResidual(), IMAGES, labels=LABELS)
    assert stages == ["stem", "conv1", "conv2", "act", "head"]
    assert fails(linen(Residual(skip=False), IMAGES), TorchResidual(), IMAGES)[0] == "act"


class Branches(fnn.Module):
    swapped: bool = False

    @fnn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        a = fnn.relu(fnn.Conv(4, (3, 3), padding=1, name="left")(x))
        b = fnn.Conv(7, (1, 1), name="right")(x)
        x = jnp.concatenate([b, a] if self.swapped else [a, b], -1)
        return fnn.Dense(2, name="head")(x.reshape(x.shape[0], -1))


class TorchBranches(nn.Module):
    """The other branch first."""

    def __init__(self) -> None:
        super().__init__()
        self.right, self.left = nn.Conv2d(3, 7, 1), nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4 * 6 * 11, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b = self.right(x)
        a = F.relu(self.left(x))
        return self.head(torch.cat([a, b], 1).flatten(1))


def test_branches_in_another_order_and_a_concatenation_in_the_wrong_one():
    assert passes(linen(Branches(), IMAGES), TorchBranches(), IMAGES) == ["left", "right", "head"]
    assert fails(linen(Branches(swapped=True), IMAGES), TorchBranches(), IMAGES)[0] == "head"


class Relu(fnn.Module):
    def __call__(self, x: jax.Array) -> jax.Array:
        return fnn.relu(x)


class Twice(fnn.Module):
    sign: float = 1.0

    @fnn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shared, relu = fnn.Dense(6, name="shared"), Relu(name="relu")
        x = relu(shared(x))
        return fnn.Dense(2, name="head")(relu(shared(self.sign * x)))


class TorchTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared, self.relu, self.head = nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.relu(self.shared(self.relu(self.shared(x)))))


def test_modules_that_are_called_twice():
    stages = passes(linen(Twice(), VECTORS), TorchTwice(), VECTORS, labels=LABELS)
    assert stages == ["shared", "relu", "shared#2", "relu#2", "head"]
    assert fails(linen(Twice(-1.0), VECTORS), TorchTwice(), VECTORS)[0] == "shared#2"


class Tied(fnn.Module):
    scale: float = 1.0

    @fnn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        embed = fnn.Embed(11, 6, name="embed")
        return embed.attend(self.scale * fnn.Dense(6, name="fc")(embed(tokens)))


class TorchTied(nn.Module):
    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.embed, self.fc, self.decoder = nn.Embedding(11, 6), nn.Linear(6, 6), nn.Linear(6, 11, bias=False)
        if tied:
            self.decoder.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.fc(self.embed(tokens)))


def test_a_decoder_with_the_embeddings_weights():
    assert passes(linen(Tied(), TOKENS), TorchTied(), TOKENS) == ["embed", "fc", "output"]
    assert fails(linen(Tied(6**0.5), TOKENS), TorchTied(), TOKENS)[0] == "output"
    with pytest.raises(ParityError, match=r"decoder\.weight \[11, 6\]: nothing in JAX fits"):
        netparity.compare(linen(Tied(), TOKENS), TorchTied(tied=False), TOKENS)


# ---------------------------------------------------------------------------------------------------- inputs, outputs


class Encoder(fnn.Module):
    """Returns a tuple."""

    flipped: bool = False

    @fnn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        kernel = self.param("kernel", fnn.initializers.lecun_normal(), (6, 8))
        mean, deviation = jnp.split(jnp.dot(x, kernel.astype(x.dtype)), 2, -1)
        return (deviation, mean) if self.flipped else (mean, deviation)


class SeveralInputs(fnn.Module):
    flipped: bool = False
    outputs: Callable[[jax.Array, jax.Array], Any] = lambda logits, deviation: {
        "logits": logits,
        "deviation": deviation,
    }

    @fnn.compact
    def __call__(self, x: jax.Array, tokens: jax.Array) -> Any:
        mean, deviation = Encoder(self.flipped, name="encoder")(x)
        words = fnn.Embed(11, 4, name="words")(tokens)
        logits = fnn.Dense(2, name="head")(mean + fnn.softplus(deviation) * words.sum(1))
        return self.outputs(logits, deviation)


class TorchEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8, 6))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return F.linear(x, self.weight).chunk(2, -1)


class TorchSeveralInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.words, self.head = TorchEncoder(), nn.Embedding(11, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, tokens: torch.Tensor) -> Any:
        mean, deviation = self.encoder(x)
        logits = self.head(mean + F.softplus(deviation) * self.words(tokens).sum(1))
        return {"logits": logits, "deviation": deviation}  # not in the order of the keys, which JAX takes


def test_several_inputs_tuples_and_dictionaries():
    both, module = (VECTORS, TOKENS), TorchSeveralInputs()
    # What the network returns is a stage of its own where it is not what a stage gives anyway.
    assert passes(linen(SeveralInputs(), *both), module, both) == ["encoder[0]", "encoder[1]", "words", "head"]
    assert fails(linen(SeveralInputs(flipped=True), *both), module, both)[0] == "encoder[0]"

    def negative(logits: jax.Array, deviation: jax.Array) -> dict[str, jax.Array]:
        return {"logits": logits, "deviation": -deviation}

    assert fails(linen(SeveralInputs(outputs=negative), *both), module, both)[0] == "output[deviation]"


class TorchPair(TorchSeveralInputs):
    def forward(self, x: torch.Tensor, tokens: torch.Tensor) -> Any:
        found = super().forward(x, tokens)
        return found["logits"], found["deviation"]


def test_several_outputs_with_and_without_labels():
    both = (VECTORS, TOKENS)
    for labels in (None, LABELS):
        network = linen(SeveralInputs(outputs=lambda logits, deviation: (logits, deviation)), *both)
        passes(network, TorchPair(), both, labels=labels)
        # Another output is another cross-entropy.
        network = linen(SeveralInputs(outputs=lambda logits, deviation: (2 * logits, deviation)), *both)
        assert fails(network, TorchPair(), both, labels=labels)[0] == "output[0]"


def test_inputs_that_do_not_fit_are_told_in_one_line():
    network = linen(SeveralInputs(), VECTORS, TOKENS)
    with pytest.raises(ParityError, match=r"^the JAX network fails on these inputs in evaluation mode: TypeError"):
        netparity.compare(network, TorchSeveralInputs(), VECTORS)
    with pytest.raises(ParityError, match=r"^the JAX network fails on these inputs in evaluation mode: TypeError"):
        netparity.compare(network, TorchSeveralInputs(), (TOKENS, VECTORS))


def _marked(params: Any, x: jax.Array) -> jax.Array:
    x = checkpoint_name(jnp.dot(x, params["w1"]) + params["b1"], "first")
    x = checkpoint_name(jnp.tanh(x), "hidden")
    return checkpoint_name(jnp.dot(x, params["w2"]), "last")


def _with_relu(params: Any, x: jax.Array) -> jax.Array:
    x = checkpoint_name(jnp.dot(x, params["w1"]) + params["b1"], "first")
    return checkpoint_name(jnp.dot(checkpoint_name(fnn.relu(x), "hidden"), params["w2"]), "last")


def test_a_function_with_marks_and_stages_by_hand():
    params = {
        name: RNG.standard_normal(shape).astype(np.float32)
        for name, shape in {"w1": (6, 8), "b1": (1, 8), "w2": (8, 2)}.items()
    }
    module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2, bias=False))
    network, stages = netparity.function(_marked, params), {"first": "0", "hidden": "1", "last": "2"}
    assert passes(network, module, VECTORS, stages=stages, dtypes=BOTH) == ["first", "hidden", "last"]
    assert passes(network, module, VECTORS) == ["first", "last"]  # no name and no parameter tells the tanh
    assert fails(netparity.function(_with_relu, params), module, VECTORS, stages=stages)[0] == "hidden"
    stage, said = fails(network, module, VECTORS, stages={"first": "1", "hidden": "0", "last": "2"})
    assert (stage, "the order differs: JAX first, hidden, last; PyTorch hidden, first, last" in said) == (
        "hidden",
        True,
    )
    with pytest.raises(ParityError, match=r"no value called nowhere .*; it has first, hidden, last, output$"):
        netparity.compare(network, module, VECTORS, stages={"nowhere": "0"})
    with pytest.raises(ParityError, match=r"first: the PyTorch network has no module '9'$"):
        netparity.compare(network, module, VECTORS, stages={"first": "9"})


# ---------------------------------------------------------------------------------------------------- dropouts


class Dropped(fnn.Module):
    """A dropout of whole channels, if not of what ``dims`` says."""

    rank: int
    rate: float = 0.5
    dims: tuple[int, ...] | None = None

    @fnn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        space = tuple(range(1, 1 + self.rank))
        x = fnn.Conv(8, (1,) * self.rank, name="conv")(x) if self.rank else fnn.Dense(8, name="conv")(x)
        dims = space if self.dims is None else self.dims
        x = fnn.Dropout(self.rate, broadcast_dims=dims, deterministic=not train, name="drop")(x)
        return fnn.Dense(2, name="head")(x.mean(space))


class TorchDropped(nn.Module):
    def __init__(self, rank: int, drop: nn.Module) -> None:
        super().__init__()
        self.conv = [nn.Linear(3, 8), nn.Conv1d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv3d(3, 8, 1)][rank]
        self.drop, self.head = drop, nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.conv(x))
        return self.head(x.flatten(2).mean(2) if x.ndim > 2 else x)


@pytest.mark.parametrize(
    ("rank", "kind"),
    [
        (0, nn.Dropout),
        pytest.param(1, nn.Dropout1d, marks=pytest.mark.slow),
        (2, nn.Dropout2d),
        pytest.param(3, nn.Dropout3d, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_dropouts_of_every_rank(rank: int, kind: type[nn.Module]):
    x = RNG.standard_normal((*(5, 4, 6, 7)[: rank + 1], 3)).astype(np.float32)
    module = TorchDropped(rank, kind(0.5))
    assert passes(linen(Dropped(rank), x, train=False), module, x) == ["conv", "drop", "head"]
    stage, said = fails(linen(Dropped(rank, rate=0.25), x, train=False), module, x)
    assert (stage, "JAX has dropout rate 0.25 where PyTorch has 0.5" in said) == ("drop", True)


@pytest.mark.parametrize(
    ("dims", "kind", "said"),
    [
        ((), nn.Dropout2d, "JAX drops single values along axis 1 and 2, PyTorch's Dropout2d all of them"),
        ((1, 2), nn.Dropout, "JAX drops all values along axis 1 and 2, PyTorch's Dropout single ones"),
    ],
)
def test_single_values_and_whole_channels_are_not_the_same(dims: tuple[int, ...], kind: Any, said: str):
    stage, found = fails(linen(Dropped(2, dims=dims), IMAGES, train=False), TorchDropped(2, kind(0.5)), IMAGES)
    assert (stage, said in found) == ("drop", True)


class _Stuck(nn.Dropout):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, self.p, training=True)


def test_a_dropout_that_is_active_in_evaluation():
    network = linen(Dropped(2, dims=()), IMAGES, train=False)
    stage, said = fails(network, TorchDropped(2, _Stuck(0.5)), IMAGES)
    assert (stage, "PyTorch: dropout active in evaluation mode" in said) == ("drop", True)


class _Functional(TorchDropped):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.dropout(self.conv(x), 0.5, self.training))


def test_a_dropout_that_cannot_be_shared_is_refused_in_one_line():
    module, network = _Functional(0, nn.Identity()), linen(Dropped(0), VECTORS[:, :3], train=False)
    with pytest.raises(ParityError, match=r"draws random numbers at drop, the PyTorch network drops at no stage: "):
        netparity.compare(network, module, VECTORS[:, :3])
    network = linen(Dropped(0, rate=0.0), VECTORS[:, :3], train=False)
    with pytest.raises(ParityError, match=r"^in training the PyTorch network draws random numbers at head, "):
        netparity.compare(network, module, VECTORS[:, :3])
    passes(network, module, VECTORS[:, :3], modes=["evaluation"])


# ---------------------------------------------------------------------------------------------------- layers


class Convolved(fnn.Module):
    layer: Callable[..., fnn.Module]

    @fnn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = fnn.relu(self.layer(4, name="conv")(x))
        return fnn.Dense(2, name="head")(x.mean(tuple(range(1, x.ndim - 1))))


class TorchConvolved(nn.Module):
    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv, self.head = conv, nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.conv(x)).flatten(2).mean(2))


def _conv(window: tuple[int, ...] = (3, 3), **keywords: Any) -> Callable[..., fnn.Module]:
    return lambda features, name: fnn.Conv(features, window, name=name, **keywords)


def _transposed(**keywords: Any) -> Callable[..., fnn.Module]:
    return lambda features, name: fnn.ConvTranspose(features, (3, 3), (2, 2), name=name, **keywords)


CONVOLUTIONS: dict[str, tuple[tuple[int, ...], Any, nn.Module, Any]] = {
    # Shape of the input, right layer, PyTorch's, wrong layer.
    "grouped": (
        (5, 4, 6, 6),
        _conv(padding=1, feature_group_count=2),
        nn.Conv2d(6, 4, 3, padding=1, groups=2),
        _conv(padding="CIRCULAR", feature_group_count=2),
    ),
    "dilated": (
        (5, 8, 9, 3),
        _conv(kernel_dilation=2, padding=2),
        nn.Conv2d(3, 4, 3, padding=2, dilation=2),
        _conv(padding=1),
    ),
    "strided": (
        (5, 8, 10, 3),
        _conv(strides=2, padding=1),
        nn.Conv2d(3, 4, 3, padding=1, stride=2),
        _conv(strides=2),  # "SAME" pads below and on the right
    ),
    "transposed": (
        (5, 4, 6, 3),
        _transposed(padding="VALID"),
        nn.ConvTranspose2d(3, 4, 3, 2),
        None,
    ),
    "transposed, padded": (
        (5, 4, 6, 3),
        _transposed(padding=[(1, 2), (1, 2)]),
        nn.ConvTranspose2d(3, 4, 3, 2, padding=1, output_padding=1),
        _transposed(),  # "SAME" gives this size too
    ),
    "1-D": ((5, 9, 3), _conv((3,), padding=1), nn.Conv1d(3, 4, 3, padding=1), _conv((3,), padding="CAUSAL")),
    "3-D": ((2, 5, 4, 6, 3), _conv((3,) * 3, padding=1), nn.Conv3d(3, 4, 3, padding=1), _conv((3,) * 3, padding=0)),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions(kind: str):
    shape, right, conv, wrong = CONVOLUTIONS[kind]
    x = RNG.standard_normal(shape).astype(np.float32)
    assert passes(linen(Convolved(right), x), TorchConvolved(conv), x) == ["conv", "head"]
    if wrong is not None:
        stage, said = fails(linen(Convolved(wrong), x), TorchConvolved(conv), x)
        assert stage == "conv"
        assert ("JAX has dilation 1, padded to the same size, where PyTorch has 2" in said) == (kind == "dilated")


class Gated(fnn.Module):
    """A block that adds to what it is given, and a sigmoid of straight lines."""

    sign: float = 1.0

    @fnn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.sign * x + fnn.Dense(6, name="fc2")(fnn.hard_sigmoid(fnn.Dense(40, name="fc1")(x)))


class GatedTwice(fnn.Module):
    sign: float = 1.0

    @fnn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return fnn.Dense(2, name="head")(Gated(self.sign, name="block1")(Gated(name="block0")(x)))


class TorchGated(nn.Module):
    """The same parameters belong to the block and to what it adds."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(6, 40), nn.Hardsigmoid(inplace=True), nn.Linear(40, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.branch(x)
        y += x
        return y


def test_a_block_is_not_the_branch_within_and_pytorchs_hardsigmoid_has_its_digits():
    module = nn.Sequential(TorchGated(), TorchGated(), nn.Linear(6, 2))
    inner = [f"block{i}{part}" for i in (0, 1) for part in (".fc1", ".fc2", "")]
    assert passes(linen(GatedTwice(), VECTORS), module, VECTORS) == [*inner, "head"]
    assert fails(linen(GatedTwice(-1.0), VECTORS), module, VECTORS)[0] == "block1"


class Normalised(fnn.Module):
    layer: Callable[..., fnn.Module]

    @fnn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.layer(name="norm")(fnn.Conv(6, (1, 1), name="conv")(x))
        return fnn.Dense(2, name="head")(fnn.relu(x).mean((1, 2)))


class _ChannelsLastNorm(nn.LayerNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class TorchNormalised(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 6, 1), norm, nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.norm(self.conv(x))).mean((2, 3)))


def _norm(kind: Callable[..., fnn.Module], *args: int, epsilon: float = 1e-5) -> Callable[..., fnn.Module]:
    return lambda name: kind(*args, epsilon=epsilon, name=name)


NORMALISATIONS: dict[str, tuple[Any, nn.Module, Any]] = {
    "groups": (_norm(fnn.GroupNorm, 3), nn.GroupNorm(3, 6), _norm(fnn.GroupNorm, 2)),
    "layer": (_norm(fnn.LayerNorm), _ChannelsLastNorm(6), _norm(fnn.LayerNorm, epsilon=1e-6)),  # Flax's default
    "instance": (_norm(fnn.InstanceNorm), nn.InstanceNorm2d(6, affine=True), _norm(fnn.LayerNorm)),
}


@pytest.mark.parametrize("kind", NORMALISATIONS)
def test_normalisations(kind: str):
    right, norm, wrong = NORMALISATIONS[kind]
    assert passes(linen(Normalised(right), IMAGES), TorchNormalised(norm), IMAGES) == ["conv", "norm", "head"]
    assert fails(linen(Normalised(wrong), IMAGES), TorchNormalised(norm), IMAGES)[0] == "norm"


class Attended(fnn.Module):
    heads: int = 2
    causal: bool = False

    @fnn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = fnn.LayerNorm(epsilon=1e-5, name="norm")(x)
        mask = fnn.make_causal_mask(x[..., 0]) if self.causal else None
        y = fnn.MultiHeadDotProductAttention(self.heads, name="attention")(y, mask=mask)
        return fnn.Dense(2, name="head")((x + y).mean(1))


class TorchAttended(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 2)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        return self.head((x + self.attention(y, y, y)[0]).mean(1))


def test_attention_with_packed_weights():
    module = TorchAttended()
    assert passes(linen(Attended(), SEQUENCES), module, SEQUENCES) == ["norm", "attention", "head"]
    for wrong in (Attended(heads=3), Attended(causal=True)):
        assert fails(linen(wrong, SEQUENCES), module, SEQUENCES)[0] == "attention"


class EncoderLayer(fnn.Module):
    approximate: bool = False
    norm_first: bool = False

    @fnn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm1, norm2 = (fnn.LayerNorm(epsilon=1e-5, name=name) for name in ("norm1", "norm2"))

        def dropped(x: jax.Array, name: str) -> jax.Array:
            return fnn.Dropout(0.1, deterministic=not train, name=name)(x)

        def attention(x: jax.Array) -> jax.Array:
            return dropped(fnn.MultiHeadDotProductAttention(2, name="self_attn")(x), "dropout1")

        def feed_forward(x: jax.Array) -> jax.Array:
            x = fnn.gelu(fnn.Dense(10, name="linear1")(x), approximate=self.approximate)
            return dropped(fnn.Dense(6, name="linear2")(dropped(x, "dropout")), "dropout2")

        if self.norm_first:
            x = x + attention(norm1(x))
            return x + feed_forward(norm2(x))
        x = norm1(x + attention(x))
        return norm2(x + feed_forward(x))


def _encoder_layer(attention_dropout: float = 0.0) -> nn.TransformerEncoderLayer:
    layer = nn.TransformerEncoderLayer(6, 2, 10, dropout=0.1, activation="gelu", batch_first=True)
    layer.self_attn.dropout = attention_dropout
    return layer


@pytest.mark.slow
def test_a_transformers_encoder_layer():
    def port(**keywords: Any) -> Any:
        return linen(EncoderLayer(**keywords), SEQUENCES, train=False)

    inner = ["self_attn", "dropout1", "norm1", "linear1", "dropout", "linear2", "dropout2", "norm2"]
    assert passes(port(), _encoder_layer(), SEQUENCES) == inner
    assert fails(port(approximate=True), _encoder_layer(), SEQUENCES)[0] == "dropout"  # the activation stands before it
    stage, said = fails(port(norm_first=True), _encoder_layer(), SEQUENCES)
    assert (stage, "the order differs: JAX norm1, self_attn" in said) == ("self_attn", True)
    with pytest.raises(
        ParityError, match=r"PyTorch network draws random numbers at self_attn, .*dropout= of attentions"
    ):
        netparity.compare(port(), _encoder_layer(0.1), SEQUENCES)


class Recurrent(fnn.Module):
    cell: Callable[[int], fnn.RNNCellBase] = fnn.OptimizedLSTMCell
    reverse: bool = False
    layers: int = 1
    bidirectional: bool = False

    @fnn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.bidirectional:
            both: Any = fnn.Bidirectional(fnn.RNN(self.cell(4)), fnn.RNN(self.cell(4)), name="rnn")(x)
            return fnn.Dense(2, name="head")(both.mean(1))
        for _ in range(self.layers):
            outputs: Any = fnn.RNN(self.cell(4), reverse=self.reverse, keep_order=self.reverse)(x)
            x = outputs
        return fnn.Dense(2, name="head")(x.mean(1))


class TorchRecurrent(nn.Module):
    def __init__(self, rnn: nn.RNNBase) -> None:
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(rnn.hidden_size * (1 + rnn.bidirectional), 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0].mean(1))


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        (fnn.OptimizedLSTMCell, nn.LSTM),
        pytest.param(fnn.LSTMCell, nn.LSTM, marks=pytest.mark.slow),
        pytest.param(fnn.GRUCell, nn.GRU, marks=pytest.mark.slow),
        (fnn.SimpleCell, nn.RNN),
    ],
)
def test_recurrent_layers(cell: Any, kind: Any):
    module = TorchRecurrent(kind(6, 4, batch_first=True))
    assert passes(linen(Recurrent(cell), SEQUENCES), module, SEQUENCES) == ["RNN_0", "head"]
    assert fails(linen(Recurrent(cell, reverse=True), SEQUENCES), module, SEQUENCES)[0] == "RNN_0"


def test_a_forgotten_batch_first():
    assert fails(linen(Recurrent(), SEQUENCES), TorchRecurrent(nn.LSTM(6, 4)), SEQUENCES)[0] == "RNN_0"


def test_recurrent_layers_of_several_parts():
    stacked = TorchRecurrent(nn.GRU(6, 4, num_layers=2, batch_first=True))
    assert passes(linen(Recurrent(fnn.GRUCell, layers=2), SEQUENCES), stacked, SEQUENCES) == ["RNN_1", "head"]
    both = TorchRecurrent(nn.GRU(6, 4, bidirectional=True, batch_first=True))
    assert passes(linen(Recurrent(fnn.GRUCell, bidirectional=True), SEQUENCES), both, SEQUENCES) == ["rnn", "head"]


# ---------------------------------------------------------------------------------------------------- transformations


class Transformed(fnn.Module):
    transform: Callable[..., Any]
    scale: float = 1.0

    @fnn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dense = self.transform(fnn.Dense)
        x = fnn.relu(dense(6, name="fc1")(x))
        x = fnn.relu(dense(6, name="fc2")(self.scale * x))
        return fnn.Dense(2, name="head")(x)


class TorchTransformed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.fc2(F.relu(self.fc1(x)))))


@pytest.mark.parametrize(
    "transform", [fnn.remat, fnn.jit, lambda layer: fnn.jit(fnn.remat(layer))], ids=["remat", "jit", "both"]
)
def test_marks_within_what_is_compiled_or_rematerialised(transform: Any):
    module = TorchTransformed()
    assert passes(linen(Transformed(transform), VECTORS), module, VECTORS) == ["fc1", "fc2", "head"]
    assert fails(linen(Transformed(transform, scale=2.0), VECTORS), module, VECTORS)[0] == "fc2"


class Block(fnn.Module):
    scale: float

    @fnn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return x + self.scale * fnn.relu(fnn.Dense(6, name="fc")(x)), None


class Scanned(fnn.Module):
    scale: float = 1.0
    remat: bool = False

    @fnn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        block = fnn.remat(Block) if self.remat else Block
        stack = fnn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = stack(self.scale, name="blocks")(x, None)
        return fnn.Dense(2, name="head")(x)


class TorchBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + F.relu(self.fc(x))


class TorchScanned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.head = nn.Sequential(*[TorchBlock() for _ in range(3)]), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(x))


@pytest.mark.parametrize("remat", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_loop_over_layers_is_one_stage(remat: bool):
    table = {
        "blocks.fc.kernel": Stack(tuple(DenseKernel(f"blocks.{i}.fc.weight") for i in range(3))),
        "blocks.fc.bias": Stack(tuple(f"blocks.{i}.fc.bias" for i in range(3))),
        "head.kernel": DenseKernel("head.weight"),
        "head.bias": Same("head.bias"),
    }
    network, module = linen(Scanned(remat=remat), VECTORS), TorchScanned()
    assert passes(network, module, VECTORS, table=table) == ["blocks[0]", "head"]
    assert fails(linen(Scanned(scale=0.5, remat=remat), VECTORS), module, VECTORS, table=table)[0] == "blocks[0]"
    mixed_up = {**table, "blocks.fc.bias": Stack(tuple(f"blocks.{i}.fc.bias" for i in (1, 0, 2)))}
    assert fails(network, module, VECTORS, table=mixed_up)[0] == "blocks[0]"


# ---------------------------------------------------------------------------------------------------- float32


class Scaled(fnn.Module):
    """Has a parameter of one number, and an output of one."""

    @fnn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        temperature = self.param("temperature", fnn.initializers.ones, ())
        return fnn.Dense(1, name="head")(temperature * fnn.relu(fnn.Dense(5, name="fc")(x)))


class TorchScaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head, self.temperature = nn.Linear(6, 5), nn.Linear(5, 1), nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.temperature * F.relu(self.fc(x)))


def test_a_gradient_of_one_number_may_cancel():
    network, module = linen(Scaled(), VECTORS), TorchScaled()
    for seed in range(10):
        passes(redrawn(network, seed), module, VECTORS, dtypes=BOTH, seed=seed)


FLOAT32: dict[str, tuple[Any, Any, np.ndarray]] = {
    "lstm": (Recurrent(), lambda: TorchRecurrent(nn.LSTM(6, 4, batch_first=True)), SEQUENCES),
    "gru": (Recurrent(fnn.GRUCell), lambda: TorchRecurrent(nn.GRU(6, 4, batch_first=True)), SEQUENCES),
    "attention": (Attended(), TorchAttended, SEQUENCES),
    "encoder": (EncoderLayer(), _encoder_layer, SEQUENCES),
    "groups": (Normalised(NORMALISATIONS["groups"][0]), lambda: TorchNormalised(nn.GroupNorm(3, 6)), IMAGES),
    "residual": (Residual(), TorchResidual, IMAGES),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FLOAT32)
def test_rounding_in_float32_is_never_a_mistake(kind: str):
    port, original, x = FLOAT32[kind]
    network, module = linen(port, x, **({"train": False} if kind == "encoder" else {})), original()
    for seed in range(20):
        passes(redrawn(network, seed), module, x, dtypes=BOTH, seed=seed)


class SharedDropout(fnn.Module):
    """One dropout after each of two layers."""

    @fnn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        drop = fnn.Dropout(0.5, deterministic=not train, name="drop")
        return fnn.Dense(3, name="fc2")(drop(fnn.relu(fnn.Dense(6, name="fc1")(drop(x)))))


class TorchSharedDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.drop = nn.Linear(7, 6), nn.Linear(6, 3), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.drop(torch.relu(self.fc1(self.drop(x)))))


def test_a_dropout_that_is_called_twice_gets_a_mask_for_each_call():
    x = np.random.default_rng(0).standard_normal((4, 7)).astype(np.float32)
    assert {"drop", "drop#2"} <= set(passes(linen(SharedDropout(), x), TorchSharedDropout(), x))
