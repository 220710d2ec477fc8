"""Mistakes in ResNet-18: batch normalisation, strides and padding, the residual sum."""

from __future__ import annotations

from torch.nn import functional as F

from netparity.pairs import MODES
from parity_tests.mistakes.planting import Given, Mistake, attributes, forward, jax, torch

RESNET = "resnet18"
_STEM_NORM = 'x = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name="bn1")(x)'

MISTAKES = (
    Mistake("epsilon of Keras", "norm-epsilon", RESNET, "jax", "bn1", jax(("epsilon=1e-5, name", "epsilon=1e-3, name")),
            ("epsilon", "JAX=0.001", "PyTorch=1e-05")),
    Mistake("momentum not complemented", "bn-momentum", RESNET, "jax", "bn1",
            jax(('momentum=0.9, epsilon=1e-5, name="bn1"', 'momentum=0.1, epsilon=1e-5, name="bn1"')),
            ("momentum", "1 - PyTorch's")),
    Mistake("biased running variance", "bn-biased-variance", RESNET, "jax", "bn1", Given(lambda setup: {"allow": []}),
            ("biased running variance",)),
    Mistake("evaluation's statistics in training", "bn-statistics", RESNET, "jax", "bn1",
            jax((_STEM_NORM, _STEM_NORM.replace("not train", "True"))), ("running",)),
    Mistake("SAME at a stride", "same-stride", RESNET, "jax", "conv1",
            jax(("strides=2, padding=3", 'strides=2, padding="SAME"')), ("SAME",)),
    Mistake("SAME max-pooling", "same-stride", RESNET, "jax", "layer1_0.conv1",
            jax(("padding=((1, 1), (1, 1))", 'padding="SAME"')), ("SAME",)),
    Mistake("skip connection lost", "skip", RESNET, "jax", "layer1_0", jax(("nn.relu(x + residual)", "nn.relu(x)")),
            ("skip|residual|shortcut",)),
    Mistake("no activation after the sum", "activation", RESNET, "jax", "layer1_0",
            jax(("nn.relu(x + residual)", "x + residual")), ("relu", "JAX=left out|JAX=nothing")),
    Mistake("activation before the sum", "activation-order", RESNET, "jax", "layer1_0",
            jax(("nn.relu(x + residual)", "nn.relu(x) + residual")), ("relu", "before")),
    Mistake("stride in the second convolution", "stride", RESNET, "jax", "layer2_0.conv1",
            jax(("conv((3, 3), strides=self.stride, padding=1", "conv((3, 3), padding=1"),
                ('padding=1, name="conv2"', 'strides=self.stride, padding=1, name="conv2"')),
            ("stride",)),
    Mistake("global maximum for average", "pooling", RESNET, "jax", "fc",
            jax(("x.mean(axis=(1, 2))", "x.max(axis=(1, 2))")), ("JAX=max", "average|mean")),
    Mistake("epsilon of Keras", "norm-epsilon", RESNET, "torch", "layer1_0.bn2", attributes("layer1.0.bn2", eps=1e-3),
            ("epsilon", "PyTorch=0.001", "JAX=1e-05")),
    Mistake("momentum complemented", "bn-momentum", RESNET, "torch", "bn1", attributes("bn1", momentum=0.9),
            ("momentum", "1 - PyTorch's")),
    Mistake("batch's statistics in evaluation", "bn-statistics", RESNET, "torch", "bn1",
            forward("bn1", lambda self, x: F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias,
                                                        True, self.momentum, self.eps)),
            ("batch", "running|evaluation"), MODES),
    Mistake("dilated", "dilation", RESNET, "torch", "layer1_0.conv2",
            attributes("layer1.0.conv2", dilation=(2, 2), padding=(2, 2)), ("dilation", "2")),
    Mistake("skip connection lost", "skip", RESNET, "torch", "layer2_0", torch("layer2.0", ("out += identity", "pass")),
            ("skip|residual|shortcut",)),
    Mistake("projection not normalised", "norm-left-out", RESNET, "torch", "layer2_0.downsample_bn",
            forward("layer2.0.downsample.1", lambda self, x: x * 1), ("norm", "left out|nothing",)),
    Mistake("pooled size rounded up", "ceil-mode", RESNET, "torch", "layer1_0.conv1",
            attributes("maxpool", ceil_mode=True), ("ceil|rounded up",)),
    Mistake("kernel's height and width swapped", "kernel-layout", RESNET, "torch", "layer1_0.conv1",
            forward("layer1.0.conv1", lambda self, x: F.conv2d(x, self.weight.mT, padding=1)),
            ("height and width swapped|transposed",)),
    Mistake("input taken for the skip after normalisation", "skip", RESNET, "torch", "layer1_0",
            torch("layer1.0", ("out += identity", "out += out")), ("twice|residual|skip|shortcut",)),
)  # fmt: skip
