"""Mistakes in AlexNet and VGG: padding, pooling, flattening, dropout, batch normalisation's modes."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from parity_tests.mistakes.planting import Mistake, attributes, forward, instead, jax, torch

ALEXNET, VGG = "alexnet", "vgg11_bn"
_DROPPED = "x = nn.Dropout(self.dropout)(x, deterministic=not train)\n"
_NORM = "x = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)(x)"
_RELU = "\n            x = nn.relu(x)\n        x = adaptive"

MISTAKES = (
    Mistake("SAME at a stride", "same-stride", ALEXNET, "jax", "conv1",
            jax(("strides=4, padding=2", 'strides=4, padding="SAME"')), ("SAME|JAX=padding 4",)),
    Mistake("no padding", "padding", ALEXNET, "jax", "conv3",
            jax(('nn.Conv(384, (3, 3), padding=1', 'nn.Conv(384, (3, 3), padding="VALID"')), ("JAX=padding",)),
    Mistake("pooled without overlap", "pooling", ALEXNET, "jax", "conv2",
            jax(("nn.max_pool(x, (3, 3), strides=(2, 2))", "nn.max_pool(x, (2, 2), strides=(2, 2))")), ("pool", "2")),
    Mistake("an activation left out", "activation", ALEXNET, "jax", "conv5",
            jax(('nn.relu(nn.Conv(256, (3, 3), padding=1, name="conv4")(x))',
                 'nn.Conv(256, (3, 3), padding=1, name="conv4")(x)')), ("relu", "JAX=left out|JAX=nothing")),
    Mistake("flattened by width, height, channel", "flatten-order", ALEXNET, "jax", "Dropout_0",
            jax(("x.reshape(x.shape[0], -1)", "x.swapaxes(1, 2).reshape(x.shape[0], -1)")), ("flatten",)),
    Mistake("what is kept is not scaled", "dropout-scale", ALEXNET, "jax", "fc1",
            jax((_DROPPED, _DROPPED.replace("\n", " * (1 - self.dropout * train)\n"))), ("scale|factor",)),
    Mistake("another rate of dropout", "dropout-rate", ALEXNET, "jax", "Dropout_0",
            jax((_DROPPED, _DROPPED.replace("self.dropout", "0.2"))), ("rate", "JAX=0.2", "PyTorch=0.5")),
    Mistake("channels in the order blue, green, red", "channel-order", ALEXNET, "torch", "conv1",
            forward("features.0", lambda self, x: F.conv2d(x.flip(1), self.weight, self.bias, 4, 2)),
            ("channel", "revers|order|flipped")),
    Mistake("leaky for plain relu", "activation", ALEXNET, "torch", "conv2",
            instead("features.1", lambda old: nn.LeakyReLU(0.01)), ("PyTorch=leak", "PyTorch=0.01")),
    Mistake("average for maximum pooling", "pooling", ALEXNET, "torch", "Dropout_0",
            instead("features.12", lambda old: nn.AvgPool2d(3, 2)), ("PyTorch=average|JAX=maximum for", "average")),
    Mistake("pooled size rounded up", "ceil-mode", ALEXNET, "torch", "conv2", attributes("features.2", ceil_mode=True),
            ("ceil|rounded up",)),
    Mistake("reflected for zero padding", "padding", ALEXNET, "torch", "conv4",
            attributes("features.8", padding_mode="reflect"),
            ("PyTorch=reflect", "padding")),
    Mistake("flattened by channel, width, height", "flatten-order", ALEXNET, "torch", "Dropout_0",
            torch("", ("torch.flatten(x, 1)", "torch.flatten(x.mT, 1)")), ("flatten",)),
    Mistake("bias left out", "bias", ALEXNET, "torch", "conv5",
            forward("features.10", lambda self, x: F.conv2d(x, self.weight, None, padding=1)),
            ("PyTorch=bias", "PyTorch=left out")),
    Mistake("momentum not complemented", "bn-momentum", VGG, "jax", "BatchNorm_0",
            jax(("momentum=0.9", "momentum=0.1")),
            ("momentum", "1 - PyTorch's")),
    Mistake("Flax's momentum", "bn-momentum", VGG, "jax", "BatchNorm_0", jax(("momentum=0.9, ", "")), ("momentum",)),
    Mistake("pooled at a stride of 1", "stride", VGG, "jax", "Conv_1",
            jax(("nn.max_pool(x, (2, 2), strides=(2, 2))", "nn.max_pool(x, (2, 2))")), ("stride", "1", "2")),
    Mistake("no activation", "activation", VGG, "jax", "Conv_1", jax((_RELU, _RELU.replace("nn.relu(x)", "x"))),
            ("relu", "JAX=left out|JAX=nothing")),
    Mistake("no dropout in training", "dropout-mode", VGG, "jax", "classifier.2",
            jax(("self.dropout, deterministic=not train", "self.dropout, deterministic=True")), ("dropout",)),
    Mistake("average for maximum", "pooling", VGG, "jax", "Conv_1", jax(("nn.max_pool", "nn.avg_pool")),
            ("JAX=average|JAX=avg", "max")),
    Mistake("epsilon of Keras", "norm-epsilon", VGG, "torch", "BatchNorm_1", attributes("features.5", eps=1e-3),
            ("epsilon", "PyTorch=0.001", "JAX=1e-05")),
    Mistake("evaluation's statistics in training", "bn-statistics", VGG, "torch", "BatchNorm_0",
            forward("features.1", lambda self, x: F.batch_norm(x, self.running_mean, self.running_var, self.weight,
                                                               self.bias, False, self.momentum, self.eps)),
            ("running",)),
    Mistake("plain average of all batches", "bn-momentum", VGG, "torch", "BatchNorm_0",
            attributes("features.1", momentum=None), ("momentum|average",)),
    Mistake("kernel flipped", "kernel-flip", VGG, "torch", "Conv_1",
            forward("features.4", lambda self, x: F.conv2d(x, self.weight.flip(2, 3), self.bias, padding=1)),
            ("PyTorch=flipped",)),
    Mistake("normalisation left out", "norm-left-out", VGG, "torch", "BatchNorm_0",
            forward("features.1", lambda self, x: x * 1), ("batch norm", "left out|nothing",)),
    Mistake("gradient cut", "gradient-cut", VGG, "torch", "Conv_1",
            forward("features.4", lambda self, x: F.conv2d(x.detach(), self.weight, self.bias, padding=1)),
            ("PyTorch=no gradient",)),
    Mistake("global average for a grid of averages", "pooling", VGG, "torch", "Dense_0",
            instead("avgpool", lambda old: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Upsample(size=(7, 7)))),
            ("average|mean",)),
)  # fmt: skip
