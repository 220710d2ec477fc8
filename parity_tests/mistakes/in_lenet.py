"""Mistakes in LeNet-5: activations, pooling, flattening, convolutions, the loss."""

from __future__ import annotations

import jax
import optax
from torch.nn import functional as F

from netparity import ConvKernel, Transposed, infer_table
from parity_tests.mistakes.planting import Given, Losses, Mistake, Setup, forward, torch
from parity_tests.mistakes.planting import jax as port

LENET = "lenet5"
_FLIPPED = (
    'padding="VALID", conv_general_dilated=lambda x, k, *rest, **named: '
    "jax.lax.conv_general_dilated(x, k[::-1, ::-1], *rest, **named))"
)


def _swapped(setup: Setup) -> dict[str, object]:
    table = infer_table(setup.jax, setup.module, setup.inputs)
    assert isinstance(table["conv2.kernel"], ConvKernel)
    return {"table": {**table, "conv2.kernel": Transposed("conv2.weight", (3, 2, 1, 0))}}


MISTAKES = (
    Mistake("relu for tanh", "activation", LENET, "jax", "conv2",
            port(("nn.tanh(self.conv1(x))", "nn.relu(self.conv1(x))")), ("JAX=relu", "tanh")),
    Mistake("no activation before the last layer", "activation", LENET, "jax", "fc3",
            port(("nn.tanh(self.fc2(x))", "self.fc2(x)")), ("tanh", "JAX=left out|JAX=nothing")),
    Mistake("maximum for average pooling", "pooling", LENET, "jax", "fc1",
            port(("nn.avg_pool(nn.tanh(self.conv2(x))", "nn.max_pool(nn.tanh(self.conv2(x))")),
            ("JAX=max", "average|avg")),
    Mistake("flattened by width, height, channel", "flatten-order", LENET, "jax", "fc1",
            port(("x.reshape(x.shape[0], -1)", "x.swapaxes(1, 2).reshape(x.shape[0], -1)")), ("flatten",)),
    Mistake("padding all at the top", "padding", LENET, "jax", "conv1",
            port(("padding=2", "padding=((4, 0), (2, 2))")), ("JAX=padding",)),
    Mistake("kernel flipped", "kernel-flip", LENET, "jax", "conv2", port(('padding="VALID")', _FLIPPED)),
            ("JAX=flipped",)),
    Mistake("softmax in the network", "softmax-twice", LENET, "jax", "output",
            port(("return self.fc3(x)", "return nn.softmax(self.fc3(x))")), ("softmax",)),
    Mistake("kernel converted with height and width swapped", "kernel-layout", LENET, "jax", "conv2", Given(_swapped),
            ("height and width swapped|transposed",)),
    Mistake("cross-entropy of a softmax", "softmax-twice", LENET, "jax", "loss",
            Losses("jax", lambda z, y: optax.softmax_cross_entropy_with_integer_labels(jax.nn.softmax(z), y).mean()),
            ("softmax",)),
    Mistake("loss summed over the batch", "loss-reduction", LENET, "jax", "loss",
            Losses("jax", lambda z, y: optax.softmax_cross_entropy_with_integer_labels(z, y).sum()),
            ("sum", "mean")),
    Mistake("label smoothing", "label-smoothing", LENET, "torch", "loss",
            Losses("torch", lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1)),
            ("label smoothing", "PyTorch=0.1")),
    Mistake("mean over batch and classes", "loss-reduction", LENET, "torch", "loss",
            Losses("torch", lambda z, y: F.cross_entropy(z, y) / z.shape[1]), ("division by 5|classes",)),
    Mistake("bias left out", "bias", LENET, "torch", "conv2",
            forward("conv2", lambda self, x: F.conv2d(x, self.weight)), ("PyTorch=bias", "PyTorch=left out")),
    Mistake("kernel flipped", "kernel-flip", LENET, "torch", "conv1",
            forward("conv1", lambda self, x: F.conv2d(x, self.weight.flip(2, 3), self.bias, padding=2)),
            ("PyTorch=flipped",)),
    Mistake("sigmoid for tanh", "activation", LENET, "torch", "fc2",
            torch("", ("torch.tanh(self.fc1(x))", "torch.sigmoid(self.fc1(x))")), ("PyTorch=sigmoid", "tanh")),
    Mistake("tanh twice", "activation", LENET, "torch", "fc3",
            torch("", ("torch.tanh(self.fc2(x))", "torch.tanh(torch.tanh(self.fc2(x)))")),
            ("tanh", "twice|JAX=nothing")),
    Mistake("flattened by channel, width, height", "flatten-order", LENET, "torch", "fc1",
            torch("", ("torch.flatten(x, 1)", "torch.flatten(x.transpose(2, 3), 1)")), ("flatten",)),
    Mistake("maximum for average pooling", "pooling", LENET, "torch", "conv2",
            torch("", ("F.avg_pool2d(torch.tanh(self.conv1(x))", "F.max_pool2d(torch.tanh(self.conv1(x))")),
            ("PyTorch=max|JAX=average for", "max")),
    Mistake("gradient cut", "gradient-cut", LENET, "torch", "fc2",
            torch("", ("torch.tanh(self.fc1(x))", "torch.tanh(self.fc1(x)).detach()")), ("PyTorch=no gradient",)),
    Mistake("bias added twice", "bias", LENET, "torch", "fc3",
            forward("fc3", lambda self, x: F.linear(x, self.weight, self.bias) + self.bias),
            ("PyTorch=bias", "PyTorch=twice")),
    Mistake("edge repeated for zero padding", "padding", LENET, "torch", "conv1",
            forward("conv1", lambda self, x: F.conv2d(F.pad(x, (2,) * 4, "replicate"), self.weight, self.bias)),
            ("PyTorch=edge|PyTorch=replicate|PyTorch=repeat", "padding|edge")),
)  # fmt: skip
