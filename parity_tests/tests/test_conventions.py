"""What modules' attributes show to differ, in every library; right ports show nothing."""

from __future__ import annotations

import equinox as eqx
import flax.linen as fnn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from torch import nn

import netparity
from netparity.diagnosis.conventions import conventions
from netparity.prepare import prepare
from parity_tests.ports import comparing

IMAGES = np.random.default_rng(0).standard_normal((2, 9, 12, 4)).astype(np.float32)
SEQUENCE = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)
TOKENS = np.random.default_rng(0).integers(0, 7, (2, 5)).astype(np.int32)


def _found(network, module, inputs, train=False):
    given = dict.fromkeys(("labels", "table", "stages", "dropouts", "layouts"))
    ready = prepare(network, module, inputs, **given, train=train, losses=(None, None), seed=0)
    return conventions(network, ready)


def _shown(network, module, inputs, **keywords):
    return [(one.stage, one.what, one.jax, one.torch) for one in _found(network, module, inputs, **keywords)]


def _linen(inputs, *layers):
    """A Linen network of layers, each made by a function of the mode."""

    class Net(fnn.Module):
        @fnn.compact
        def __call__(self, x, train=False):
            for layer in layers:
                x = layer(train)(x)
            return x

    shapes = jax.eval_shape(Net().init, jax.random.key(0), inputs)
    return netparity.linen(Net(), jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), shapes))


def _compared(pairs, inputs=IMAGES, **keywords):
    layers, modules = zip(*pairs, strict=True)
    return _shown(_linen(inputs, *layers), nn.Sequential(*modules), inputs, **keywords)


def test_batch_normalisation():
    assert _compared(
        [
            (lambda train: fnn.BatchNorm(not train, epsilon=1e-5), nn.BatchNorm2d(4, momentum=0.01)),
            (lambda train: fnn.BatchNorm(not train, momentum=0.9), nn.BatchNorm2d(4, eps=1e-3)),
            (lambda train: fnn.BatchNorm(not train), nn.BatchNorm2d(4, momentum=None)),
        ]
    ) == [
        ("BatchNorm_1", "epsilon", "1e-05", "0.001"),
        ("BatchNorm_2", "momentum", "0.99", "None: the mean of all batches"),
    ]
    found = _found(_linen(IMAGES, lambda train: fnn.BatchNorm(not train)), nn.Sequential(nn.BatchNorm2d(4)), IMAGES)
    assert [one.note for one in found] == ["JAX's is 1 - PyTorch's: PyTorch's 0.1 is 0.9 in JAX"]


def test_other_normalisations():
    assert _compared(
        [
            (lambda train: fnn.LayerNorm(), nn.LayerNorm(8)),
            (lambda train: fnn.LayerNorm(epsilon=1e-5), nn.LayerNorm(8)),
            (lambda train: fnn.RMSNorm(), nn.RMSNorm(8)),
            (lambda train: fnn.LayerNorm(epsilon=1e-5, reduction_axes=(-2, -1)), nn.LayerNorm(8)),
        ],
        SEQUENCE,
    ) == [
        ("LayerNorm_0", "epsilon", "1e-06", "1e-05"),
        ("RMSNorm_0", "epsilon", "1e-06", "None: the dtype's own"),
        ("LayerNorm_2", "normalised axes", "2 axes", "the last one"),
    ]
    assert _compared(
        [
            (lambda train: fnn.GroupNorm(2, epsilon=1e-5), nn.GroupNorm(4, 4)),
            (lambda train: fnn.GroupNorm(None, group_size=2, epsilon=1e-5), nn.GroupNorm(2, 4)),
        ]
    ) == [("GroupNorm_0", "groups", "2", "4")]


def _conv(size, **keywords):
    return lambda train: fnn.Conv(4, size, **keywords)


def test_padding_is_compared_as_it_is_read():
    # Of 9 x 12 with stride 2, "SAME" adds 1 and 1 along 9, 0 and 1 along 12.
    shown = _compared([(_conv((3, 3), strides=2), nn.Conv2d(4, 4, 3, stride=2, padding=1))])
    assert shown == [("Conv_0", "padding", "'SAME': (1, (0, 1))", "1")]
    # Along 9 alone both read the same; what is added behind the last window is never read.
    odd, even = IMAGES[:, :, :9], IMAGES[:, :8]
    assert _compared([(_conv((3, 3), strides=2), nn.Conv2d(4, 4, 3, stride=2, padding=1))], odd) == []
    assert _compared([(_conv((2, 2), strides=2, padding=((0, 1), (0, 1))), nn.Conv2d(4, 4, 2, stride=2))], even) == []
    assert _compared(
        [
            (_conv((3, 3)), nn.Conv2d(4, 4, 3, padding="same")),
            (_conv((3, 2), padding="VALID"), nn.Conv2d(4, 4, (3, 2), padding="valid")),
            (_conv((3, 3), padding=2, kernel_dilation=2), nn.Conv2d(4, 4, 3, padding=2, dilation=2)),
            (_conv((3, 3), padding="CIRCULAR"), nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")),
            (_conv((3, 3), padding="REFLECT"), nn.Conv2d(4, 4, 3, padding=1)),
        ]
    ) == [("Conv_4", "padding mode", "reflect", "zeros")]


@pytest.mark.parametrize("theirs", [True, False])
def test_what_is_padded_by_hand_is_no_difference(theirs):
    class Pad(fnn.Module):
        @fnn.compact
        def __call__(self, x):
            return jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))

    by_hand = (lambda train: Pad(), nn.ZeroPad2d((0, 1, 0, 1)))
    conv = (_conv((3, 3), strides=2, padding="VALID"), nn.Conv2d(4, 4, 3, stride=2))
    assert _compared([by_hand, conv], IMAGES[:, :8]) == []
    if theirs:  # as "SAME" does
        layers, modules = [_conv((3, 3), strides=2)], [by_hand[1], conv[1]]
    else:
        layers, modules = [lambda train: Pad(), conv[0]], [nn.Conv2d(4, 4, 3, stride=2, padding=1)]
    assert _shown(_linen(IMAGES[:, :8], *layers), nn.Sequential(*modules), IMAGES[:, :8]) == []


def test_strides_and_dilation():
    assert _compared(
        [
            (_conv((3, 3), padding=1, strides=(2, 1)), nn.Conv2d(4, 4, 3, padding=1, stride=(1, 2))),
            (_conv((3, 3), padding=2, kernel_dilation=2), nn.Conv2d(4, 4, 3, padding=2)),
        ]
    ) == [("Conv_0", "stride", "(2, 1)", "(1, 2)"), ("Conv_1", "dilation", "2", "1")]


def test_causal_padding_of_sequences():
    class Causal(nn.Module):
        def __init__(self, padding):
            super().__init__()
            self.conv = nn.Conv1d(8, 8, 3, padding=padding)

        def forward(self, x):
            return self.conv(x)

    ours = _linen(SEQUENCE, lambda train: fnn.Conv(8, (3,), padding="CAUSAL"))
    assert _shown(ours, Causal(1), SEQUENCE) == [("Conv_0", "padding", "'CAUSAL': (2, 0)", "1")]


@pytest.mark.parametrize(
    ("keywords", "theirs", "shown"),
    [
        # PyTorch's padding p is k - 1 - p before and after, and output_padding more after.
        ({"padding": ((1, 2), (1, 2))}, {"padding": 1, "output_padding": 1}, None),
        ({"padding": "SAME"}, {"padding": 1, "output_padding": 1}, "'SAME': (2, 1)"),
        ({"padding": "VALID"}, {}, None),
        ({"padding": 1}, {}, "1"),
    ],
)
def test_transposed_convolutions(keywords, theirs, shown):
    module = nn.Sequential(nn.ConvTranspose2d(4, 5, 3, stride=2, **theirs))
    ours = _linen(IMAGES, lambda train: fnn.ConvTranspose(5, (3, 3), strides=(2, 2), **keywords))
    found = _found(ours, module, IMAGES)
    assert [(one.what, one.jax) for one in found] == ([] if shown is None else [("padding", shown)])


def test_dropout_attention_embedding_and_direction():
    class Torch(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.drop = nn.Embedding(7, 8, padding_idx=0), nn.Dropout(0.25)
            self.attention = nn.MultiheadAttention(8, 4, batch_first=True)
            self.lstm = nn.LSTM(8, 6, batch_first=True)

        def forward(self, tokens):
            x = self.drop(self.embed(tokens))
            return self.lstm(self.attention(x, x, x, need_weights=False)[0])[0]

    class Net(fnn.Module):
        @fnn.compact
        def __call__(self, tokens, train=False):
            x = fnn.Dropout(0.5, deterministic=not train)(fnn.Embed(7, 8, name="embed")(tokens))
            x = fnn.MultiHeadDotProductAttention(2, name="attention")(x)
            return fnn.RNN(fnn.LSTMCell(6), reverse=True, keep_order=True, name="lstm")(x)

    variables = Net().init(jax.random.key(0), TOKENS)
    assert _shown(netparity.linen(Net(), variables), Torch(), TOKENS, train=True) == [
        ("embed", "padding_idx", "None", "0"),
        ("Dropout_0", "dropout rate", "0.5", "0.25"),
        ("attention", "heads", "2", "4"),
        ("lstm", "direction", "backward in time", "forward in time"),
    ]


def _between(function):
    class Net(fnn.Module):
        @fnn.compact
        def __call__(self, x):
            x = function(fnn.Dense(6)(x))
            return fnn.Dense(3)(x)

    return netparity.linen(Net(), Net().init(jax.random.key(0), SEQUENCE))


@pytest.mark.parametrize(
    ("ours", "theirs", "shown"),
    [
        (lambda x: jax.nn.gelu(x, approximate=False), nn.GELU(), []),
        (jax.nn.gelu, nn.GELU(approximate="tanh"), []),
        (jax.nn.gelu, nn.GELU(), [("Dense_1", "gelu", "by tanh", "by erf (approximate='none')")]),
        (
            lambda x: jax.nn.gelu(x, approximate=False),
            nn.GELU(approximate="tanh"),
            [("Dense_1", "gelu", "by erf", "by tanh")],
        ),
        (jax.nn.relu, nn.ReLU(), []),
        (lambda x: x * (x > 0), nn.ReLU(), []),
        (jax.nn.relu, nn.GELU(), [("Dense_1", "activation", "a maximum (relu)", "GELU(approximate='none')")]),
        (jnp.tanh, nn.ReLU(), [("Dense_1", "activation", "tanh", "ReLU()")]),
        (jax.nn.silu, nn.SiLU(), []),
        (lambda x: x / (1 + jnp.exp(-x)), nn.SiLU(), []),
        (jax.nn.silu, nn.ReLU(), [("Dense_1", "activation", "a sigmoid", "ReLU()")]),
        (jax.nn.hard_swish, nn.Hardswish(), []),
        (jax.nn.elu, nn.ELU(), []),
        (jax.nn.leaky_relu, nn.LeakyReLU(), []),
    ],
)
def test_activations(ours, theirs, shown):
    module = nn.Sequential(nn.Linear(8, 6), theirs, nn.Linear(6, 3))
    assert _shown(_between(ours), module, SEQUENCE) == shown


def test_an_activation_at_the_end_of_a_branch_is_nobodys():
    class Torch(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.gelu = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.GELU()

        def forward(self, x):
            branch = self.gelu(self.a(x))
            return self.c(branch + self.b(torch.tanh(x)))

    class Net(fnn.Module):
        @fnn.compact
        def __call__(self, x):
            branch = jax.nn.gelu(fnn.Dense(8, name="a")(x), approximate=False)
            return fnn.Dense(8, name="c")(branch + fnn.Dense(8, name="b")(jnp.tanh(x)))

    ours = netparity.linen(Net(), Net().init(jax.random.key(0), SEQUENCE))
    assert _shown(ours, Torch(), SEQUENCE) == []


def test_a_class_with_a_call_of_its_own_may_do_anything():
    class Norm(fnn.LayerNorm):
        @fnn.compact
        def __call__(self, x, *, mask=None):
            scale = self.param("scale", fnn.initializers.ones, (1, 1, 8))
            return x * scale + self.param("bias", fnn.initializers.ones, (1, 1, 8))

    class Renamed(fnn.LayerNorm):
        pass

    class Theirs(nn.LayerNorm):
        def forward(self, x):
            return super().forward(x)

    for ours, theirs, count in ((Norm, nn.LayerNorm, 0), (Renamed, nn.LayerNorm, 1), (fnn.LayerNorm, Theirs, 0)):
        found = _compared([(lambda train, ours=ours: ours(), theirs(8))], SEQUENCE)
        assert len(found) == count


def test_nnx():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(4, 6, (3, 3), strides=2, rngs=rngs)
            self.norm = nnx.BatchNorm(6, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.drop(self.norm(self.conv(x)))

    module = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.Dropout(0.1))
    assert _shown(netparity.nnx(Net(nnx.Rngs(0))), module, IMAGES, train=True) == [
        ("conv", "padding", "'SAME': (1, (0, 1))", "1"),
        ("norm", "momentum", "0.99 (PyTorch's 0.01)", "0.1"),
        ("drop", "dropout rate", "0.5", "0.1"),
    ]


def test_equinox():
    class Net(eqx.Module):
        conv: eqx.nn.Conv2d
        pool: eqx.nn.MaxPool2d
        average: eqx.nn.AvgPool2d
        up: eqx.nn.ConvTranspose2d
        norm: eqx.nn.GroupNorm

        def __init__(self, key):
            self.conv = eqx.nn.Conv2d(4, 6, 3, padding=1, dilation=2, key=key)
            self.pool = eqx.nn.MaxPool2d(3, 2, padding=1)
            self.average = eqx.nn.AvgPool2d(2, 1, padding=1)
            self.up = eqx.nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, key=key)
            self.norm = eqx.nn.GroupNorm(2, 4, eps=1e-6)

        def __call__(self, x):
            return self.norm(self.up(self.average(self.pool(self.conv(x)))))

    class Torch(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 6, 3, padding=1)
            self.pool = nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)
            self.average = nn.AvgPool2d(2, 1, padding=1, count_include_pad=False)
            self.up = nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1)
            self.norm = nn.GroupNorm(2, 4)

        def forward(self, x):
            return self.norm(self.up(self.average(self.pool(self.conv(x)))))

    images = IMAGES.transpose(0, 3, 1, 2)
    assert _shown(netparity.equinox(Net(jax.random.key(0))), Torch(), images) == [
        ("conv", "dilation", "2", "1"),
        ("pool", "sizes are rounded up", "False", "True"),
        ("average", "padding is counted", "True", "False (count_include_pad)"),
        ("up", "output padding", "0", "1"),
        ("norm", "epsilon", "1e-06", "1e-05"),
    ]


def test_equinox_batch_normalisation_by_running_statistics():
    class Net(eqx.Module):
        norm: eqx.nn.BatchNorm

        def __init__(self):
            self.norm = eqx.nn.BatchNorm(4, "batch", mode="ema", momentum=0.9)

        def __call__(self, x, state):
            return self.norm(x, state)

    ours = netparity.equinox(*eqx.nn.make_with_state(Net)())
    assert _shown(ours, nn.Sequential(nn.BatchNorm2d(4)), IMAGES.transpose(0, 3, 1, 2)) == [
        ("norm", "statistics in training", "the running ones (mode='ema')", "the batch's")
    ]


def test_a_function_has_no_modules_but_its_operations_show():
    def forward(params, x):
        x = checkpoint_name(x @ params["0"]["weight"].T, "0")
        return checkpoint_name(jax.nn.gelu(x) @ params["2"]["weight"].T, "2")

    params = {"0": {"weight": np.ones((6, 8), np.float32)}, "2": {"weight": np.ones((3, 6), np.float32)}}
    module = nn.Sequential(nn.Linear(8, 6, bias=False), nn.GELU(), nn.Linear(6, 3, bias=False))
    assert _shown(netparity.function(forward, params), module, SEQUENCE) == [
        ("2", "gelu", "by tanh", "by erf (approximate='none')")
    ]


def test_the_comparison_has_them_even_where_shapes_differ():
    ours = _linen(IMAGES, _conv((3, 3), strides=2, padding=1))
    result = netparity.compare(ours, nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)), IMAGES, dtypes=["float64"])
    assert [(one.stage, one.what) for one in result.conventions] == [("Conv_0", "stride")]
    assert not result.passed


@pytest.mark.parametrize("name", ["lenet5", "vit_b_16", "lstm"])
def test_right_ports_show_nothing(name):
    _require_nothing(name)


def _require_nothing(name):
    case = comparing.SMALL[name]
    network = comparing.network(case)
    assert _found(network, case.torch(), case.inputs(np.random.default_rng(0)), train=True) == []
    assert len(network.modules) > 1
