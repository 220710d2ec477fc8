"""What two modules' attributes mean, and where they do not mean the same: rules by the kinds of module.

Sources: the documentation of `torch.nn`, `flax.linen`, `flax.nnx` and `equinox.nn`; padding as
`jax.lax.conv_general_dilated` and `jax.lax.conv_transpose` define it. What the table of parameters has matched
already, such as a bias that one side lacks, or the window of a kernel, can differ no more and has no rule.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from netparity.diagnosis.variants.variant import Pads, same

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Two:
    """Two modules that are one layer.

    Attributes:
      kind: of JAX's: ``"Conv"``.
      ours: JAX's attributes.
      theirs: PyTorch's module.
      given: the shape of PyTorch's input ``[b, c, …]``; None where it is not known.
      convolved: the sizes, without batch and channels, of what JAX convolves; None where they are not known.
      made: the shape of JAX's output; None where it is no stage.
    """

    kind: str
    ours: Mapping[str, Any]
    theirs: nn.Module
    given: Shape | None
    convolved: Shape | None = None
    made: Shape | None = None


@dataclasses.dataclass(frozen=True)
class Difference:
    """One attribute that differs; see `netparity.results.Convention`."""

    what: str
    jax: Any
    torch: Any
    note: str = ""


Rule = Callable[[Two], Iterator[Difference]]


def differences(two: Two) -> Iterator[Difference]:
    """All attributes that certainly mean something else on either side."""
    for kinds, types, rule in _RULES:
        if re.sub("[123]d$", "", two.kind) in kinds and isinstance(two.theirs, types):
            yield from rule(two)


# ---------------------------------------------------------------------------------------------------- normalisations


def _epsilon(two: Two) -> Iterator[Difference]:
    ours, theirs = _first(two.ours, "epsilon", "eps"), getattr(two.theirs, "eps", None)
    if ours is None:
        return
    if theirs is None:
        yield Difference("epsilon", ours, "None: the dtype's own")
    elif ours != theirs:
        default = "1e-05" if two.kind == "BatchNorm" else "1e-06"
        note = f"the default of Flax's {two.kind} is {default}, PyTorch's 1e-05" if "epsilon" in two.ours else ""
        yield Difference("epsilon", ours, theirs, note)


def _momentum(two: Two) -> Iterator[Difference]:
    ours, theirs = two.ours.get("momentum"), getattr(two.theirs, "momentum", None)
    if ours is None or not getattr(two.theirs, "track_running_stats", False):
        return
    if theirs is None:
        yield Difference("momentum", ours, "None: the mean of all batches")
    elif abs(1 - ours - theirs) > 1e-9:
        note = f"JAX's is 1 - PyTorch's: PyTorch's {theirs:g} is {1 - theirs:g} in JAX"
        yield Difference("momentum", f"{ours:g} (PyTorch's {1 - ours:g})", theirs, note)


def _statistics(two: Two) -> Iterator[Difference]:
    if two.ours.get("mode") == "ema":
        yield Difference(
            "statistics in training", "the running ones (mode='ema')", "the batch's", "Equinox: BatchNorm(mode='batch')"
        )
    if not getattr(two.theirs, "track_running_stats", True):
        yield Difference("statistics in evaluation", "the running ones", "the batch's (track_running_stats=False)")


def _groups(two: Two) -> Iterator[Difference]:
    assert isinstance(two.theirs, nn.GroupNorm)
    ours, size = _first(two.ours, "num_groups", "groups"), two.ours.get("group_size")
    if ours is None and size:
        ours = two.theirs.num_channels // size
    if ours is not None and ours != two.theirs.num_groups:
        yield Difference("groups", ours, two.theirs.num_groups, "Flax's default is 32 groups")


def _normalised_axes(two: Two) -> Iterator[Difference]:
    assert isinstance(two.theirs, nn.LayerNorm)
    axes, theirs = two.ours.get("reduction_axes", two.ours.get("shape")), len(two.theirs.normalized_shape)
    if axes is None:
        return
    count = 1 if isinstance(axes, int) else len(axes)
    if count != theirs:
        yield Difference("normalised axes", _counted(count), _counted(theirs), "Flax: LayerNorm(reduction_axes=…)")


def _counted(axes: int) -> str:
    return "the last one" if axes == 1 else f"{axes} axes"


# ---------------------------------------------------------------------------------------------------- windows


def _convolution(two: Two) -> Iterator[Difference]:
    assert isinstance(two.theirs, _ConvNd)
    rank, found = len(two.theirs.kernel_size), list(_strides(two))
    yield from found
    if any(n != 1 for n in _axes(two.ours.get("input_dilation"), rank)):
        yield Difference("input dilation", _shown(two.ours["input_dilation"]), 1)
    ours, mode = _jax_padding(two, rank)
    if ours is None or two.convolved is None or two.given is None or found or len(two.given) < rank:
        return
    theirs, sizes = _torch_padding(two.theirs), two.given[-rank:]
    added = ours if _pads_first(two) else ((0, 0),) * rank
    if sizes != tuple(n - low - high for n, (low, high) in zip(two.convolved, added, strict=True)):
        return  # one side pads by hand
    if _read(ours, sizes, two.theirs) != _read(theirs, sizes, two.theirs):
        said = _first(two.ours, "padding")
        note = _SAME if said == "SAME" else ""
        yield Difference("padding", _padding(said, ours), _padding(two.theirs.padding, theirs), note)
    elif mode != two.theirs.padding_mode and any(map(any, ours)):
        yield Difference("padding mode", mode, two.theirs.padding_mode)


def _pads_first(two: Two) -> bool:
    """Whether what JAX convolves is padded already."""
    return two.ours.get("padding") in ("CIRCULAR", "REFLECT", "CAUSAL") or _first(two.ours, "padding_mode") not in (
        None,
        "ZEROS",
    )


_SAME = "PyTorch pads as much after as before: JAX's is padding=1, or PyTorch's F.pad(x, (before, after, …)) by hand"


def _strides(two: Two) -> Iterator[Difference]:
    """Strides and dilation."""
    rank = len(two.theirs.kernel_size)  # type: ignore[arg-type]  # of all that slides a window
    for what, names, attribute in (
        ("stride", ("strides", "stride"), "stride"),
        ("dilation", ("kernel_dilation", "dilation"), "dilation"),
    ):
        ours, theirs = _axes(_first(two.ours, *names), rank), _axes(getattr(two.theirs, attribute), rank)
        if ours != theirs:
            yield Difference(what, _shown(ours), _shown(theirs))


def _read(padding: Pads, sizes: Shape, theirs: _ConvNd) -> list[tuple[int, int]]:
    """By axis, where the first window begins and how many there are: what is added behind the last is never read."""
    return [
        (low, (n + low + high - d * (k - 1) - 1) // s)
        for (low, high), n, k, s, d in zip(
            padding, sizes, theirs.kernel_size, theirs.stride, theirs.dilation, strict=True
        )
    ]


def _jax_padding(two: Two, rank: int) -> tuple[Pads | None, str]:
    """What is added, and with what; None where it is not known."""
    given, mode = two.ours.get("padding"), str(two.ours.get("padding_mode", "zeros")).lower()
    if not isinstance(given, str):
        return sides(given, rank), mode
    assert isinstance(two.theirs, _ConvNd)
    windows = [d * (k - 1) + 1 for k, d in zip(two.theirs.kernel_size, two.theirs.dilation, strict=True)]
    name = given.upper()
    if name == "VALID":
        return ((0, 0),) * rank, mode
    if name in ("CIRCULAR", "REFLECT"):
        return tuple(((k - 1) // 2, k // 2) for k in windows), name.lower()
    if name == "CAUSAL":
        return tuple((k - 1, 0) for k in windows), mode
    if name not in ("SAME", "SAME_LOWER") or two.given is None or len(two.given) < rank:
        return None, mode
    return same(two.given[-rank:], windows, two.theirs.stride, lower=name == "SAME_LOWER"), mode


def _torch_padding(module: _ConvNd) -> Pads:
    if module.padding == "same":
        totals = [d * (k - 1) for k, d in zip(module.kernel_size, module.dilation, strict=True)]
        return tuple((t // 2, t - t // 2) for t in totals)
    if module.padding == "valid":
        return ((0, 0),) * len(module.kernel_size)
    return tuple((int(p), int(p)) for p in module.padding)


def sides(padding: Any, rank: int) -> Pads | None:
    """Padding as numbers or pairs, before and after by axis; None if it is neither.

    >>> sides(1, 2), sides((0, (1, 2)), 2)
    (((1, 1), (1, 1)), ((0, 0), (1, 2)))
    """
    if isinstance(padding, int):
        return ((padding, padding),) * rank
    if not isinstance(padding, tuple | list) or len(padding) != rank:
        return None
    return tuple((p, p) if isinstance(p, int) else (p[0], p[1]) for p in padding)


def _transposed(two: Two) -> Iterator[Difference]:
    return _transposed_in_equinox(two) if "output_padding" in two.ours else _transposed_in_flax(two)


def _transposed_in_flax(two: Two) -> Iterator[Difference]:
    """What is added to the stretched input decides."""
    assert isinstance(two.theirs, _ConvTransposeNd)
    theirs, rank, found = two.theirs, len(two.theirs.kernel_size), list(_strides(two))
    yield from found
    if found:
        return
    windows = [d * (k - 1) + 1 for k, d in zip(theirs.kernel_size, theirs.dilation, strict=True)]
    added = zip(windows, _torch_padding(theirs), theirs.output_padding, strict=True)
    wanted = tuple((k - 1 - low, k - 1 - high + more) for k, (low, high), more in added)
    given = two.ours.get("padding")
    if given in ("SAME", "VALID"):
        made: Pads | None = tuple(_stretched(k, s, given) for k, s in zip(windows, theirs.stride, strict=True))
    else:
        made = None if isinstance(given, str) else sides(given, rank)
    if made is not None and made != wanted:
        yield Difference(
            "padding",
            _padding(given, made),
            f"{_shown(wanted)} (padding {_shown(theirs.padding)}, output_padding {_shown(theirs.output_padding)})",
            f"JAX pads the stretched input: PyTorch's is padding={list(wanted)} in Flax",
        )


def _stretched(window: int, stride: int, padding: str) -> tuple[int, int]:
    """As `jax.lax.conv_transpose` pads.

    >>> _stretched(4, 2, "SAME"), _stretched(3, 2, "VALID")
    ((2, 2), (2, 2))
    """
    if padding == "VALID":
        return window - 1, stride - 1 + max(window - stride, 0)
    low = window - 1 if stride > window - 1 else -(-(window + stride - 2) // 2)
    return low, window + stride - 2 - low


def _transposed_in_equinox(two: Two) -> Iterator[Difference]:
    """Equinox's attributes mean what PyTorch's do."""
    assert isinstance(two.theirs, _ConvTransposeNd)
    rank = len(two.theirs.kernel_size)
    yield from _strides(two)
    ours = sides(two.ours.get("padding"), rank)
    if ours is not None and ours != _torch_padding(two.theirs):
        yield Difference("padding", _shown(ours), _shown(two.theirs.padding))
    more = _axes(two.ours["output_padding"], rank)
    if more != _axes(two.theirs.output_padding, rank):
        yield Difference("output padding", _shown(more), _shown(two.theirs.output_padding))


def _pooling(two: Two) -> Iterator[Difference]:
    """Of Equinox, whose pools are modules."""
    theirs, rank = two.theirs, len(two.ours["kernel_size"])
    for what, ours, other in (
        ("window", two.ours["kernel_size"], theirs.kernel_size),
        ("stride", two.ours["stride"], theirs.stride),
        ("dilation", 1, getattr(theirs, "dilation", 1)),
    ):
        if _axes(ours, rank) != _axes(other, rank):
            yield Difference(what, _shown(_axes(ours, rank)), _shown(_axes(other, rank)))
    padding = sides(theirs.padding, rank)
    if tuple(map(tuple, two.ours["padding"])) != padding:
        if _pooled(two, rank) == (two.made or ())[-rank:]:  # else one side pads by hand
            yield Difference("padding", _shown(two.ours["padding"]), _shown(theirs.padding))
    elif not getattr(theirs, "count_include_pad", True) and any(map(any, padding or ())):
        yield Difference("padding is counted", True, "False (count_include_pad)")
    if bool(two.ours["use_ceil"]) != bool(theirs.ceil_mode):
        yield Difference("sizes are rounded up", bool(two.ours["use_ceil"]), bool(theirs.ceil_mode))


def _pooled(two: Two, rank: int) -> Shape:
    """The sizes that JAX's attributes give of what PyTorch pools."""
    up = two.ours["use_ceil"]
    windows = zip(
        (two.given or ())[-rank:], two.ours["padding"], two.ours["kernel_size"], two.ours["stride"], strict=False
    )
    return tuple((n + low + high - k + (s - 1 if up else 0)) // s + 1 for n, (low, high), k, s in windows)


# ---------------------------------------------------------------------------------------------------- others


def _rate(two: Two) -> Iterator[Difference]:
    ours, theirs = _first(two.ours, "rate", "p"), getattr(two.theirs, "p", None)
    if ours is not None and ours != theirs:
        yield Difference("dropout rate", ours, theirs, "both are the part that is dropped")


def _embedding(two: Two) -> Iterator[Difference]:
    assert isinstance(two.theirs, nn.Embedding)
    if two.theirs.padding_idx is not None:
        yield Difference("padding_idx", None, two.theirs.padding_idx, "this row gets no gradient in PyTorch")
    if two.theirs.max_norm is not None:
        yield Difference("max_norm", None, two.theirs.max_norm, "PyTorch shortens the rows that are looked up")
    if two.theirs.scale_grad_by_freq:
        yield Difference("scale_grad_by_freq", False, True)


def _attention(two: Two) -> Iterator[Difference]:
    assert isinstance(two.theirs, nn.MultiheadAttention)
    if two.ours.get("num_heads") not in (None, two.theirs.num_heads):
        yield Difference("heads", two.ours["num_heads"], two.theirs.num_heads)
    rate = _first(two.ours, "dropout_rate")
    if rate is not None and rate != two.theirs.dropout:
        yield Difference("dropout rate", rate, two.theirs.dropout, "of the attention's weights")


def _recurrence(two: Two) -> Iterator[Difference]:
    assert isinstance(two.theirs, nn.RNNBase)
    if two.ours.get("reverse") and not two.theirs.bidirectional:
        yield Difference("direction", "backward in time", "forward in time")


# ---------------------------------------------------------------------------------------------------- values


def _first(attributes: Mapping[str, Any], *names: str) -> Any:
    return next((attributes[name] for name in names if attributes.get(name) is not None), None)


def _axes(value: Any, rank: int) -> tuple[int, ...]:
    """A number for each axis; None is 1, as of strides in Flax."""
    if value is None or isinstance(value, int):
        return (1 if value is None else value,) * rank
    return tuple(value) * (rank if len(value) == 1 else 1)


def _shown(value: Any) -> str:
    """A value for people: what is the same along all axes once.

    >>> _shown((2, 2)), _shown((1, 2)), _shown(((1, 1), (1, 1)))
    ('2', '(1, 2)', '1')
    """
    if isinstance(value, tuple | list):
        parts = [_shown(part) for part in value]
        return parts[0] if len(set(parts)) == 1 else f"({', '.join(parts)})"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _padding(said: Any, made: Pads) -> str:
    """What is written, and what that adds if it is a word."""
    return f"{said!r}: {_shown(made)}" if isinstance(said, str) else _shown(made)


_NORMS = ("BatchNorm", "LayerNorm", "GroupNorm", "InstanceNorm", "RMSNorm")
_RULES: tuple[tuple[tuple[str, ...], Any, Rule], ...] = (
    (_NORMS, (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm), _epsilon),
    (("BatchNorm",), nn.modules.batchnorm._BatchNorm, _momentum),
    (("BatchNorm",), nn.modules.batchnorm._BatchNorm, _statistics),
    (("GroupNorm",), nn.GroupNorm, _groups),
    (("LayerNorm",), nn.LayerNorm, _normalised_axes),
    (("Conv",), (nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    (("ConvTranspose",), _ConvTransposeNd, _transposed),
    (("MaxPool",), (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), _pooling),
    (("AvgPool",), (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), _pooling),
    (("Dropout",), (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), _rate),
    (("Embed", "Embedding"), nn.Embedding, _embedding),
    (("MultiHeadDotProductAttention", "MultiHeadAttention", "MultiheadAttention"), nn.MultiheadAttention, _attention),
    (("RNN",), nn.RNNBase, _recurrence),
)
