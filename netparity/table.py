"""Matches the arrays of both sides, and turns one side's layout into the other's.

The common layout is JAX's. An entry says how one JAX array is made of PyTorch's: of one, turned (`Same`, `Reshaped`,
`ConvKernel`, `ConvTransposeKernel`, `DenseKernel`, `Transposed`), of a part of one (`Part`), or of several (`Stack`,
`Concatenated`, `Sum`). Entries lie within each other, and ``repr`` of one is the Python that makes it.
"""

from __future__ import annotations

import abc
import dataclasses
import itertools
import math
import operator
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

import numpy as np

from netparity.measure import Arrays, ParityError

Shape = tuple[int, ...]
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Piece:
    """The ``index``-th of ``parts`` equal slices, along axis 0, of PyTorch's array ``torch``."""

    torch: str
    index: int = 0
    parts: int = 1

    def shape(self, whole: Shape) -> Shape:
        """The slice's shape, of the whole array's."""
        return whole if self.parts == 1 else (whole[0] // self.parts, *whole[1:])

    def of(self, whole: np.ndarray) -> np.ndarray:
        """The slice, as a view."""
        if self.parts == 1:
            return whole
        rows = whole.shape[0] // self.parts
        return whole[self.index * rows : (self.index + 1) * rows]


class Entry(abc.ABC):
    """How one JAX array is made of PyTorch's: a linear map that can be undone."""

    def __repr__(self) -> str:
        """The Python that makes it, without what is the default."""
        given = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # every kind of entry is a dataclass
            value = getattr(self, field.name)
            if field.default is dataclasses.MISSING:
                given.append(repr(value))
            elif value != field.default:
                given.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(given)})"

    @abc.abstractmethod
    def pieces(self) -> tuple[Piece, ...]:
        """What it is made of."""

    @abc.abstractmethod
    def problem(self, shapes: Sequence[Shape]) -> str | None:
        """Why it cannot be made of pieces of these shapes; None if it can."""

    @abc.abstractmethod
    def size(self, shapes: Sequence[Shape]) -> int:
        """How many numbers pieces of these shapes give."""

    @abc.abstractmethod
    def make(self, pieces: Sequence[np.ndarray], shape: Shape, gradient: bool = False) -> np.ndarray:
        """The JAX array, of ``shape`` if the entry can give that; of the pieces' gradients its gradient."""

    @abc.abstractmethod
    def undo(self, array: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """The pieces, of these shapes, that give the JAX array."""


@dataclasses.dataclass(frozen=True)
class _Turn:
    """A PyTorch array is reshaped to ``split``, reversed along ``flipped``, transposed, and reshaped to ``joined``."""

    split: Shape
    axes: Shape
    flipped: Shape
    joined: Shape


@dataclasses.dataclass(frozen=True, repr=False)
class _Turned(Entry):
    """An entry of a single PyTorch array; each kind says how it is turned.

    Where the JAX array only splits axes of what comes out, or only joins neighbouring ones, it is reshaped to it.
    """

    torch: str

    @abc.abstractmethod
    def _turn(self, shape: Shape) -> _Turn:
        """How an array of this shape is turned."""

    def _fits(self, joined: Shape, shape: Shape) -> bool:
        return regroups(joined, shape)

    def pieces(self) -> tuple[Piece, ...]:
        return (Piece(self.torch),)

    def problem(self, shapes: Sequence[Shape]) -> str | None:
        return None

    def size(self, shapes: Sequence[Shape]) -> int:
        return math.prod(shapes[0])

    def make(self, pieces: Sequence[np.ndarray], shape: Shape, gradient: bool = False) -> np.ndarray:
        turn = self._turn(pieces[0].shape)
        array = np.flip(pieces[0].reshape(turn.split), turn.flipped).transpose(turn.axes)
        return array.reshape(shape if self._fits(turn.joined, shape) else turn.joined)

    def undo(self, array: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        turn = self._turn(shapes[0])
        array = array.reshape([turn.split[axis] for axis in turn.axes]).transpose(np.argsort(turn.axes))
        return [np.flip(array, turn.flipped).reshape(shapes[0])]


@dataclasses.dataclass(frozen=True, repr=False)
class Same(_Turned):
    """The same layout and shape on both sides: biases, scales, and every array of a network that keeps PyTorch's."""

    def _turn(self, shape: Shape) -> _Turn:
        return _Turn(shape, tuple(range(len(shape))), (), shape)

    def _fits(self, joined: Shape, shape: Shape) -> bool:
        return joined == shape


@dataclasses.dataclass(frozen=True, repr=False)
class Reshaped(Same):
    """The same numbers in the same order, in another shape: ``[c, 1, 1]`` and ``[c]``."""

    def _fits(self, joined: Shape, shape: Shape) -> bool:
        return math.prod(joined) == math.prod(shape)


@dataclasses.dataclass(frozen=True, repr=False)
class Transposed(_Turned):
    """Any other order of the axes.

    Attributes:
      torch: PyTorch's name.
      axes: PyTorch's axes in JAX's order.
      flipped: those of PyTorch's axes along which JAX's order is the reverse.
    """

    axes: tuple[int, ...]
    flipped: tuple[int, ...] = ()

    def problem(self, shapes: Sequence[Shape]) -> str | None:
        ndim = len(shapes[0])
        if sorted(self.axes) == list(range(ndim)) and set(self.flipped) <= set(self.axes):
            return None
        return f"PyTorch's {self.torch} has {list(shapes[0])}, whose axes {self!r} does not order"

    def _turn(self, shape: Shape) -> _Turn:
        return _Turn(shape, self.axes, self.flipped, tuple(shape[axis] for axis in self.axes))


@dataclasses.dataclass(frozen=True, repr=False)
class ConvKernel(_Turned):
    """A convolution's kernel: PyTorch's ``[out, in / groups, *window]`` is JAX's ``[*window, in / groups, out]``.

    The JAX array may join axes, such as the ``[in, out]`` of a dense layer for a window of 1x1.
    """

    def problem(self, shapes: Sequence[Shape]) -> str | None:
        return _too_few(self, shapes[0], 3)

    def _turn(self, shape: Shape) -> _Turn:
        axes = (*range(2, len(shape)), 1, 0)
        return _Turn(shape, axes, (), tuple(shape[axis] for axis in axes))


@dataclasses.dataclass(frozen=True, repr=False)
class ConvTransposeKernel(_Turned):
    """A transposed convolution's kernel: PyTorch's ``[in, out / groups, *window]``.

    It is Flax's ``[*window, in, out]`` with the window reversed; with ``transpose_kernel`` (as Flax calls it too) its
    ``[*window, out, in]``, not reversed.
    """

    transpose_kernel: bool = False

    def problem(self, shapes: Sequence[Shape]) -> str | None:
        return _too_few(self, shapes[0], 3)

    def _turn(self, shape: Shape) -> _Turn:
        window = tuple(range(2, len(shape)))
        axes = (*window, 1, 0) if self.transpose_kernel else (*window, 0, 1)
        flipped = () if self.transpose_kernel else window
        return _Turn(shape, axes, flipped, tuple(shape[axis] for axis in axes))


@dataclasses.dataclass(frozen=True, repr=False)
class DenseKernel(_Turned):
    """A dense layer's kernel: PyTorch's ``[out, in]`` is JAX's ``[in, out]``.

    The JAX array may split these axes, as attention does: ``[embed, heads, depth]``, ``[heads, depth, embed]``.

    Attributes:
      torch: PyTorch's name.
      flattened: ``(height, width, channels)`` of the feature map that is flattened into the layer's input; None if
        there is none. PyTorch flattens it channel by channel, JAX row by row.
    """

    flattened: tuple[int, int, int] | None = None

    def problem(self, shapes: Sequence[Shape]) -> str | None:
        shape = shapes[0]
        if len(shape) != 2:
            return f"DenseKernel takes 2 axes, PyTorch's {self.torch} has {list(shape)}"
        if self.flattened is not None and math.prod(self.flattened) != shape[1]:
            return f"{self.torch} has {shape[1]} inputs, which is not a flattened {list(self.flattened)}"
        return None

    def _turn(self, shape: Shape) -> _Turn:
        joined = (shape[1], shape[0])
        if self.flattened is None:
            return _Turn(shape, (1, 0), (), joined)
        h, w, c = self.flattened
        return _Turn((shape[0], c, h, w), (2, 3, 1, 0), (), joined)


@dataclasses.dataclass(frozen=True, repr=False)
class Part(Entry):
    """What ``entry`` makes of the ``index``-th of ``parts`` equal slices along axis 0 of its PyTorch arrays.

    PyTorch's attention packs query, key and value (3), its LSTM the gates i, f, g, o (4), its GRU r, z, n (3). Every
    slice must be named once.
    """

    entry: Entry
    index: int
    parts: int

    def pieces(self) -> tuple[Piece, ...]:
        return tuple(
            Piece(piece.torch, self.index * piece.parts + piece.index, self.parts * piece.parts)
            for piece in self.entry.pieces()
        )

    def problem(self, shapes: Sequence[Shape]) -> str | None:
        if not 0 <= self.index < self.parts:
            return f"there is no part {self.index} of {self.parts}"
        return self.entry.problem(shapes)

    def size(self, shapes: Sequence[Shape]) -> int:
        return self.entry.size(shapes)

    def make(self, pieces: Sequence[np.ndarray], shape: Shape, gradient: bool = False) -> np.ndarray:
        return self.entry.make(pieces, shape, gradient)

    def undo(self, array: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        return self.entry.undo(array, shapes)


@dataclasses.dataclass(frozen=True, repr=False)
class _Several(Entry):
    """An entry of several; a name stands for `Same`."""

    entries: tuple[Entry | str, ...]

    def pieces(self) -> tuple[Piece, ...]:
        return tuple(itertools.chain.from_iterable(entry.pieces() for entry in self._entries()))

    def problem(self, shapes: Sequence[Shape]) -> str | None:
        if not self.entries:
            return f"{type(self).__name__} of nothing"
        return next((p for entry, own in self._split(shapes) if (p := entry.problem(own))), None)

    def size(self, shapes: Sequence[Shape]) -> int:
        return sum(entry.size(own) for entry, own in self._split(shapes))

    def _entries(self) -> list[Entry]:
        return [Same(entry) if isinstance(entry, str) else entry for entry in self.entries]

    def _split(self, pieces: Sequence[_T]) -> list[tuple[Entry, Sequence[_T]]]:
        """Each entry with its own of all the pieces."""
        ends = list(itertools.accumulate(len(entry.pieces()) for entry in self._entries()))
        return [
            (entry, pieces[start:end]) for entry, start, end in zip(self._entries(), [0, *ends], ends, strict=False)
        ]


@dataclasses.dataclass(frozen=True, repr=False)
class Stack(_Several):
    """Several arrays of one shape, stacked along JAX's leading axis: layers that JAX scans over."""

    def make(self, pieces: Sequence[np.ndarray], shape: Shape, gradient: bool = False) -> np.ndarray:
        return np.stack([entry.make(own, shape[1:], gradient) for entry, own in self._split(pieces)])

    def undo(self, array: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        made = zip(self._split(shapes), array, strict=True)
        return [piece for (entry, own), part in made for piece in entry.undo(part, own)]


@dataclasses.dataclass(frozen=True, repr=False)
class Concatenated(_Several):
    """Several arrays, one after the other along JAX's axis ``axis``: query, key and value in one kernel."""

    axis: int

    def make(self, pieces: Sequence[np.ndarray], shape: Shape, gradient: bool = False) -> np.ndarray:
        wanted = self._shapes(shape, [piece.shape for piece in pieces])
        made = zip(self._split(pieces), wanted, strict=True)
        return np.concatenate([entry.make(own, part, gradient) for (entry, own), part in made], self.axis)

    def undo(self, array: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        lengths = [part[self.axis] for part in self._shapes(array.shape, shapes)]
        parts = np.split(array, np.cumsum(lengths)[:-1], self.axis)
        made = zip(self._split(shapes), parts, strict=True)
        return [piece for (entry, own), part in made for piece in entry.undo(part, own)]

    def _shapes(self, shape: Shape, shapes: Sequence[Shape]) -> list[Shape]:
        """What each entry gives for a whole of ``shape``: as long along the axis as it has numbers."""
        if not -len(shape) <= self.axis < len(shape):
            return [()] * len(self.entries)  # no entry gives that: `make` fails, or its result is misshapen
        axis = self.axis % len(shape)
        others = math.prod(shape[:axis] + shape[axis + 1 :]) or 1
        return [(*shape[:axis], entry.size(own) // others, *shape[axis + 1 :]) for entry, own in self._split(shapes)]


@dataclasses.dataclass(frozen=True, repr=False)
class Sum(_Several):
    """One JAX array for several of PyTorch's that are only ever added: the two biases of an LSTM.

    PyTorch's get equal shares, so that none of them could be left out unnoticed; the gradient is the mean of theirs.
    """

    def size(self, shapes: Sequence[Shape]) -> int:
        entry, own = self._split(shapes)[0]
        return entry.size(own)

    def make(self, pieces: Sequence[np.ndarray], shape: Shape, gradient: bool = False) -> np.ndarray:
        made = [entry.make(own, shape, gradient) for entry, own in self._split(pieces)]
        if any(part.shape != made[0].shape for part in made):
            raise ValueError("all the input arrays must have same shape")
        whole = sum(made[1:], start=made[0])
        return whole / len(made) if gradient else whole

    def undo(self, array: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        parts = self._split(shapes)
        share = (array / len(parts)).astype(array.dtype)
        return [piece for entry, own in parts for piece in entry.undo(share, own)]


class NameTable:
    """The arrays of both sides, matched.

    Args:
      entries: by JAX name (``"conv1.kernel"``, the path in the parameters joined by dots).
      jax_shapes: the JAX arrays' shapes, by that name.
      torch_shapes: the PyTorch arrays' shapes, by PyTorch's name.
      optional: PyTorch's names that need no entry (``"bn1.num_batches_tracked"``).

    Raises:
      ParityError: listing every entry that is missing, superfluous or misshapen.
    """

    def __init__(
        self,
        entries: Mapping[str, Entry],
        jax_shapes: Mapping[str, Shape],
        torch_shapes: Mapping[str, Shape],
        optional: Collection[str] = (),
    ):
        self._entries = dict(entries)
        self._jax = {name: tuple(shape) for name, shape in jax_shapes.items()}
        self._torch = {name: tuple(shape) for name, shape in torch_shapes.items()}
        self._optional = frozenset(optional)
        problems = [f"{name}: a JAX parameter without an entry" for name in self._jax if name not in entries]
        problems += self._uncovered()
        for name, entry in self._entries.items():
            problems += [f"{name}: {problem}" for problem in self._problems(name, entry)]
        if problems:
            raise ParityError("the name table does not fit: " + "; ".join(problems))

    def to_common(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """Arrays by PyTorch's names to JAX's names and layouts.

        Args:
          arrays: all, or some of them: an entry of which none is there is left out.

        Raises:
          ParityError: if an array is unknown, or if an entry's are there only in part.
        """
        return self._made(arrays, gradient=False)

    def pull_back(self, gradients: Mapping[str, np.ndarray]) -> Arrays:
        """Gradients by PyTorch's names to the gradients of the JAX arrays that `from_common` makes PyTorch's of.

        Args and errors as of `to_common`.
        """
        return self._made(gradients, gradient=True)

    def from_common(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """Arrays by JAX's names to PyTorch's names and layouts; `to_common` gives them back.

        Args:
          arrays: all, or some of them: a PyTorch array of which nothing is there is left out.

        Raises:
          ParityError: if an array is unknown, or if there is only a part of what a PyTorch array is made of.
        """
        self._require_known(arrays, self._entries)
        made: Arrays = {}
        parts: Counter[str] = Counter()
        for name, entry in self._entries.items():
            if name not in arrays:
                continue
            pieces = entry.pieces()
            values = entry.undo(np.asarray(arrays[name]), [piece.shape(self._torch[piece.torch]) for piece in pieces])
            for piece, value in zip(pieces, values, strict=True):
                if piece.parts == 1:
                    made[piece.torch] = np.asarray(value, order="C")
                    continue
                whole = made.setdefault(piece.torch, np.empty(self._torch[piece.torch], value.dtype))
                piece.of(whole)[...] = value
                parts[piece.torch] += value.size
        short = [name for name, size in parts.items() if size != math.prod(self._torch[name])]
        if short:
            raise ParityError(f"only a part is given of {', '.join(short)}")
        return made

    def knows(self, name: str) -> bool:
        """Whether an entry names this PyTorch array."""
        return any(piece.torch == name for entry in self._entries.values() for piece in entry.pieces())

    def _made(self, arrays: Mapping[str, np.ndarray], gradient: bool) -> Arrays:
        self._require_known(arrays, {*self._torch, *self._optional})
        made: Arrays = {}
        for name, entry in self._entries.items():
            pieces = entry.pieces()
            missing = [piece.torch for piece in pieces if piece.torch not in arrays]
            if len(missing) == len(pieces):
                continue
            if missing:
                raise ParityError(f"{name}: without {', '.join(missing)} there is only a part of it")
            values = [piece.of(np.asarray(arrays[piece.torch])) for piece in pieces]
            made[name] = np.asarray(entry.make(values, self._jax[name], gradient), order="C")
        return made

    def _require_known(self, arrays: Mapping[str, np.ndarray], known: Collection[str]) -> None:
        unknown = [name for name in arrays if name not in known]
        if unknown:
            raise ParityError(f"the name table does not know {', '.join(unknown)}")

    def _uncovered(self) -> list[str]:
        """What of PyTorch's arrays is named by no entry, or by several."""
        named: dict[str, list[Piece]] = {}
        for entry in self._entries.values():
            for piece in entry.pieces():
                named.setdefault(piece.torch, []).append(piece)
        missing, several = [], []
        for name in self._torch:
            pieces = named.get(name, [])
            # Counted in slices so thin that every part is a whole number of them.
            parts = math.lcm(*(piece.parts for piece in pieces))
            counts = [0] * parts
            for piece in pieces:
                for index in range(parts // piece.parts * piece.index, parts // piece.parts * (piece.index + 1)):
                    if 0 <= index < parts:  # what is not there is told elsewhere
                        counts[index] += 1
            if not pieces:
                missing += [f"{name}: a PyTorch parameter without an entry"] if name not in self._optional else []
            elif len(set(counts)) == 1:
                several += [f"{name}: named by {counts[0]} entries"] if counts[0] > 1 else []
            else:
                missing += [f"{name}: part {i} of {parts} has no entry" for i, n in enumerate(counts) if n == 0]
                several += [f"{name}: part {i} of {parts}: named by {n} entries" for i, n in enumerate(counts) if n > 1]
        return missing + several

    def _problems(self, name: str, entry: Entry) -> list[str]:
        """Why an entry does not fit."""
        pieces = entry.pieces()
        absent = [piece.torch for piece in pieces if piece.torch not in self._torch]
        problems = [] if name in self._jax else ["no such JAX parameter"]
        problems += [f"no such PyTorch parameter {torch}" for torch in dict.fromkeys(absent)]
        if problems:
            return problems
        for piece in pieces:
            whole = self._torch[piece.torch]
            if piece.parts > 1 and (not whole or whole[0] % piece.parts):
                return [f"PyTorch's {piece.torch} has {list(whole)}, which is not {piece.parts} equal parts"]
        shapes = [piece.shape(self._torch[piece.torch]) for piece in pieces]
        problem = entry.problem(shapes)
        if problem is not None:
            return [problem]
        names = " and ".join(dict.fromkeys(piece.torch for piece in pieces))
        wanted = self._jax[name]
        try:
            made = entry.make([np.broadcast_to(np.int8(0), shape) for shape in shapes], wanted).shape
        except ValueError:  # several that do not go together
            return [f"JAX has {list(wanted)}, PyTorch's {names} have {', '.join(str(list(s)) for s in shapes)}"]
        if made != wanted:
            return [f"JAX has {list(wanted)}, PyTorch's {names} gives {list(made)}"]
        return []


def regroups(shape: Shape, other: Shape) -> bool:
    """Whether one shape only splits axes of the other, or leaves out or adds axes of 1, so that no axis is mixed up.

    >>> regroups((12, 8), (3, 4, 8)), regroups((1, 1, 12, 8), (12, 8)), regroups((12, 8), (8, 12))
    (True, True, False)
    """
    bounds, others = (set(itertools.accumulate(s, operator.mul)) - {1} for s in (shape, other))
    return math.prod(shape) == math.prod(other) and (bounds <= others or others <= bounds)


def _too_few(entry: _Turned, shape: Shape, least: int) -> str | None:
    if len(shape) >= least:
        return None
    return f"{type(entry).__name__} takes at least {least} axes, PyTorch's {entry.torch} has {list(shape)}"
