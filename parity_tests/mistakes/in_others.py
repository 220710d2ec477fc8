"""Mistakes in the ports in NNX and in Equinox."""

from __future__ import annotations

from torch.nn import functional as F

from parity_tests.mistakes.planting import Mistake, attributes, forward, jax, torch

_SHORTCUT = "return nnx.relu(y + self.shortcut(x))"
_NORM = 'eqx.nn.BatchNorm(layer, axis_name="batch", momentum=0.9, mode="batch")'

MISTAKES = (
    Mistake("relu for tanh", "activation", "nnx_lenet5", "jax", "fc2",
            jax(("nnx.tanh(self.fc1(x))", "nnx.relu(self.fc1(x))")), ("JAX=relu", "tanh")),
    Mistake("maximum for average pooling", "pooling", "nnx_lenet5", "jax", "conv2",
            jax(("nnx.avg_pool(nnx.tanh(self.conv1(x))", "nnx.max_pool(nnx.tanh(self.conv1(x))")),
            ("JAX=max", "average|avg")),
    Mistake("flattened by width, height, channel", "flatten-order", "nnx_lenet5", "jax", "fc1",
            jax(("x.reshape(x.shape[0], -1)", "x.swapaxes(1, 2).reshape(x.shape[0], -1)")), ("flatten",)),
    Mistake("gradient cut", "gradient-cut", "nnx_lenet5", "torch", "fc3",
            torch("", ("self.fc3(x)", "self.fc3(x.detach())")), ("PyTorch=no gradient",)),
    Mistake("epsilon of Keras", "norm-epsilon", "nnx_resnet18", "jax", "bn", jax(("epsilon=1e-5", "epsilon=1e-3")),
            ("epsilon", "JAX=0.001", "PyTorch=1e-05")),
    Mistake("NNX's momentum", "bn-momentum", "nnx_resnet18", "jax", "bn", jax(("momentum=0.9", "momentum=0.99")),
            ("momentum",)),
    Mistake("skip connection lost", "skip", "nnx_resnet18", "jax", "blocks.0",
            jax((_SHORTCUT, _SHORTCUT.replace(" + self.shortcut(x)", ""))), ("skip|residual|shortcut",)),
    Mistake("SAME at a stride", "same-stride", "nnx_resnet18", "jax", "stem",
            jax(("(7, 7), 2, padding=3", '(7, 7), 2, padding="SAME"')), ("SAME",)),
    Mistake("GELU by tanh", "gelu-tanh", "nnx_vit", "jax", "blocks.0.mlp.drop1",
            jax(("self.fc1(x), approximate=False", "self.fc1(x)")), ("JAX=tanh",)),
    Mistake("PyTorch's default epsilon", "norm-epsilon", "nnx_vit", "jax", "blocks.0.norm1",
            jax(("nnx.LayerNorm(features, epsilon=1e-6", "nnx.LayerNorm(features, epsilon=1e-5")),
            ("epsilon", "JAX=1e-05", "PyTorch=1e-06")),
    Mistake("half as many heads", "head-order", "nnx_vit", "jax", "blocks.0.attention",
            jax(("nnx.MultiHeadAttention(num_heads,", "nnx.MultiHeadAttention(num_heads // 2,")), ("head",)),
    Mistake("skip connection lost", "skip", "nnx_vit", "torch", "blocks.0.norm2",
            torch("encoder.layers.encoder_layer_0", ("x = x + input", "pass")), ("skip|residual|shortcut",)),
    Mistake("last token for the class token", "class-token", "nnx_vit", "jax", "head",
            jax(("self.norm(x)[:, 0]", "self.norm(x)[:, -1]")), ("last|token|position",)),
    Mistake("relu for tanh", "activation", "equinox_lenet5", "jax", "conv2",
            jax(("jnp.tanh(self.conv1(x))", "jax.nn.relu(self.conv1(x))")), ("JAX=relu", "tanh")),
    Mistake("flattened by height, width, channel", "flatten-order", "equinox_lenet5", "jax", "fc1",
            jax(("jnp.ravel(x)", "jnp.ravel(x.transpose(1, 2, 0))")), ("flatten",)),
    Mistake("softmax in the network", "softmax-twice", "equinox_lenet5", "jax", "output",
            jax(("return self.fc3(x)", "return jax.nn.softmax(self.fc3(x))")), ("softmax",)),
    Mistake("bias left out", "bias", "equinox_lenet5", "torch", "fc2",
            forward("fc2", lambda self, x: F.linear(x, self.weight)), ("PyTorch=bias", "PyTorch=left out")),
    Mistake("maximum for average pooling", "pooling", "equinox_lenet5", "jax", "conv2",
            jax(("eqx.nn.AvgPool2d(2, 2)", "eqx.nn.MaxPool2d(2, 2)")), ("JAX=max", "average|avg")),
    Mistake("padding all on the right and bottom", "padding", "equinox_vgg_bn", "jax", "features.layers.0",
            jax(("layer, 3, padding=1", "layer, 3, padding=((0, 2), (0, 2))")), ("JAX=padding",)),
    Mistake("epsilon of Keras", "norm-epsilon", "equinox_vgg_bn", "jax", "features.layers.1",
            jax((_NORM, _NORM.replace("mode=", "eps=1e-3, mode="))), ("epsilon", "JAX=0.001", "PyTorch=1e-05")),
    Mistake("Equinox's momentum", "bn-momentum", "equinox_vgg_bn", "jax", "features.layers.1",
            jax((_NORM, _NORM.replace("momentum=0.9, ", "momentum=0.99, "))), ("momentum",)),
    Mistake("running statistics in training", "bn-statistics", "equinox_vgg_bn", "jax", "features.layers.1",
            jax((_NORM, _NORM.replace('"batch")', '"ema")'))), ("running",)),
    Mistake("momentum complemented", "bn-momentum", "equinox_vgg_bn", "torch", "features.layers.1",
            attributes("features.1", momentum=0.9), ("momentum",)),
)  # fmt: skip
