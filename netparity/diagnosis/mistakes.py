"""Known mistakes of those who port networks between PyTorch and JAX: why they happen, how they are mended, a report."""

from __future__ import annotations

import dataclasses

_TORCH = "https://docs.pytorch.org/docs/stable/generated"
_FLAX = "https://flax.readthedocs.io/en/latest/api_reference/flax.nnx/nn"
_JAX, _OPTAX = "https://docs.jax.dev/en/latest/_autosummary", "https://optax.readthedocs.io/en/latest/api"


@dataclasses.dataclass(frozen=True)
class KnownMistake:
    """A mistake that people make.

    Attributes:
      key: by which it is named: ``"norm-epsilon"``.
      title: for people.
      why: how it comes about, and what it does.
      mend: what to do.
      source: a public report, or the documentation that says it.
    """

    key: str
    title: str
    why: str
    mend: str
    source: str


def _issue(repository: str, number: int) -> str:
    return f"https://github.com/{repository}/issues/{number}"


_ALL = (
    # ---------------------------------------------------------------------------------------------- normalisation
    KnownMistake(
        "norm-epsilon", "Another epsilon in a normalisation",
        "Flax's LayerNorm, GroupNorm and RMSNorm have 1e-6 by default, its BatchNorm and all of PyTorch's 1e-5, and "
        "many published networks have one of their own. Inputs of small variance show it; most do not.",
        "State it on both sides: `nn.LayerNorm(epsilon=1e-5)`.", _issue("ml-explore/mlx-examples", 1434)),
    KnownMistake(
        "bn-momentum", "BatchNorm's momentum is not complemented",
        "PyTorch's momentum is the weight of the new batch, Flax's that of the old statistics: 0.1 is 0.9. Flax's "
        "default 0.99 is PyTorch's 0.01. Nothing differs until running statistics are used.",
        "`momentum=0.9` in Flax for PyTorch's default.", _issue("pytorch/examples", 289)),
    KnownMistake(
        "bn-biased-variance", "The running variance is biased",
        "PyTorch updates it with the unbiased variance of the batch, Flax with the biased one: they "
        "part by n / (n - 1).",
        "Large batches hardly show it. Where it is meant, `allow=[\"biased running variance\"]`.",
        _issue("pytorch/pytorch", 77427)),
    KnownMistake(
        "bn-statistics", "BatchNorm uses the wrong statistics",
        "The mode was not passed on, or exchanged: running statistics in training, or the batch's in evaluation.",
        "`use_running_average=not train` in Linen, `train()` and `eval()` in NNX and PyTorch; `mode=\"batch\"` in "
        "Equinox.", f"{_FLAX}/normalization.html"),
    KnownMistake(
        "norm-axes", "A normalisation over the wrong axes",
        "Flax normalises the last axis alone by default, PyTorch as many of the last as `normalized_shape` has; behind "
        "a transposition these are others.",
        "`reduction_axes` and `feature_axes` in Flax, `normalized_shape` in PyTorch.",
        f"{_TORCH}/torch.nn.LayerNorm.html"),
    KnownMistake(
        "norm-kind", "Another normalisation",
        "RMSNorm subtracts no mean, LayerNorm does; with a small mean they look alike.",
        "Take the one that the network was trained with.", f"{_TORCH}/torch.nn.RMSNorm.html"),
    KnownMistake(
        "norm-order", "A normalisation on the other side of a layer",
        "Post-norm and pre-norm transformers have the same parameters.",
        "Follow the original's order.", f"{_TORCH}/torch.nn.TransformerEncoderLayer.html"),
    KnownMistake(
        "norm-left-out", "A normalisation left out",
        "A last or a first normalisation outside the blocks is easily overlooked.",
        "Count the original's normalisations.", "https://arxiv.org/abs/2002.04745"),
    KnownMistake(
        "group-norm-groups", "Another number of groups in GroupNorm",
        "Flax has 32 groups by default, and `num_groups` beside `group_size` is refused only where both are given.",
        "`num_groups` as in PyTorch.", _issue("huggingface/diffusers", 621)),
    # ---------------------------------------------------------------------------------------------- activations
    KnownMistake(
        "gelu-tanh", "GELU by tanh for GELU by erf",
        "`jax.nn.gelu` approximates by tanh unless it is told otherwise, `torch.nn.GELU` does not: 5e-4 an element, "
        "which tests of the logits let pass.",
        "`jax.nn.gelu(x, approximate=False)`, or `nn.GELU(approximate=\"tanh\")`.", _issue("goodfire-ai/spd", 624)),
    KnownMistake(
        "gelu-sigmoid", "GELU by a sigmoid",
        "`x * sigmoid(1.702 x)`, CLIP's “quick GELU”, is a third function of that name.",
        "Write the same one on both sides.", "https://github.com/tinygrad/tinygrad/pull/526"),
    KnownMistake(
        "activation", "Another activation, or none",
        "ReLU6, leaky slopes, hard and soft swish share names and shapes; some layers have none.",
        "Compare function by function, with its parameters.", f"{_TORCH}/torch.nn.LeakyReLU.html"),
    KnownMistake(
        "activation-order", "Activation and another step exchanged",
        "Only monotonic steps, such as ReLU and max-pooling, commute.",
        "Keep the original's order.", f"{_TORCH}/torch.nn.MaxPool2d.html"),
    KnownMistake(
        "relu-at-zero", "Another gradient of ReLU at zero",
        "`jnp.maximum(x, 0)` has the gradient 0.5 at 0, `jax.nn.relu` and PyTorch have 0.",
        "`jax.nn.relu`.", f"{_JAX}/jax.nn.relu.html"),
    # ---------------------------------------------------------------------------------------------- windows
    KnownMistake(
        "same-stride", "“SAME” at a stride for explicit padding",
        "“SAME” adds what the size needs, the odd one after; PyTorch's `padding=1` adds one on either side. At a "
        "stride of 2 and an even size the windows begin elsewhere, and shapes agree.",
        "`padding=1` (or the pairs) in Flax.", _issue("google/flax", 2993)),
    KnownMistake(
        "padding", "Other padding",
        "Size, side or kind (zeros, reflected, circular) differ; where sizes agree, only the border is off.",
        "State it as pairs on both sides.", _issue("google/flax", 963)),
    KnownMistake(
        "stride", "Another stride", "PyTorch's pooling strides by its window by default, Flax's by 1.",
        "`strides=(2, 2)` in Flax.", f"{_FLAX}/pooling.html"),
    KnownMistake(
        "dilation", "Another dilation", "`kernel_dilation` and `input_dilation` are two things in Flax.",
        "`kernel_dilation` for PyTorch's `dilation`.", f"{_TORCH}/torch.nn.Conv2d.html"),
    KnownMistake(
        "groups", "Other groups", "A grouped kernel fits other groups of the same size.",
        "`feature_group_count` for PyTorch's `groups`.", f"{_TORCH}/torch.nn.Conv2d.html"),
    KnownMistake(
        "kernel-flip", "A flipped kernel",
        "Deep learning's convolution is a cross-correlation; SciPy's and the signal processor's is not.",
        "Flip the kernel, or use `lax.conv_general_dilated`.",
        "https://docs.jax.dev/en/latest/notebooks/convolutions.html"),
    KnownMistake(
        "kernel-layout", "A kernel in another layout",
        "PyTorch has OIHW, Flax HWIO; a square kernel fits with height and width exchanged.",
        "`kernel.transpose(2, 3, 1, 0)`; test with a window that is not square.",
        "https://flax.readthedocs.io/en/stable/migrating/convert_pytorch_to_flax.html"),
    KnownMistake(
        "conv-transpose", "Another transposed convolution",
        "Flax does not flip the kernel and pads the stretched input, PyTorch takes the gradient of a convolution.",
        "Kernel flipped, or `transpose_kernel=True`; padding k - 1 - p.", _issue("jax-ml/jax", 11252)),
    KnownMistake(
        "pooling", "Another pooling", "Maximum and average, adaptive and not, have the same shapes.",
        "Write the same one on both sides.", f"{_TORCH}/torch.nn.AdaptiveAvgPool2d.html"),
    KnownMistake(
        "avg-pool-padding", "Average pooling counts its padding, or not",
        "PyTorch and Flax count it by default, TensorFlow does not.",
        "`count_include_pad` on both sides.", _issue("google/flax", 2448)),
    KnownMistake(
        "ceil-mode", "Pooled sizes rounded up", "Flax has no `ceil_mode`; sizes that divide hide it.",
        "Pad by hand at the end, with -inf for a maximum.", _issue("google/flax", 2040)),
    KnownMistake(
        "global-average", "A global average over the wrong axes",
        "Height and width are axes 1 and 2 in JAX, 2 and 3 in PyTorch.",
        "`x.mean((1, 2))`.", f"{_TORCH}/torch.nn.AdaptiveAvgPool2d.html"),
    KnownMistake(
        "resize", "Resized otherwise",
        "`jax.image.resize` takes half-pixel centres and smooths when it shrinks; `F.interpolate` does not smooth, "
        "may align corners, and its nearest rounds down.",
        "`antialias=False`; `align_corners=False`, `mode=\"nearest-exact\"` in PyTorch.",
        _issue("sayakpaul/cmmd-pytorch", 4)),
    # ---------------------------------------------------------------------------------------------- arrangement
    KnownMistake(
        "flatten-order", "Flattened in another order",
        "PyTorch flattens channel by channel, JAX row by row: the dense layer behind it gets its inputs in another "
        "order. Fresh logits are small, so absolute tolerances let it pass.",
        "Permute the kernel's rows, `DenseKernel(name, flattened=(h, w, c))`, or transpose before flattening.",
        _issue("gzuidhof/nn-transfer", 17)),
    KnownMistake(
        "channel-order", "Channels in another order", "Blue, green, red for red, green, blue: OpenCV reads them so.",
        "Reverse the last axis.", "https://docs.opencv.org/4.x/d4/da8/group__imgcodecs.html"),
    KnownMistake(
        "channel-shuffle", "Channels shuffled otherwise", "Groups and channels of a group exchanged in the reshape.",
        "`(groups, channels)` to `(channels, groups)`, as the paper.", f"{_TORCH}/torch.nn.ChannelShuffle.html"),
    KnownMistake(
        "concatenation", "Concatenated in another order, or along another axis",
        "Channels are axis 1 in PyTorch, the last in JAX, and a skip connection comes first or second.",
        "The same order along the channels.", f"{_TORCH}/torch.cat.html"),
    KnownMistake(
        "batch-first", "Batch and time exchanged",
        "PyTorch's recurrent and attention layers take time first unless told otherwise; equal sizes hide it.",
        "`batch_first=True`; take a batch of another size than the time.", f"{_TORCH}/torch.nn.LSTM.html"),
    KnownMistake(
        "class-token", "The class token stands elsewhere", "At the end for the front, or another token is read.",
        "Front, and index 0, as in ViT.", "https://arxiv.org/abs/2010.11929"),
    KnownMistake(
        "position-embedding", "Position embeddings left out or added elsewhere",
        "A port runs without them; they are added once, before the dropout.",
        "Add them where the original does.", "https://arxiv.org/abs/2010.11929"),
    KnownMistake(
        "skip", "A skip connection lost or taken elsewhere",
        "The parameters are the same without it, and normalisations keep the scale.",
        "Add what the block was given.", "https://arxiv.org/abs/1512.03385"),
    KnownMistake(
        "last-step", "Another step of a sequence is read",
        "The last output of a backward direction belongs to the first step, and padded steps count.",
        "The step that the original reads.", f"{_TORCH}/torch.nn.LSTM.html"),
    KnownMistake(
        "bias", "A bias left out, or one too many",
        "Layers before a normalisation often have none; frameworks add one by default.",
        "`use_bias=False` for `bias=False`.", f"{_TORCH}/torch.nn.Linear.html"),
    KnownMistake(
        "layer-scale", "Layer scale left out",
        "A learned factor for each channel that begins near zero: without it the branch is far larger.",
        "Multiply the branch before the sum.", "https://arxiv.org/abs/2103.17239"),
    KnownMistake(
        "squeeze-excite-order", "Squeeze-and-excitation at another place",
        "Before or after the activation, with sigmoid or hard sigmoid.",
        "As the original: MobileNetV3 has it after the activation, with a hard sigmoid.",
        "https://arxiv.org/abs/1905.02244"),
    KnownMistake(
        "gate-order", "Gate and value exchanged",
        "A fused projection of a gated unit is split into gate and value in either order.",
        "Split as the original does.", "https://arxiv.org/abs/2002.05202"),
    KnownMistake(
        "gradient-cut", "A gradient is cut, or not",
        "`stop_gradient` and `detach` leave outputs as they are: only gradients show it.",
        "Compare gradients.", f"{_JAX}/jax.lax.stop_gradient.html"),
    # ---------------------------------------------------------------------------------------------- attention
    KnownMistake(
        "attention-scale", "Scores scaled otherwise",
        "By the root of the head's size, of the model's, or not at all; twice where a library scales already.",
        "1 / √(head size), once.", "https://github.com/ggml-org/llama.cpp/pull/13951"),
    KnownMistake(
        "head-order", "Heads and their features exchanged",
        "`[heads, depth]` and `[depth, heads]` are the same size.",
        "Reshape to `(heads, depth)`, then transpose.", "https://github.com/Lightning-AI/litgpt/pull/1013"),
    KnownMistake(
        "packed-order", "Query, key and value in another order",
        "A packed projection is split by thirds, or head by head, in one of six orders.",
        "Split as the original does.", "https://github.com/vllm-project/vllm/pull/53114"),
    KnownMistake(
        "mask", "The mask is inverted, transposed or left out",
        "True means “attend” in JAX and in scaled_dot_product_attention, “ignore” in nn.MultiheadAttention.",
        "Invert it; look at one row.", "https://github.com/pytorch/pytorch/pull/141694"),
    KnownMistake(
        "softmax-axis", "Softmax along another axis",
        "Over the queries for the keys: equal sizes hide it.", "The last axis, of the keys.",
        f"{_JAX}/jax.nn.softmax.html"),
    KnownMistake(
        "rope", "Rotary positions of halves for neighbours",
        "GPT-NeoX and Hugging Face rotate the two halves of a head, GPT-J and Meta neighbours; converters permute the "
        "weights for it. Base and sign differ, too.",
        "The same form as the weights were made for.", _issue("huggingface/transformers", 25199)),
    KnownMistake(
        "embedding-scale", "Embeddings not scaled, or twice",
        "Some multiply them by √features, in the layer, in the table or behind it.",
        "Once, where the original does.", "https://github.com/TensorAuto/OpenTau/pull/179"),
    # ---------------------------------------------------------------------------------------------- recurrence
    KnownMistake(
        "lstm-gates", "Gates of an LSTM in another order",
        "PyTorch packs input, forget, cell, output; others have another order. All fit.",
        "Split by PyTorch's order.", _issue("pytorch/pytorch", 750)),
    KnownMistake(
        "lstm-bias", "One bias of an LSTM left out",
        "PyTorch has two that are added, Flax one.", "Add them: `Sum((bias_ih, bias_hh))`.",
        _issue("google/flax", 3746)),
    KnownMistake(
        "direction", "A recurrence in the other direction", "Or its outputs left in reverse order.",
        "`reverse=True, keep_order=True` for PyTorch's backward direction.", f"{_FLAX}/recurrent.html"),
    # ---------------------------------------------------------------------------------------------- dropout, loss
    KnownMistake(
        "dropout-rate", "Another rate of dropout", "The part that is dropped, or the part that is kept.",
        "Both frameworks take what is dropped.", f"{_TORCH}/torch.nn.Dropout.html"),
    KnownMistake(
        "dropout-scale", "What is kept is not scaled",
        "Both frameworks divide by 1 - rate in training; older code multiplies in evaluation.",
        "Divide in training.", f"{_TORCH}/torch.nn.Dropout.html"),
    KnownMistake(
        "dropout-shape", "Dropout of single values for whole channels",
        "`Dropout2d` drops whole maps; Flax does with `broadcast_dims`.",
        "`nn.Dropout(rate, broadcast_dims=(1, 2))`.", f"{_TORCH}/torch.nn.Dropout2d.html"),
    KnownMistake(
        "dropout-mode", "Dropout in the wrong mode",
        "It drops in evaluation, or not in training: the mode was not passed on.",
        "`deterministic=not train`.", f"{_FLAX}/stochastic.html"),
    KnownMistake(
        "softmax-twice", "Softmax twice",
        "Cross-entropy of logits applies it: a softmax in the network is a second one. Training becomes slow, "
        "not wrong.",
        "Return logits.", "https://github.com/bowang-lab/Transformer-GCN-QA/pull/32"),
    KnownMistake(
        "loss-reduction", "Mean for sum", "optax returns a loss for each example, PyTorch their mean.",
        "`.mean()` in JAX.", f"{_OPTAX}/losses.html"),
    KnownMistake(
        "label-smoothing", "Labels smoothed on one side",
        "PyTorch takes a parameter of the loss, optax smooths the labels.",
        "`optax.smooth_labels(one_hot, alpha)`.", f"{_TORCH}/torch.nn.CrossEntropyLoss.html"),
    # ---------------------------------------------------------------------------------------------- training
    KnownMistake(
        "adam-epsilon", "Adam's epsilon",
        "1e-8 in PyTorch and optax, 1e-7 in Keras; `eps_root` stands inside the root.",
        "The same, outside the root.", f"{_OPTAX}/optimizers.html"),
    KnownMistake(
        "adam-bias-correction", "Adam without bias correction",
        "BERT's Adam has none; the first steps are far too long or short.",
        "Both frameworks' Adam corrects.", "https://arxiv.org/abs/2006.05987"),
    KnownMistake(
        "adam-betas", "Adam's other moments", "0.95, 0.98 and 0.99 are common for the second.", "State both.",
        f"{_TORCH}/torch.optim.Adam.html"),
    KnownMistake(
        "decoupled-decay", "L2 penalty for decoupled decay",
        "`torch.optim.Adam(weight_decay=…)` adds it to the gradient, AdamW to the step.",
        "`optax.adamw` for AdamW; `chain(add_decayed_weights, adam)` for Adam.", _issue("google-deepmind/optax", 417)),
    KnownMistake(
        "weight-decay", "Another weight decay", "optax.adamw's default is 1e-4, torch.optim.AdamW's 1e-2.", "State it.",
        f"{_OPTAX}/optimizers.html"),
    KnownMistake(
        "momentum", "Another momentum", "Nesterov's form, PyTorch's dampening, or the rate inside the velocity.",
        "`optax.sgd(rate, momentum)` is PyTorch's SGD.", f"{_TORCH}/torch.optim.SGD.html"),
    KnownMistake(
        "rmsprop-epsilon", "RMSprop's epsilon inside the root",
        "optax has it inside, PyTorch outside: large epsilons show it.", "`eps_in_sqrt=False`.",
        _issue("google-deepmind/optax", 532)),
    KnownMistake(
        "rmsprop-decay", "RMSprop's decay", "0.9 in optax, PyTorch's alpha is 0.99.", "`decay=0.99`.",
        _issue("google-deepmind/optax", 532)),
    KnownMistake(
        "rmsprop-centred", "RMSprop centred or not", "Centred divides by the deviation, not the root mean square.",
        "`centered` on both sides.", f"{_TORCH}/torch.optim.RMSprop.html"),
    KnownMistake(
        "clip-epsilon", "Clipped by the norm and 1e-6",
        "`clip_grad_norm_` divides by norm + 1e-6, `optax.clip_by_global_norm` does not: 1e-4 at a limit of 0.01.",
        "Add it, or tell the difference apart.", _issue("goodfire-ai/spd", 643)),
    KnownMistake(
        "clip-kind", "Clipped by value for norm, or layer by layer",
        "`optax.clip` and `clip_grad_value_` clip numbers, the others the whole gradient's norm.",
        "`optax.clip_by_global_norm` for `clip_grad_norm_`.", f"{_TORCH}/torch.nn.utils.clip_grad_norm_.html"),
    KnownMistake(
        "schedule-shift", "A schedule one step off",
        "optax's first step has count 0; PyTorch's scheduler steps after the optimizer.",
        "`scheduler.step()` after `optimizer.step()`.", "https://docs.pytorch.org/docs/stable/optim.html"),
    KnownMistake(
        "schedule-length", "A schedule of another length", "Epochs for steps, warm-up counted or not.",
        "Count steps on both sides.", f"{_OPTAX}/optimizer_schedules.html"),
    KnownMistake(
        "lrn", "Local response normalisation's alpha",
        "PyTorch and Caffe divide alpha by n, the paper (Krizhevsky et al., 2012) does not: its 1e-4 is their 5e-4.",
        "`alpha=5e-4` in PyTorch for the paper's 1e-4.", f"{_TORCH}/torch.nn.LocalResponseNorm.html"),
    KnownMistake(
        "pooling-ties", "The gradient of max-pooling at ties",
        "PyTorch gives it to the first of the largest, `x.reshape(…).max(…)` in JAX shares it among them.",
        "`flax.linen.max_pool`, or a gradient rule of its own.", f"{_JAX}/jax.numpy.max.html"),
    KnownMistake(
        "precision", "Products rounded to TF32 or bfloat16",
        "JAX does so by default on GPUs and TPUs, PyTorch in convolutions.",
        "`netparity.full_float32()`.", _issue("jax-ml/jax", 7010)),
)  # fmt: skip

MISTAKES: dict[str, KnownMistake] = {one.key: one for one in _ALL}
