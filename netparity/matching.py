"""Infers the name table: which of PyTorch's arrays each JAX array is, and how it lies.

Each side's arrays are gathered by the layer that owns them. A JAX layer fits a PyTorch module if their arrays have the
same roles and, in one layout or another, the same shapes. Among those that fit, equal names decide, then the order
of use: an alignment of both sequences that leaves out as little as possible. What stays over is aligned again, since a
branch may be used earlier on one side than on the other. Where order, neighbours and names do not agree, or where
several partners are as good, nothing is guessed: the candidates are listed.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from netparity.table import (
    Concatenated,
    ConvKernel,
    ConvTransposeKernel,
    DenseKernel,
    Entry,
    Part,
    Reshaped,
    Same,
    Shape,
    Sum,
    Transposed,
    regroups,
)

FeatureMap = tuple[int, int, int]  # height, width, channels


@dataclasses.dataclass(frozen=True)
class JaxArray:
    """A JAX parameter or statistic: its path joined by dots (``"conv1.kernel"``), and its shape."""

    name: str
    shape: Shape


@dataclasses.dataclass(frozen=True)
class TorchArray:
    """A PyTorch parameter or buffer: its name (``"layer1.0.conv1.weight"``), its shape, and the module that owns it."""

    name: str
    shape: Shape
    module: nn.Module


@dataclasses.dataclass(frozen=True)
class Inferred:
    """What was found.

    Attributes:
      table: the entries that are certain, by JAX name in the given order.
      ambiguous: by JAX name, the entries that would fit, as Python.
      jax_left: the JAX arrays that fit nothing that is left.
      torch_left: the PyTorch arrays that no entry of ``table`` or ``ambiguous`` names, or not as a whole.
    """

    table: dict[str, Entry]
    ambiguous: dict[str, list[str]]
    jax_left: list[str]
    torch_left: list[str]


def infer_table(
    jax: Sequence[JaxArray], torch: Sequence[TorchArray], *, maps: Mapping[str, FeatureMap] | None = None
) -> Inferred:
    """Infers the name table of two networks.

    Args:
      jax: the JAX arrays, in the order in which the network uses them.
      torch: the PyTorch arrays, parameters and buffers alike, in the order in which their modules are first called;
        ``num_batches_tracked`` is left out.
      maps: by JAX name, for dense kernels behind a flattening, the ``(height, width, channels)`` that is flattened.

    Returns:
      Every JAX array is in one of ``table``, ``ambiguous`` and ``jax_left``.
    """
    layers, units = _arranged(_layers(jax), _units(torch), maps or {})
    fits = _fits(layers, units, maps or {})
    sides = _Sides(layers, units, fits)
    pairs = _without_support(_without_contradiction(_aligned(sides), sides), sides)
    chosen, ambiguous = _chosen([fits[i, j] for i, j in pairs.items()])
    taken = set(pairs.values())
    for (i, j), fit in fits.items():
        if i not in pairs and j not in taken:
            for name, entries in fit.entries.items():
                found = ambiguous.setdefault(name, [])
                found += [text for text in map(repr, entries) if text not in found]
    table = {array.name: chosen[array.name] for array in jax if array.name in chosen}
    ambiguous = {array.name: ambiguous[array.name] for array in jax if array.name in ambiguous}
    return Inferred(
        table,
        ambiguous,
        [array.name for array in jax if array.name not in table and array.name not in ambiguous],
        _left(torch, table.values(), [text for texts in ambiguous.values() for text in texts]),
    )


def as_python(table: Mapping[str, Entry]) -> str:
    """The table as Python that makes it, with its imports."""
    lines = [f"    {name!r}: {entry!r}," for name, entry in table.items()]
    kinds = sorted(set(re.findall(r"\b([A-Z]\w+)\(", "\n".join(repr(entry) for entry in table.values()))))
    imports = f"from netparity import {', '.join(kinds)}\n\n" if kinds else ""
    return imports + "\n".join(["TABLE = {", *lines, "}"]) + "\n"


def _left(torch: Sequence[TorchArray], entries: Iterable[Entry], candidates: Sequence[str]) -> list[str]:
    covered: dict[str, float] = {}
    for entry in entries:
        for piece in entry.pieces():
            covered[piece.torch] = covered.get(piece.torch, 0.0) + 1 / piece.parts
    text = "\n".join(candidates)
    return [
        array.name
        for array in torch
        if covered.get(array.name, 0.0) < 0.999 and repr(array.name) not in text and not _is_counter(array.name)
    ]


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] == "num_batches_tracked"


# ---------------------------------------------------------------------------------------------------- names

_SYNONYMS = {
    "q": "query", "wq": "query", "k": "key", "wk": "key", "v": "value", "wv": "value",
    "o": "out", "wo": "out", "output": "out",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Name:
    """A layer's path, taken apart.

    Attributes:
      tokens: the words and numbers, ``("layer", "1", "0", "conv", "1")``.
      numbered: whether a number was given by Flax's counting (``Conv_0``): it then names nothing.
    """

    tokens: tuple[str, ...]
    numbered: bool

    @classmethod
    def of(cls, path: str) -> _Name:
        """``layer1_0.conv1`` is ``layer1.0.conv1``."""
        numbered = any(re.fullmatch(r"[A-Z][A-Za-z0-9]*_\d+", part) for part in path.split("."))
        return cls(tuple(token.lower() for token in re.findall(r"[A-Za-z]+|\d+", path)), numbered)

    def words(self) -> Counter[str]:
        """Its words, without numbers."""
        return Counter(_SYNONYMS.get(token, token) for token in self.tokens if not token.isdigit())

    def skeleton(self) -> tuple[str, ...]:
        """What it has in common with names that differ in numbers alone."""
        return tuple("#" if token.isdigit() else token for token in self.tokens)

    def numbers(self) -> tuple[int, ...]:
        """Its numbers."""
        return tuple(int(token) for token in self.tokens if token.isdigit())

    def likeness(self, other: _Name) -> int:
        """How many words they share."""
        return (self.words() & other.words()).total()


def _label(path: str) -> str:
    """``query``, ``key``, ``value``, ``qkv`` or ``out``, if a layer's name says one of them; else nothing."""
    words = [_SYNONYMS.get(word.lower(), word.lower()) for word in re.findall(r"[A-Za-z]+", path.rpartition(".")[2])]
    if words in (["in", "proj"], ["query", "key", "value"]) or "qkv" in words:
        return "qkv"
    said = {"query", "key", "value", "out"} & set(words)
    return said.pop() if len(said) == 1 else ""


# ---------------------------------------------------------------------------------------------------- JAX's layers

_ROLES = {
    "kernel": "weight", "weight": "weight", "w": "weight", "scale": "weight", "gamma": "weight", "embedding": "weight",
    "bias": "bias", "b": "bias", "beta": "bias",
    "mean": "running_mean", "running_mean": "running_mean", "moving_mean": "running_mean",
    "var": "running_var", "running_var": "running_var", "moving_var": "running_var", "variance": "running_var",
    "moving_variance": "running_var",
}  # fmt: skip
_AFFIX = "w|b|weight|bias|kernel|gamma|beta|scale|mean|var"


@dataclasses.dataclass(frozen=True)
class _Layer:
    """JAX's side: a layer's arrays by role, in the order in which they are used.

    Attributes:
      path: its name; of an array that stands for itself, the array's.
      arrays: by role; of an attention's or a recurrent cell's block, the role within a part: ``"query/weight"``.
      position: where the first of them is used.
      kind: ``"plain"``, ``"bare"`` (an array that stands for itself), ``"attention"`` or ``"recurrent"``.
    """

    path: str
    arrays: dict[str, JaxArray]
    position: int
    kind: str = "plain"


def _layers(arrays: Sequence[JaxArray]) -> list[_Layer]:
    """The arrays by layer, in the order of use."""
    position = {array.name: i for i, array in enumerate(arrays)}
    recurrent = {
        array.name.rpartition(".")[0] for array in arrays if array.name.rpartition(".")[2] in {"weight_ih", "weight_hh"}
    }
    groups: dict[str, dict[str, JaxArray]] = {}
    bare: list[JaxArray] = []
    stems = Counter(stem for array in arrays if (stem := _stem(array.name)))
    leaves: dict[str, list[JaxArray]] = {}
    for array in arrays:
        leaves.setdefault(array.name.rpartition(".")[0], []).append(array)
    blocks: dict[str, dict[str, JaxArray]] = {}
    for array in arrays:
        parent, _, last = array.name.rpartition(".")
        role = _ROLES.get(last.lower(), "")
        if parent in recurrent:
            blocks.setdefault(parent, {})[last] = array
            continue
        if not role and last.isdigit():
            role = _role_in_a_pair(array, leaves[parent])
        if not role and (stem := _stem(array.name)):
            word = _affix(last)
            if stems[stem] > 1 or word in {"w", "b", "weight", "bias", "kernel"}:
                parent, role = stem, _ROLES[word]
        if role and role not in groups.get(parent, {}):
            groups.setdefault(parent, {})[role] = array
        else:
            bare.append(array)

    def first(own: Iterable[JaxArray]) -> int:
        return min(position[array.name] for array in own)

    layers = [_Layer(path, own, first(own.values())) for path, own in groups.items()]
    layers += [_Layer(array.name, {"weight": array}, position[array.name], "bare") for array in bare]
    layers += [_Layer(path, own, first(own.values()), "recurrent") for path, own in blocks.items()]
    return sorted(layers, key=lambda layer: layer.position)


def _affix(last: str) -> str:
    """The role that a name begins or ends with: ``w1``, ``w_out``, ``out_w``."""
    found = re.fullmatch(rf"({_AFFIX})(?:_.+|\d+)|.+_({_AFFIX})\d*", last.lower())
    return (found[1] or found[2]) if found else ""


def _stem(name: str) -> str:
    """The layer that a name such as ``w1`` or ``conv1_w`` tells, in a network of plain functions; or nothing."""
    parent, _, last = name.rpartition(".")
    word = _affix(last)
    if not word or last.lower() in _ROLES:
        return ""
    rest = re.sub(rf"^{word}_?|_{word}(?=\d*$)", "", last.lower(), count=1)
    return f"{parent}.{rest}" if parent else rest


def _role_in_a_pair(array: JaxArray, leaves: Sequence[JaxArray]) -> str:
    """Of a list of a matrix and a vector, the one is the weight and the other the bias."""
    ranks = sorted(len(leaf.shape) for leaf in leaves)
    if len(ranks) != 2 or ranks[0] != 1 or ranks[1] < 2:
        return ""
    return "bias" if len(array.shape) == 1 else "weight"


_CELLS = {"lstm": "ifgo", "gru": "rzn"}


def _attention_block(parent: str, inner: Mapping[str, _Layer]) -> _Layer | None:
    """Query, key and value of one attention."""
    parts = {_label(layer.path): layer for layer in inner.values()}
    if not {"query", "key", "value"} <= set(parts):
        return None
    arrays = {f"{what}/{role}": a for what in ("query", "key", "value") for role, a in parts[what].arrays.items()}
    return _Layer(parent, arrays, min(parts[w].position for w in ("query", "key", "value")), "attention")


def _recurrent_block(parent: str, inner: Mapping[str, _Layer]) -> _Layer | None:
    """A cell whose gates are layers of their own, or one for the input and one for the hidden state."""
    for gates in (*_CELLS.values(), None):
        names = {f"{side}{gate}" for side in "ih" for gate in gates} if gates else {"i", "h"}
        own = {_gate(name): layer for name, layer in inner.items()}
        if names <= set(own):
            arrays = {f"{name}/{role}": a for name in sorted(names) for role, a in own[name].arrays.items()}
            return _Layer(parent, arrays, min(own[name].position for name in names), "recurrent")
    return None


def _gate(name: str) -> str:
    return {"dense_i": "i", "dense_h": "h"}.get(name, name.rstrip("_"))  # NNX calls it if_


# ---------------------------------------------------------------------------------------------------- PyTorch's modules


@dataclasses.dataclass(frozen=True)
class _Unit:
    """PyTorch's side: a module's arrays by role.

    Attributes:
      path: the module's name; of an array that stands for itself, the array's.
      arrays: by role; several layers of a recurrent module are units of their own.
      kind: which layouts there are.
      gates: of a recurrent unit.
    """

    path: str
    arrays: dict[str, TorchArray]
    kind: str
    gates: str = ""


def _units(arrays: Sequence[TorchArray]) -> list[_Unit]:
    """The arrays by module, in the order of use."""
    owned: dict[int, list[TorchArray]] = {}
    for array in arrays:
        if not _is_counter(array.name):
            owned.setdefault(id(array.module), []).append(array)
    units: list[_Unit] = []
    for own in owned.values():
        units += _module_units(own)
    # An attention calls its last layer by its weights alone: wherever that stands, it belongs behind the attention.
    for attention in [unit for unit in units if unit.kind == "attention"]:
        last = next((unit for unit in units if unit.path == _join(attention.path, "out_proj")), None)
        if last is not None:
            units.remove(last)
            units.insert(units.index(attention) + 1, last)
    return units


def _module_units(own: Sequence[TorchArray]) -> list[_Unit]:
    module, path = own[0].module, own[0].name.rpartition(".")[0]
    named = {array.name.rpartition(".")[2]: array for array in own}
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return _recurrent_units(module, path, named)
    units = []
    if isinstance(module, nn.MultiheadAttention):
        wanted = ["in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight"]
        kind = "attention"
    else:
        wanted, kind = ["weight", "bias", "running_mean", "running_var"], _kind(module)
    grouped = {attribute: named.pop(attribute) for attribute in wanted if attribute in named}
    if grouped:
        units.append(_Unit(path, grouped, kind))
    return units + [_Unit(array.name, {"weight": array}, "bare") for array in named.values()]


def _kind(module: nn.Module) -> str:
    kinds: list[tuple[type | tuple[type, ...], str]] = [
        (_ConvTransposeNd, "conv_transpose"),
        (_ConvNd, "conv"),
        (nn.Linear, "linear"),
        ((_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm), "norm"),
        ((nn.Embedding, nn.EmbeddingBag), "embedding"),
    ]
    return next((kind for types, kind in kinds if isinstance(module, types)), "other")


def _recurrent_units(module: nn.Module, path: str, named: Mapping[str, TorchArray]) -> list[_Unit]:
    mode = "lstm" if isinstance(module, (nn.LSTM, nn.LSTMCell)) else "gru"
    gates = _CELLS[mode] if isinstance(module, (nn.LSTM, nn.LSTMCell, nn.GRU, nn.GRUCell)) else "_"
    cells: dict[str, dict[str, TorchArray]] = {}
    for attribute, array in named.items():
        what, suffix = re.fullmatch(r"((?:weight|bias)_[a-z]+)(.*)", attribute).groups()  # type: ignore[union-attr]
        cells.setdefault(suffix, {})[what] = array
    return [
        _Unit(_join(path, suffix.strip("_")) if len(cells) > 1 else path, own, "recurrent", gates)
        for suffix, own in cells.items()
    ]


def _join(path: str, last: str) -> str:
    return f"{path}.{last}" if path else last


def _arranged(
    layers: list[_Layer], units: list[_Unit], maps: Mapping[str, FeatureMap]
) -> tuple[list[_Layer], list[_Unit]]:
    """Layers that are one packed module on the other side, put together."""
    recurrent = [unit for unit in units if unit.kind == "recurrent"]
    packed = [unit for unit in units if _is_packed(unit)]
    for build, targets in ((_recurrent_block, recurrent), (_attention_block, packed)):
        for parent, inner in _inner(layers).items():
            block = build(parent, inner)
            if block is not None and any(_fit(block, unit, maps) for unit in targets):
                names = {array.name for array in block.arrays.values()}
                layers = [layer for layer in layers if not names & {a.name for a in layer.arrays.values()}] + [block]
    layers = sorted(layers, key=lambda layer: layer.position)
    if any(_label(layer.path) == "qkv" for layer in layers if layer.kind == "plain"):
        units = _put_together(layers, units, maps)
    return layers, units


def _is_packed(unit: _Unit) -> bool:
    return unit.kind == "attention" or (unit.kind == "linear" and _label(unit.path) == "qkv")


def _inner(layers: Iterable[_Layer]) -> dict[str, dict[str, _Layer]]:
    """By path, the plain layers directly below it, by their last name."""
    found: dict[str, dict[str, _Layer]] = {}
    for layer in layers:
        if layer.kind == "plain" and layer.path:
            parent, _, last = layer.path.rpartition(".")
            found.setdefault(parent, {})[last] = layer
    return found


def _put_together(layers: list[_Layer], units: list[_Unit], maps: Mapping[str, FeatureMap]) -> list[_Unit]:
    """Three linear modules of query, key and value as one unit, where JAX has one kernel for the three."""
    parents = dict.fromkeys(unit.path.rpartition(".")[0] for unit in units if _label(unit.path) == "query")
    for parent in parents:
        three = {
            _label(unit.path): unit
            for unit in units
            if unit.kind == "linear" and unit.path.rpartition(".")[0] == parent and _label(unit.path)
        }
        if {"query", "key", "value"} <= set(three):
            own = [three[what] for what in ("query", "key", "value")]
            arrays = {f"{u.path}/{role}": array for u in own for role, array in u.arrays.items()}
            unit = _Unit(parent, arrays, "three")
            if any(_fit(layer, unit, maps) for layer in layers):
                at = min(units.index(u) for u in own)
                units = [*(u for u in units[:at] if u not in own), unit, *(u for u in units[at:] if u not in own)]
    return units


# ---------------------------------------------------------------------------------------------------- what fits


@dataclasses.dataclass(frozen=True)
class _Fit:
    """How a layer's arrays may be made of a module's.

    Attributes:
      entries: by JAX name, every entry that fits.
      words: by JAX name, what the choice between several goes by: the JAX array's last name and the module's kind.
      score: how much of both it takes up.
    """

    entries: dict[str, list[Entry]]
    words: dict[str, tuple[str, str]]
    score: int


def _fits(
    layers: Sequence[_Layer], units: Sequence[_Unit], maps: Mapping[str, FeatureMap]
) -> dict[tuple[int, int], _Fit]:
    found = {}
    for i, layer in enumerate(layers):
        for j, unit in enumerate(units):
            fit = _fit(layer, unit, maps)
            if fit is not None:
                found[i, j] = fit
    return found


def _fit(layer: _Layer, unit: _Unit, maps: Mapping[str, FeatureMap]) -> _Fit | None:
    if unit.kind == "recurrent" or layer.kind == "recurrent":
        found = _recurrent(layer, unit) if unit.kind == layer.kind else None
    elif layer.kind == "attention":
        found = _query_key_value(layer, unit) if _is_packed(unit) else None
    elif unit.kind == "attention":
        found = _whole(layer, unit) if layer.kind == "plain" else None
    elif unit.kind == "three":
        found = _three(layer, unit) if _label(layer.path) == "qkv" else None
    else:
        labels = {label for path in (layer.path, unit.path) if (label := _label(path))}
        found = _plain(layer, unit, maps) if len(labels) < 2 else None
    if not found or not all(found.values()):
        return None
    used = {piece.torch for entries in found.values() for entry in entries for piece in entry.pieces()}
    over = len(layer.arrays) - len(found) + len(unit.arrays) - len(used)
    if over > len(found):
        return None
    by_name = {array.name: array for array in layer.arrays.values()}
    words = {name: (_word(by_name[name]), unit.kind) for name in found}
    reshaped = any(len(by_name[n].shape) > 1 and _is_reshaped(by_name[n], e, unit) for n, e in found.items())
    # A layer counts as a layer, whether it has one array or four.
    return _Fit(found, words, round(20 * (1 - over / (len(layer.arrays) + len(unit.arrays)))) - reshaped)


def _is_reshaped(array: JaxArray, entries: Sequence[Entry], unit: _Unit) -> bool:
    """Whether it takes a joining or splitting of axes to fit."""
    ranks = {len(a.shape) for a in unit.arrays.values()}
    return all(isinstance(entry, Reshaped) for entry in entries) or len(array.shape) not in ranks


def _word(array: JaxArray) -> str:
    last = array.name.rpartition(".")[2].lower()
    if last.startswith("weight_"):
        return "weight"
    return last if last in _ROLES else _affix(last)


def _plain(layer: _Layer, unit: _Unit, maps: Mapping[str, FeatureMap]) -> dict[str, list[Entry]]:
    """A layer against a module with arrays of the same roles."""
    alone = len(layer.arrays) == 1 and len(unit.arrays) == 1
    if alone and (unit.kind == "bare" or layer.kind == "bare"):
        (ours,), (theirs,) = layer.arrays.values(), unit.arrays.values()
        kind = "other" if unit.kind == "bare" else unit.kind
        return {ours.name: _layouts(ours, theirs, kind, maps.get(ours.name))}
    if unit.kind == "bare" or layer.kind == "bare":
        return {}
    if ("weight" in layer.arrays) != ("weight" in unit.arrays) and unit.kind != "norm":
        return {}
    found = {}
    for role, ours in layer.arrays.items():
        if role in unit.arrays:
            kind = unit.kind if role == "weight" else "vector"
            found[ours.name] = _layouts(ours, unit.arrays[role], kind, maps.get(ours.name))
    return found


_WORDS = {
    "conv": {"kernel", "weight", "w", ""},
    "conv_transpose": {"kernel", "weight", "w", ""},
    "linear": {"kernel", "weight", "w", ""},
    "norm": {"scale", "weight", "gamma", "w", ""},
    "embedding": {"embedding", "weight", "w", ""},
}


def _layouts(ours: JaxArray, theirs: TorchArray, kind: str, flattened: FeatureMap | None = None) -> list[Entry]:
    """Every entry by which one array is the other."""
    name, wanted, shape = theirs.name, ours.shape, theirs.shape
    word = _word(ours)
    if kind in _WORDS and word not in _WORDS[kind]:
        return []
    found: list[Entry] = []
    dense, conv = kind in {"linear", "other"}, kind in {"conv", "other"}
    if dense and len(shape) == 2 and len(wanted) > 1:
        turned = DenseKernel(name, flattened)
        if turned.problem([shape]) is None and regroups((shape[1], shape[0]), wanted):
            found.append(turned)
    if conv and len(shape) > 2 and len(wanted) > 1 and regroups((*shape[2:], shape[1], shape[0]), wanted):
        found.append(ConvKernel(name))
    if kind == "conv_transpose":
        window = tuple(range(2, len(shape)))
        if wanted == (*shape[2:], *shape[:2]):
            found.append(ConvTransposeKernel(name))
        if wanted == (*shape[2:], shape[1], shape[0]):
            found.append(ConvTransposeKernel(name, transpose_kernel=True))
        if word != "kernel" and wanted == (shape[1], shape[0], *shape[2:]):
            found.append(Transposed(name, (1, 0, *window), flipped=window))  # Equinox's
    if kind == "norm" and len(shape) == 3 and wanted == (*shape[1:], shape[0]):
        found.append(Transposed(name, (1, 2, 0)))
    if word == "kernel" and kind != "other":
        return found  # a kernel's output axis is its last
    if wanted == shape:
        found.append(Same(name))
    elif not found and regroups(shape, wanted):
        found.append(Reshaped(name))
    return found


def _query_key_value(layer: _Layer, unit: _Unit) -> dict[str, list[Entry]]:
    """Query, key and value of their own in JAX, packed in PyTorch."""
    found = {}
    for key, ours in layer.arrays.items():
        what, role = key.split("/")
        index = ("query", "key", "value").index(what)
        theirs = unit.arrays.get(f"{what[0]}_proj_{role}")
        if theirs is not None:
            found[ours.name] = _layouts(ours, theirs, "linear")
            continue
        theirs = unit.arrays.get(role) or unit.arrays.get(f"in_proj_{role}")
        if theirs is not None:
            found[ours.name] = _part_layouts(ours, theirs, "linear" if role == "weight" else "vector", index, 3)
    return found


def _part_layouts(ours: JaxArray, theirs: TorchArray, kind: str, index: int, parts: int) -> list[Entry]:
    """Every entry by which the JAX array is one of several slices."""
    if parts == 1:
        return _layouts(ours, theirs, kind)
    if theirs.shape[0] % parts:
        return []
    slice_ = TorchArray(theirs.name, (theirs.shape[0] // parts, *theirs.shape[1:]), theirs.module)
    return [Part(entry, index, parts) for entry in _layouts(ours, slice_, kind)]


def _whole(layer: _Layer, unit: _Unit) -> dict[str, list[Entry]]:
    """One kernel for query, key and value on both sides."""
    found = {}
    for role, ours in layer.arrays.items():
        theirs = unit.arrays.get(f"in_proj_{role}")
        if theirs is not None and _is_fused(ours.shape, theirs.shape):
            found[ours.name] = _layouts(ours, theirs, "linear" if role == "weight" else "vector")
    return found


def _is_fused(shape: Shape, packed: Shape) -> bool:
    """Whether query, key and value come one after the other, and not head by head: ``[embed, 3, heads, depth]``."""
    return len(shape) <= len(packed) or 3 in shape[:-2] or shape[0] == 3


def _three(layer: _Layer, unit: _Unit) -> dict[str, list[Entry]]:
    """One kernel for query, key and value in JAX, three in PyTorch."""
    found: dict[str, list[Entry]] = {}
    for role, ours in layer.arrays.items():
        three = [array for key, array in unit.arrays.items() if key.endswith(f"/{role}")]
        if len(three) != 3:
            continue
        rows, rest = sum(array.shape[0] for array in three), three[0].shape[1:]
        if any(array.shape[1:] != rest for array in three) or not _is_fused(ours.shape, (rows, *rest)):
            return {}
        packed = TorchArray("", (rows, *rest), three[0].module)
        found[ours.name] = []
        for layout in _layouts(ours, packed, "linear" if role == "weight" else "vector"):
            axis = 1 if isinstance(layout, DenseKernel) else 0
            # Of [embed, 3, heads, depth], as of [embed, 3 * heads * depth], the axis is the second.
            parts = [Same(a.name) if axis == 0 else DenseKernel(a.name) for a in three]
            if axis == 0 and ours.shape != packed.shape:
                parts = [Reshaped(a.name) for a in three]
            found[ours.name].append(Concatenated(tuple(parts), axis))
    return found


def _recurrent(layer: _Layer, unit: _Unit) -> dict[str, list[Entry]]:
    """A recurrent cell: JAX's gates each by itself or packed, with one bias or two."""
    gates, sides = unit.gates, ("ih", "hh")
    if "weight_hr" in unit.arrays:
        return {}
    cell = [(array, *_place(key, gates)) for key, array in layer.arrays.items()]
    if any(side is None for _, side, _, _ in cell):
        return {}
    own = {gate for _, _, _, gate in cell if gate is not None and gates != "_"}
    if own and len(own) != len(gates) and not all(gate == "n" for gate in own):
        return {}
    biased = {
        gate: {side for _, side, role, own in cell if role == "bias" and own in (gate, None)} for gate in gates
    }  # fmt: skip
    # Equinox's bias is all of the input's, and bias_n the hidden state's of one gate alone.
    found: dict[str, list[Entry]] = {}
    for array, side, role, gate in cell:
        theirs = unit.arrays.get(f"{role}_{side}")
        if theirs is None:
            continue
        index, parts = (0, 1) if gate is None else (gates.index(gate), len(gates))
        if role == "weight":
            found[array.name] = _part_layouts(array, theirs, "linear", index, parts)
            continue
        pair = tuple(unit.arrays[f"bias_{s}"].name for s in sides)

        def source(gate: str, side: str | None = side, pair: tuple[str, ...] = pair) -> Entry:
            """The bias of a gate: where JAX has only one, it is the sum of PyTorch's two.

            A GRU multiplies the hidden state's share of its last gate, so that one is not summed.
            """
            if len(biased[gate]) == 1 and gate != "n":
                return Sum(pair)
            return Same(pair[sides.index(str(side))])

        if not _part_layouts(array, theirs, "vector", index, parts):
            return {}
        if gate is not None:
            bias = source(gate)
            found[array.name] = [bias if parts == 1 else Part(bias, index, parts)]
        elif len({source(g) for g in gates}) == 1:
            found[array.name] = [source(gates[0])]
        else:
            found[array.name] = [Concatenated(tuple(Part(source(g), i, len(gates)) for i, g in enumerate(gates)), 0)]
    return found


def _place(key: str, gates: str) -> tuple[str | None, str, str | None]:
    """Side, role and gate of a JAX array of a recurrent cell; no side if the cell has no such array."""
    equinox = {
        "weight_ih": ("ih", "weight", None), "weight_hh": ("hh", "weight", None), "bias": ("ih", "bias", None),
        "bias_ih": ("ih", "bias", None), "bias_hh": ("hh", "bias", None), "bias_n": ("hh", "bias", "n"),
    }  # fmt: skip
    if key in equinox:
        side, role, gate = equinox[key]
        return (side, role, gate) if gate is None or gate in gates else (None, role, gate)
    where, _, role = key.partition("/")
    if not role or where[0] not in "ih" or (len(where) > 1 and where[1:] not in gates):
        return None, role, None
    return f"{where[0]}h", role, where[1:] or None


# ---------------------------------------------------------------------------------------------------- alignment


class _Sides:
    """Both sequences, and what is read off them again and again.

    Attributes:
      layers, units: JAX's and PyTorch's side, in the order of use.
      fits: by their places, how a layer may be made of a module.
      ours, theirs: their names.
      named: the layers and modules whose names say the same, and that fit.
    """

    def __init__(self, layers: Sequence[_Layer], units: Sequence[_Unit], fits: Mapping[tuple[int, int], _Fit]):
        self.layers, self.units, self.fits = layers, units, fits
        self.ours, self.theirs = [_Name.of(layer.path) for layer in layers], [_Name.of(unit.path) for unit in units]
        self.named = {i: j for i, j in _named(self.ours, self.theirs).items() if (i, j) in fits}
        # An array that a module owns by itself may be used long after the module is called: it has no neighbours.
        self._left = [i for i in sorted({i for i, _ in fits}) if layers[i].kind != "bare"]
        self._right = [j for j in sorted({j for _, j in fits}) if units[j].kind != "bare"]
        self._place, self._there = ({n: at for at, n in enumerate(side)} for side in (self._left, self._right))

    def is_bare(self, i: int, j: int) -> bool:
        """Whether one of the two is an array that stands for itself."""
        return "bare" in (self.layers[i].kind, self.units[j].kind)

    def neighbours(self, pairs: Mapping[int, int], *looked_at: tuple[int, int]) -> int:
        """How many neighbours of the pairs that are looked at are pairs, too; these themselves do not count."""
        own = {i for i, _ in looked_at}
        count = 0
        for i, j in looked_at:
            if i in self._place and j in self._there:
                for step in (-1, 1):
                    a, b = self._place[i] + step, self._there[j] + step
                    if 0 <= a < len(self._left) and 0 <= b < len(self._right) and self._left[a] not in own:
                        count += pairs.get(self._left[a]) == self._right[b]
        return count


def _aligned(sides: _Sides) -> dict[int, int]:
    """Layers and their modules, where names or order decide."""
    pairs = dict(sides.named)
    # How many layers are aligned counts first, then the words in common and the neighbours.
    worth = {
        (i, j): 100_000 * fit.score + sides.ours[i].likeness(sides.theirs[j]) for (i, j), fit in sides.fits.items()
    }
    # What stands for itself comes last.
    for considered in ({pair: value for pair, value in worth.items() if not sides.is_bare(*pair)}, worth):
        certain: dict[int, int] | None = None
        while certain is None or certain:
            taken = set(pairs.values())
            left = [i for i in range(len(sides.layers)) if i not in pairs]
            right = [j for j in range(len(sides.units)) if j not in taken]
            certain = _certain(left, right, considered)
            pairs |= certain
    return pairs


def _certain(left: Sequence[int], right: Sequence[int], worth: Mapping[tuple[int, int], int]) -> dict[int, int]:
    """The pairs that every best alignment of two sequences has, and those that have no alternative at all."""
    n, m = len(left), len(right)
    table = [[worth.get((i, j), 0) for j in right] for i in left]
    ending, before = _best(table, left, right)
    backward = [row[::-1] for row in table[::-1]]
    starting, after = _best(backward, [-i for i in reversed(left)], [-j for j in reversed(right)])
    best = before[n][m]
    possible = [
        [b for b in range(m) if table[a][b] and ending[a][b] + starting[n - 1 - a][m - 1 - b] - table[a][b] == best]
        for a in range(n)
    ]
    wanted = Counter(b for row in possible for b in row)
    fitting = Counter(b for row in table for b, value in enumerate(row) if value)
    found = {}
    for a, row in enumerate(possible):
        if len(row) != 1 or wanted[row[0]] != 1:
            continue
        left_out = any(before[a][b] + after[n - a - 1][m - b] == best for b in range(m + 1))
        alone = fitting[row[0]] == 1 and sum(map(bool, table[a])) == 1
        if alone or not left_out:
            found[left[a]] = right[row[0]]
    return found


def _best(
    table: Sequence[Sequence[int]], left: Sequence[int], right: Sequence[int]
) -> tuple[list[list[int]], list[list[int]]]:
    """The most that an alignment that keeps both orders is worth, where neighbours that stay neighbours count, too.

    Returns:
      By the last pair, and by the lengths of both beginnings.
    """
    n, m = len(left), len(right)
    ending = [[0] * m for _ in range(n)]
    best = [[0] * (m + 1) for _ in range(n + 1)]
    for a in range(n):
        for b in range(m):
            best[a + 1][b + 1] = max(best[a][b + 1], best[a + 1][b])
            if not table[a][b]:
                continue
            earlier = best[a][b]
            if a and b and table[a - 1][b - 1] and left[a] - left[a - 1] == right[b] - right[b - 1] == 1:
                earlier = max(earlier, ending[a - 1][b - 1] + 1)
            ending[a][b] = earlier + table[a][b]
            best[a + 1][b + 1] = max(best[a + 1][b + 1], ending[a][b])
    return ending, best


def _without_contradiction(pairs: Mapping[int, int], sides: _Sides) -> dict[int, int]:
    """The pairs for which names, order, neighbours and blocks agree."""
    fits, ours, theirs = sides.fits, sides.ours, sides.theirs
    together = _together(pairs, [layer.path for layer in sides.layers], [unit.path for unit in sides.units])
    doubtful: set[int] = set()
    items = sorted(pairs.items())
    for at, (i, j) in enumerate(items):
        for k, m in items[at + 1 :]:
            if (i, m) not in fits or (k, j) not in fits or (sides.named.get(i) == j and sides.named.get(k) == m):
                continue
            if fits[i, m].score + fits[k, j].score < fits[i, j].score + fits[k, m].score:
                continue
            neighbours = sides.neighbours(pairs, (i, j), (k, m)) - sides.neighbours(pairs, (i, m), (k, j))
            words = ours[i].likeness(theirs[j]) + ours[k].likeness(theirs[m])
            words -= ours[i].likeness(theirs[m]) + ours[k].likeness(theirs[j])
            # Numbers that count up on one side and down on the other are no less a contradiction.
            counts = _sign_of_numbers(ours[i], ours[k]) * _sign_of_numbers(theirs[j], theirs[m])
            blocks = together[i, j] + together[k, m] - together[i, m] - together[k, j]
            agrees = neighbours >= 0 if j < m else neighbours > 0
            if min(words, counts, blocks) < 0 or not agrees:
                doubtful |= {i, k}
    return {i: j for i, j in pairs.items() if i not in doubtful}


def _without_support(pairs: Mapping[int, int], sides: _Sides) -> dict[int, int]:
    """The pairs that more than their place in the order speaks for: their names, their shapes, or a neighbour.

    In sequences that are out of order altogether, an alignment means nothing.
    """
    ours, theirs = Counter(i for i, _ in sides.fits), Counter(j for _, j in sides.fits)
    certain = {i for i, j in pairs.items() if sides.named.get(i) == j or ours[i] == 1 or theirs[j] == 1}
    kept = dict(pairs)
    alone = [-1]
    while alone:
        alone = [
            i
            for i, j in kept.items()
            if i not in certain and not sides.is_bare(i, j) and not sides.neighbours(kept, (i, j))
        ]
        kept = {i: j for i, j in kept.items() if i not in alone}
    # Where that leaves less than half, neighbours are there by chance as well.
    others = set(ours) - certain
    return kept if 2 * len(others & set(kept)) >= len(others) else {i: j for i, j in kept.items() if i in certain}


def _together(pairs: Mapping[int, int], ours: Sequence[str], theirs: Sequence[str]) -> np.ndarray:
    """For every layer and module, how far its pairs share blocks with it on both sides at once."""
    shared = [_shared(paths) for paths in (ours, theirs)]
    return shared[0][:, list(pairs.keys())] @ shared[1][list(pairs.values())]


def _shared(paths: Sequence[str]) -> np.ndarray:
    """How many leading parts every two paths have in common."""
    parts = [path.split(".") for path in paths]
    equal = np.ones((len(paths), len(paths)), bool)
    found = np.zeros((len(paths), len(paths)), np.int64)
    for depth in range(max(map(len, parts), default=0)):
        level = np.array([part[depth] if depth < len(part) else f"\0{n}" for n, part in enumerate(parts)])
        equal &= level[:, None] == level[None, :]
        found += equal
    return found


def _named(ours: Sequence[_Name], theirs: Sequence[_Name]) -> dict[int, int]:
    """The layers and modules whose names say the same.

    A last number counts only if both sides number all of a block's layers alike: ``layers.2`` is the third here and
    the second there, where activations are counted, too.
    """
    count, other = Counter(name.tokens for name in ours), Counter(name.tokens for name in theirs)
    single = {tokens for tokens in count.keys() & other.keys() if tokens and count[tokens] == other[tokens] == 1}
    differing = {tokens[:-1] for tokens in count.keys() ^ other.keys()}
    places = {name.tokens: j for j, name in enumerate(theirs) if not name.numbered}
    return {
        i: places[name.tokens]
        for i, name in enumerate(ours)
        if name.tokens in single
        and name.tokens in places
        and not name.numbered
        and not (name.tokens[-1].isdigit() and name.tokens[:-1] in differing)
    }


def _sign_of_numbers(a: _Name, b: _Name) -> int:
    """Whether ``b`` counts on from ``a`` (1) or back (-1); 0 if they differ in more than numbers."""
    if a.skeleton() != b.skeleton() or a.numbers() == b.numbers():
        return 0
    return 1 if a.numbers() < b.numbers() else -1


# ---------------------------------------------------------------------------------------------------- layouts


def _chosen(fits: Sequence[_Fit]) -> tuple[dict[str, Entry], dict[str, list[str]]]:
    """Of several layouts that a shape leaves open, the one that the network has elsewhere, or that the name tells."""
    seen: dict[tuple[str, str], set[str]] = {}
    for fit in fits:
        for name, entries in fit.entries.items():
            if len(entries) == 1:
                seen.setdefault(fit.words[name], set()).add(_layout(entries[0]))
    chosen: dict[str, Entry] = {}
    ambiguous: dict[str, list[str]] = {}
    for fit in fits:
        for name, entries in fit.entries.items():
            usual = [entry for entry in entries if {_layout(entry)} == seen.get(fit.words[name])]
            if len(entries) > 1 and not usual and fit.words[name][0] == "weight" and fit.words[name][1] in _KEPT:
                usual = [entry for entry in entries if _layout(entry) == "Same"]  # as PyTorch calls it
            if len(entries) == 1 or len(usual) == 1:
                chosen[name] = (entries if len(entries) == 1 else usual)[0]
            else:
                ambiguous[name] = [repr(entry) for entry in entries]
    return chosen, ambiguous


_KEPT = {"linear", "conv", "attention", "recurrent", "three"}


def _layout(entry: Entry) -> str:
    """What an entry does, whatever array it names."""
    if isinstance(entry, Part):
        return _layout(entry.entry)
    if isinstance(entry, Concatenated):
        return _layout(_first(entry))
    return f"{type(entry).__name__}{'T' if getattr(entry, 'transpose_kernel', False) else ''}"


def _first(entry: Concatenated) -> Entry:
    first = entry.entries[0]
    return Same(first) if isinstance(first, str) else first
