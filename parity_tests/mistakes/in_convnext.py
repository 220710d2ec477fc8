"""Mistakes in ConvNeXt: its layer scale, stochastic depth, normalisation of channels."""

from __future__ import annotations

from torch.nn import functional as F

from parity_tests.mistakes.planting import Mistake, attributes, forward, jax, torch

CONVNEXT = "convnext_tiny"
_BLOCK, _SUM = "stages_0_0", "return x + StochasticDepth(self.drop_rate)(y, train)"

MISTAKES = (
    Mistake("PyTorch's default epsilon", "norm-epsilon", CONVNEXT, "jax", "stem_norm",
            jax(("self.stem_norm = nn.LayerNorm(epsilon=1e-6)", "self.stem_norm = nn.LayerNorm(epsilon=1e-5)")),
            ("epsilon", "JAX=1e-05", "PyTorch=1e-06")),
    Mistake("GELU by tanh", "gelu-tanh", CONVNEXT, "jax", f"{_BLOCK}.pwconv2",
            jax(("nn.gelu(y, approximate=False)", "nn.gelu(y)")), ("JAX=tanh",)),
    Mistake("layer scale left out", "layer-scale", CONVNEXT, "jax", _BLOCK,
            jax(("        y = gamma[None, None, None, :] * y\n", "")), ("gamma|scale|product", "left out|nothing")),
    Mistake("skip connection lost", "skip", CONVNEXT, "jax", _BLOCK, jax((_SUM, _SUM.replace("x + ", ""))),
            ("skip|residual|shortcut",)),
    Mistake("normalised over the whole map", "norm-axes", CONVNEXT, "jax", f"{_BLOCK}.norm",
            jax(('epsilon=1e-6, name="norm"', 'epsilon=1e-6, reduction_axes=(1, 2, 3), name="norm"')),
            ("axes|axis|over",)),
    Mistake("normalised before the average", "norm-order", CONVNEXT, "jax", "norm",
            jax(("        x = x.mean(axis=(1, 2))\n        return self.head(self.norm(x))",
                 "        return self.head(self.norm(x).mean(axis=(1, 2)))")), ("average|mean",)),
    Mistake("stochastic depth not scaled", "dropout-scale", CONVNEXT, "jax", "stages_1_0.StochasticDepth_0",
            jax(("x / keep", "x")), ("scaled|division by 0.5",)),
    Mistake("stochastic depth of single values", "dropout-shape", CONVNEXT, "jax", "stages_1_0.StochasticDepth_0",
            jax(("(x.shape[0],) + (1,) * (x.ndim - 1)", "x.shape")), ("single values|together",)),
    Mistake("activation before the first dense layer", "activation-order", CONVNEXT, "jax", f"{_BLOCK}.pwconv1",
            jax(('y = nn.Dense(4 * dim, name="pwconv1")(y)\n        y = nn.gelu(y, approximate=False)',
                 'y = nn.Dense(4 * dim, name="pwconv1")(nn.gelu(y, approximate=False))')), ("gelu",)),
    Mistake("layer scale left out", "layer-scale", CONVNEXT, "torch", _BLOCK,
            torch("features.1.0", ("self.layer_scale * self.block(input)", "self.block(input)")),
            ("gamma|scale|product", "left out|nothing")),
    Mistake("PyTorch's default epsilon", "norm-epsilon", CONVNEXT, "torch", "norm",
            attributes("classifier.0", eps=1e-5),
            ("epsilon", "PyTorch=1e-05", "JAX=1e-06")),
    Mistake("GELU by tanh", "gelu-tanh", CONVNEXT, "torch", f"{_BLOCK}.pwconv2",
            attributes("features.1.0.block.4", approximate="tanh"), ("PyTorch=tanh",)),
    Mistake("skip connection lost", "skip", CONVNEXT, "torch", _BLOCK,
            torch("features.1.0", ("result += input", "pass")), ("skip|residual|shortcut",)),
    Mistake("dropped less often", "dropout-rate", CONVNEXT, "torch", "stages_1_0.StochasticDepth_0",
            attributes("features.3.0.stochastic_depth", p=0.3), ("rate", "PyTorch=0.3", "JAX=0.5")),
    Mistake("a whole batch dropped", "dropout-shape", CONVNEXT, "torch", "stages_1_0.StochasticDepth_0",
            attributes("features.3.0.stochastic_depth", mode="batch"), ("StochasticDepth", "axis 0")),
    Mistake("normalised over the whole map", "norm-axes", CONVNEXT, "torch", "stem_norm",
            forward("features.0.1", lambda self, x: F.layer_norm(x, x.shape[1:], eps=self.eps)
                    * self.weight[:, None, None] + self.bias[:, None, None]), ("axes|axis|over",)),
    Mistake("instance normalisation", "norm-axes", CONVNEXT, "torch", "down_norms_0",
            forward("features.2.0", lambda self, x: F.instance_norm(x, None, None, self.weight, self.bias)),
            ("axes|axis|over|instance",)),
)  # fmt: skip
