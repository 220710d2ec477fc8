"""Mistakes in MobileNetV3: hard activations, squeeze and excitation, conventions of its normalisation."""

from __future__ import annotations

from torch import nn

from netparity import infer_table
from parity_tests.mistakes.planting import Mistake, Setup, attributes, instead, jax, torch

MOBILENET = "mobilenet_v3_small"
_SQUEEZE = "        if self.squeeze:\n            x = SqueezeExcitation()(x)\n"
_DEPTHWISE = "        x = ConvNorm(self.expanded, self.kernel"
_FIRST = "stride=2, activation=nn.hard_swish"


def _squeezed_first(setup: Setup) -> Setup:
    """The table is stated, since it is inferred from the order of the layers."""
    table = infer_table(setup.jax, setup.module, setup.inputs)
    return jax((_SQUEEZE, ""), (_DEPTHWISE, _SQUEEZE + _DEPTHWISE))(setup).given(table=table)


MISTAKES = (
    Mistake("PyTorch's default epsilon", "norm-epsilon", MOBILENET, "jax", "ConvNorm_0.BatchNorm_0",
            jax(("epsilon=1e-3", "epsilon=1e-5")), ("epsilon", "JAX=1e-05", "PyTorch=0.001")),
    Mistake("momentum of PyTorch's default", "bn-momentum", MOBILENET, "jax", "ConvNorm_0.BatchNorm_0",
            jax(("momentum=0.99", "momentum=0.9")), ("momentum",)),
    Mistake("swish for hard swish", "activation", MOBILENET, "jax", "ConvNorm_0",
            jax((_FIRST, _FIRST.replace("hard_swish", "swish"))), ("JAX=swish|JAX=silu", "PyTorch=hard")),
    Mistake("sigmoid for hard sigmoid", "activation", MOBILENET, "jax", "InvertedResidual_0.SqueezeExcitation_0",
            jax(("nn.hard_sigmoid(scale)", "nn.sigmoid(scale)")), ("JAX=sigmoid", "PyTorch=hard")),
    Mistake("hard sigmoid of Keras 2", "activation", MOBILENET, "jax", "InvertedResidual_0.SqueezeExcitation_0",
            jax(("nn.hard_sigmoid(scale)", "jax.numpy.clip(0.2 * scale + 0.5, 0, 1)")), ("sigmoid",)),
    Mistake("squeezed before the convolution", "squeeze-excite-order", MOBILENET, "jax",
            "InvertedResidual_0.ConvNorm_0.Conv_0", _squeezed_first,
            ("elsewhere|order|before",)),
    Mistake("squeezed over one axis", "global-average", MOBILENET, "jax",
            "InvertedResidual_0.SqueezeExcitation_0.Conv_0",
            jax(("x.mean(axis=(1, 2), keepdims", "x.mean(axis=1, keepdims")),
            ("mean|average", "axis")),
    Mistake("skip connection lost", "skip", MOBILENET, "jax", "InvertedResidual_1",
            jax(("x = x + residual", "x = x * 1")), ("skip|residual|shortcut",)),
    Mistake("SAME at a stride", "same-stride", MOBILENET, "jax", "ConvNorm_0.Conv_0",
            jax(("padding=self.kernel // 2", 'padding="SAME"')), ("SAME",)),
    Mistake("dropout of the paper", "dropout-rate", MOBILENET, "jax", "Dropout_0",
            jax(("nn.Dropout(self.dropout,", "nn.Dropout(0.5,")), ("rate", "JAX=0.5", "PyTorch=0.2")),
    Mistake("relu6 for hard swish", "activation", MOBILENET, "torch", "ConvNorm_0",
            instead("features.0.2", lambda old: nn.ReLU6()), ("PyTorch=relu6", "JAX=hard")),
    Mistake("sigmoid for hard sigmoid", "activation", MOBILENET, "torch", "InvertedResidual_0.SqueezeExcitation_0",
            instead("features.1.block.1.scale_activation", lambda old: nn.Sigmoid()), ("PyTorch=sigmoid", "JAX=hard")),
    Mistake("epsilon of the other networks", "norm-epsilon", MOBILENET, "torch", "ConvNorm_0.BatchNorm_0",
            attributes("features.0.1", eps=1e-5), ("epsilon", "PyTorch=1e-05", "JAX=0.001")),
    Mistake("skip connection lost", "skip", MOBILENET, "torch", "InvertedResidual_1",
            torch("features.2", ("result += input", "pass")), ("skip|residual|shortcut",)),
    Mistake("dropout half as often", "dropout-rate", MOBILENET, "torch", "Dropout_0", attributes("classifier.2", p=0.1),
            ("rate", "JAX=0.2", "PyTorch=0.1")),
    Mistake("squeezed by the maximum", "pooling", MOBILENET, "torch", "InvertedResidual_0.SqueezeExcitation_0.Conv_0",
            instead("features.1.block.1.avgpool", lambda old: nn.AdaptiveMaxPool2d(1)),
            ("PyTorch=max", "average|mean")),
    Mistake("swish for hard swish before the dropout", "activation", MOBILENET, "torch", "Dropout_0",
            instead("classifier.1", lambda old: nn.SiLU()), ("PyTorch=swish|PyTorch=silu", "JAX=hard")),
)  # fmt: skip
