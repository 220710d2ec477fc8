"""The functions that PyTorch calls inside one stage: seen one by one, and one of them altered.

Modules end in calls of functions (``conv2d``, ``layer_norm``, ``softmax``), as code without modules does, so that what
is learnt here holds for both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# The arguments of functions by place. Some of PyTorch's functions have no signature that Python can read.
_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_NAMES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _CONV),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _TRANSPOSED),
    "linear": ("input", "weight", "bias"),
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
    "rms_norm": ("input", "normalized_shape", "weight", "eps"),
    "group_norm": ("input", "num_groups", "weight", "bias", "eps"),
    "batch_norm": ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    "gelu": ("input", "approximate"),
    "leaky_relu": ("input", "negative_slope", "inplace"),
    "elu": ("input", "alpha", "inplace"),
    "hardtanh": ("input", "min_val", "max_val", "inplace"),
    "softplus": ("input", "beta", "threshold"),
    **dict.fromkeys(("softmax", "log_softmax"), ("input", "dim")),
    **dict.fromkeys(
        ("max_pool1d", "max_pool2d", "max_pool3d"),
        ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    ),
    "avg_pool1d": ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
    **dict.fromkeys(
        ("avg_pool2d", "avg_pool3d"),
        ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    ),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), ("input", "output_size")),
    "interpolate": (
        *("input", "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias"),
    ),
    "embedding": ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse"),
    "local_response_norm": ("input", "size", "alpha", "beta", "k"),
    "pad": ("input", "pad", "mode", "value"),
    "scaled_dot_product_attention": ("query", "key", "value", "attn_mask", "dropout_p", "is_causal"),
    "multi_head_attention_forward": (
        *("query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias", "bias_k"),
        *("bias_v", "add_zero_attn", "dropout_p", "out_proj_weight", "out_proj_bias", "training"),
        *("key_padding_mask", "need_weights", "attn_mask"),
    ),
    "rpow": ("input", "base"),
    "lstm": ("input", "hx", "params", "bias", "num_layers", "dropout", "train", "bidirectional", "batch_first"),
    "gru": ("input", "hx", "params", "bias", "num_layers", "dropout", "train", "bidirectional", "batch_first"),
    "flatten": ("input", "start_dim", "end_dim"),
    "transpose": ("input", "dim0", "dim1"),
    "masked_fill": ("input", "mask", "value"),
    **dict.fromkeys(("chunk", "split", "tensor_split"), ("input", "parts", "dim")),
    "unbind": ("input", "dim"),
    **dict.fromkeys(("mean", "sum", "amax"), ("input", "dim", "keepdim")),
    **dict.fromkeys(("cat", "concat", "stack"), ("tensors", "dim")),
    **dict.fromkeys(("tril", "triu"), ("input", "diagonal")),
    **dict.fromkeys(("roll",), ("input", "shifts", "dims")),
    "cross_entropy": (
        *("input", "target", "weight", "size_average", "ignore_index", "reduce", "reduction", "label_smoothing"),
    ),
    **dict.fromkeys(
        ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div"),
        ("input", "target", "size_average", "reduce", "reduction"),
    ),
    **dict.fromkeys(
        ("nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits"),
        ("input", "target", "weight", "size_average", "reduce", "reduction"),
    ),
}
_ALIASES = {"split_with_sizes": "split", "concatenate": "cat", "iadd": "add", "isub": "sub", "imul": "mul"}
_ALIASES |= {"itruediv": "div", "truediv": "div", "true_divide": "div", "radd": "add", "rmul": "mul"}
_ALIASES |= {"swapaxes": "transpose", "reshape_as": "reshape", "view_as": "view"}


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a function.

    Attributes:
      number: which of all calls it is, from 0.
      name: ``"conv2d"``: without underscores, and the same for what works in place.
      func, args, kwargs: what was called.
    """

    number: int
    name: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def __getitem__(self, argument: str) -> Any:
        return self.bound.get(argument)

    @property
    def bound(self) -> dict[str, Any]:
        """The arguments by name; those without a name by place."""
        names = _NAMES.get(self.name, ("input",))
        found = {names[i] if i < len(names) else str(i): value for i, value in enumerate(self.args)}
        return {**found, **self.kwargs}

    @property
    def x(self) -> torch.Tensor:
        """The first argument."""
        return self.args[0] if self.args else next(iter(self.kwargs.values()))

    def plain(self) -> Any:
        """What the function gives."""
        return self.func(*self.args, **self.kwargs)


def name_of(func: Any) -> str:
    """A function's name, without underscores, and the same for what works in place.

    >>> name_of(torch.relu_), name_of(torch.Tensor.__iadd__), name_of(torch.nn.functional.max_pool2d)
    ('relu', 'add', 'max_pool2d')
    """
    name = getattr(func, "__name__", "")
    name = "max_pool2d" if name == "fn" else name.strip("_")
    return _ALIASES.get(name, name)


class Watch(TorchFunctionMode):
    """Inside, every call is counted; one may be altered, or all be noted.

    Args:
      altered: by number, what stands in place of a call.
      note: whether to keep which calls each tensor comes from.

    Attributes:
      calls: all that were made, if they are noted.
      leaves: what the network is fed in place of its stages' values, by name, while it runs.
      weights: the module's parameters, likewise.
    """

    def __init__(self, altered: Mapping[int, Callable[[Call], Any]] | None = None, note: bool = False):
        super().__init__()
        self.calls: list[Call] = []
        self.leaves: Mapping[str, torch.Tensor] = {}
        self.weights: Mapping[str, torch.Tensor] = {}
        self._altered, self._note, self._count = altered or {}, note, 0
        self._from: dict[int, tuple[torch.Tensor, frozenset[int]]] = {}  # tensors kept alive: an id stays one's

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = Call(self._count, name_of(func), func, tuple(args), dict(kwargs or {}))
        self._count += 1
        out = self._altered[call.number](call) if call.number in self._altered else call.plain()
        if self._note:
            self.calls.append(call)
            sources = frozenset([call.number]).union(*(self.sources(x) for x in tensors((args, kwargs))))
            changed = [out, args[0]] if call.name == "setitem" else [out]
            for tensor in tensors(changed):
                self._from[id(tensor)] = tensor, sources
        return out

    def sources(self, tensor: torch.Tensor) -> frozenset[int]:
        """The numbers of the calls that a tensor comes from."""
        return self._from.get(id(tensor), (tensor, frozenset[int]()))[1]


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in a structure of tuples, lists and mappings."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)
