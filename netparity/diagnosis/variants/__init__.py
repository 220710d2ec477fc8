"""Known mistakes as other ways to make one call of a function: what a port has in place of what PyTorch calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from netparity.diagnosis.variants import (
    activations,
    arithmetic,
    attention,
    convolutions,
    dense,
    losses,
    norms,
    pools,
    recurrent,
    rotary,
    shapes,
)
from netparity.diagnosis.variants.variant import Variant
from netparity.watching import Call

_FAMILIES: dict[str, Callable[[Call], Iterator[Variant]]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), convolutions.convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), convolutions.transposed),
    "pad": convolutions.pad,
    "linear": dense.linear,
    "embedding": dense.embedding,
    "layer_norm": norms.layer_norm,
    "rms_norm": norms.rms_norm,
    "group_norm": norms.group_norm,
    "batch_norm": norms.batch_norm,
    "local_response_norm": norms.local_response_norm,
    **dict.fromkeys(activations.FUNCTIONS, activations.activation),
    **dict.fromkeys(("softmax", "log_softmax"), activations.softmax),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), pools.max_pool),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), pools.avg_pool),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), pools.adaptive_pool),
    **dict.fromkeys(("mean", "sum", "amax"), pools.reduction),
    "interpolate": pools.interpolate,
    "scaled_dot_product_attention": attention.scaled_dot_product_attention,
    "multi_head_attention_forward": attention.multi_head,
    **dict.fromkeys(("lstm", "gru"), recurrent.recurrence),
    "add": arithmetic.addition,
    **dict.fromkeys(("sub", "rsub"), arithmetic.subtraction),
    **dict.fromkeys(("mul", "div"), arithmetic.product),
    **dict.fromkeys(("pow", "square", "sqrt", "rsqrt", "reciprocal"), arithmetic.power),
    **dict.fromkeys(("matmul", "bmm"), arithmetic.matrix_product),
    "neg": arithmetic.negation,
    "rpow": rotary.base,
    "sin": rotary.sine,
    **dict.fromkeys(("transpose", "permute", "movedim", "flip", "roll", "channel_shuffle"), shapes.move),
    **dict.fromkeys(("reshape", "view", "flatten", "unflatten"), shapes.reshaped),
    **dict.fromkeys(("chunk", "split", "tensor_split", "unbind"), shapes.parts),
    **dict.fromkeys(("cat", "concat", "stack"), shapes.joined),
    "getitem": shapes.indexed,
    "masked_fill": shapes.masked,
    **dict.fromkeys(("tril", "triu"), shapes.triangle),
    "cross_entropy": losses.cross_entropy,
    **dict.fromkeys(("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div", "nll_loss",
                     "binary_cross_entropy", "binary_cross_entropy_with_logits"), losses.regression),
}  # fmt: skip
_GENERAL = frozenset({"add", "sub", "rsub", "mul", "div", "pow", "matmul", "bmm", "neg", "mean", "sum"})


def of(call: Call) -> Iterator[Variant]:
    """Other ways to make a call, the commonest mistakes first; none of a function that is not known."""
    family = _FAMILIES.get(call.name)
    return family(call) if family is not None else iter(())


def known(call: Call) -> bool:
    """Whether there is another way to make a call."""
    return call.name in _FAMILIES


def special(call: Call) -> bool:
    """Whether a call is of a layer, rather than of arithmetic that means anything."""
    return known(call) and call.name not in _GENERAL
