"""Places a graph top-down in layers: every stage below all that it is computed from, with few and straight lines.

Source: K. Sugiyama, S. Tagawa, M. Toda, "Methods for Visual Understanding of Hierarchical System Structures", IEEE
Transactions on Systems, Man, and Cybernetics 11(2), 1981: layers, waypoints where a line passes a layer, and an order
within each layer that follows the neighbours'.
"""

from __future__ import annotations

import bisect
import dataclasses
import graphlib
import itertools
import math
import statistics
from collections.abc import Collection, Mapping, Sequence

_SWEEPS = 8
_GAP = 12.0  # between neighbours in a layer
_WAY = 6.0  # the width of a waypoint
_FIXED = 1e6  # how much the trunk resists to be moved
# How much a line resists to bend, by how many of its two ends are waypoints: the main path and what runs beside it stay
# straight, and lines bend where they leave a stage.
_STRAIGHT = (1.0, 0.05, 6.0)

# A stage in its layer, or where the lines from it pass a layer.
Place = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where everything lies.

    Attributes:
      layers: names from top to bottom and from left to right.
      x: the middle of every stage, and of every waypoint, by name and layer.
      lines: from a stage to each that it feeds: the places that the line passes, both ends included.
      width: of all.
    """

    layers: tuple[tuple[str, ...], ...]
    x: dict[Place, float]
    lines: tuple[tuple[Place, ...], ...]
    width: float


def placed(parents: Mapping[str, Sequence[str]], widths: Mapping[str, float]) -> Layout:
    """Places a graph.

    All lines from one stage that pass a layer pass it at the same place.

    Args:
      parents: by stage, what it is computed from; without circles. What is no stage itself is an input.
      widths: of every stage and input.

    >>> skip = {"conv": ["input"], "bn": ["conv"], "sum": ["bn", "input"]}
    >>> placed(skip, dict.fromkeys(["input", "conv", "bn", "sum"], 40.0)).layers
    (('input',), ('conv',), ('bn',), ('sum',))
    """
    depth = _depths(parents)
    lines = [
        (*((source, level) for level in range(depth[source], depth[name])), (name, depth[name]))
        for name, sources in parents.items()
        for source in sources
    ]
    edges = {edge for line in lines for edge in itertools.pairwise(line)}
    rows: list[list[Place]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name, level in depth.items():
        rows[level].append((name, level))
    # Lines that skip layers begin at the right, beside the main path.
    for place in dict.fromkeys(place for line in lines for place in line[1:-1]):
        rows[place[1]].append(place)
    above: dict[Place, list[Place]] = {place: [] for row in rows for place in row}
    below: dict[Place, list[Place]] = {place: [] for row in rows for place in row}
    for upper, lower in sorted(edges):
        above[lower].append(upper)
        below[upper].append(lower)
    rows = _ordered(rows, above, below)
    size = {place: widths[place[0]] if depth[place[0]] == place[1] else _WAY for row in rows for place in row}
    x = _aligned(rows, above, below, size, _trunk(parents, depth))
    left = min((x[place] - size[place] / 2 for place in x), default=0.0)
    right = max((x[place] + size[place] / 2 for place in x), default=0.0)
    return Layout(
        tuple(tuple(name for name, level in row if depth[name] == level) for row in rows),
        {place: value - left for place, value in x.items()},
        tuple(lines),
        right - left,
    )


def _depths(parents: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The layer of every stage and input: below all that feed it; an input as low as it may be."""
    depth: dict[str, int] = {}
    for name in graphlib.TopologicalSorter(parents).static_order():
        depth[name] = 1 + max((depth[source] for source in parents.get(name, ())), default=-1)
    children: dict[str, list[str]] = {}
    for name, sources in parents.items():
        for source in sources:
            children.setdefault(source, []).append(name)
    for name, below in children.items():
        if not parents.get(name):
            depth[name] = min(depth[child] for child in below) - 1
    order = {name: i for i, name in enumerate(parents)}
    return dict(sorted(depth.items(), key=lambda item: (item[1], order.get(item[0], -1))))


Neighbours = Mapping[Place, Sequence[Place]]


def _ordered(rows: list[list[Place]], above: Neighbours, below: Neighbours) -> list[list[Place]]:
    """The rows in the order with the fewest crossings that a few sweeps down and up find."""
    best, fewest = rows, _crossings(rows, below)
    for sweep in range(_SWEEPS):
        if fewest == 0:
            break
        down = sweep % 2 == 0
        known = above if down else below
        rows = [list(row) for row in rows]
        sequence = range(1, len(rows)) if down else range(len(rows) - 2, -1, -1)
        for level in sequence:
            near = {place: i for i, place in enumerate(rows[level - 1 if down else level + 1])}
            own = {place: i for i, place in enumerate(rows[level])}
            wish = {place: statistics.fmean([near[o] for o in known[place]] or [own[place]]) for place in own}
            rows[level].sort(key=lambda place: (wish[place], own[place]))
        count = _crossings(rows, below)
        if count < fewest:
            best, fewest = rows, count
    return best


def _crossings(rows: Sequence[Sequence[Place]], below: Neighbours) -> int:
    """How many pairs of lines cross."""
    total = 0
    for upper, lower in itertools.pairwise(rows):
        where = {place: i for i, place in enumerate(lower)}
        seen: list[int] = []
        for place in upper:
            ends = sorted(where[other] for other in below[place])
            total += sum(len(seen) - bisect.bisect_right(seen, end) for end in ends)
            for end in ends:
                bisect.insort(seen, end)
    return total


def _trunk(parents: Mapping[str, Sequence[str]], depth: Mapping[str, int]) -> set[Place]:
    """A longest path, from the last layer up."""
    name = max(depth, key=lambda one: depth[one], default=None)
    found: set[Place] = set()
    while name is not None:
        found.add((name, depth[name]))
        name = next((one for one in parents.get(name, ()) if depth[one] == depth[name] - 1), None)
    return found


def _aligned(
    rows: Sequence[Sequence[Place]],
    above: Neighbours,
    below: Neighbours,
    size: Mapping[Place, float],
    trunk: Collection[Place],
) -> dict[Place, float]:
    """The middle of everything: the trunk at zero, the rest as near to its neighbours' middle as there is room."""
    x = dict.fromkeys((place for row in rows for place in row), 0.0)
    for sweep in range(2 * _SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wishes = []
            for place in row:
                pulls = [(x[other], _pull(place, other, size)) for other in (*above[place], *below[place])]
                weight = sum(pull for _, pull in pulls)
                wish = sum(at * pull for at, pull in pulls) / weight if pulls else x[place]
                wishes.append((0.0, _FIXED) if place in trunk else (wish, weight or 1.0))
            x |= dict(zip(row, _spread(wishes, [size[place] for place in row]), strict=True))
    _straighten(rows, above, below, size, x, trunk)
    return x


def _straighten(
    rows: Sequence[Sequence[Place]],
    above: Neighbours,
    below: Neighbours,
    size: Mapping[Place, float],
    x: dict[Place, float],
    trunk: Collection[Place],
) -> None:
    """Moves every line through waypoints, and every chain of stages, to one position where there is room for it."""
    chains: list[list[Place]] = []
    of: dict[Place, list[Place]] = {}
    for place in itertools.chain(*rows):
        before = [one for one in above[place] if _continues(one, place, above, below, size)]
        if not before:
            chains.append([])
        of[place] = of[before[0]] if before else chains[-1]
        of[place].append(place)
    beside: dict[Place, tuple[Place | None, Place | None]] = {}
    for row in rows:
        for i, place in enumerate(row):
            beside[place] = (row[i - 1] if i else None, row[i + 1] if i + 1 < len(row) else None)
    for _ in range(2):
        for chain in chains:
            if any(place in trunk for place in chain):
                continue
            low, high = -math.inf, math.inf
            for place in chain:
                left, right = beside[place]
                if left is not None:
                    low = max(low, x[left] + (size[left] + size[place]) / 2 + _GAP)
                if right is not None:
                    high = min(high, x[right] - (size[right] + size[place]) / 2 - _GAP)
            if low <= high:
                wish = statistics.fmean(x[place] for place in chain)
                x |= dict.fromkeys(chain, min(max(wish, low), high))


def _continues(upper: Place, lower: Place, above: Neighbours, below: Neighbours, size: Mapping[Place, float]) -> bool:
    """Whether a place is the only one below another, or the next waypoint of the same line."""
    return _waypoints(upper, lower, size) == 2 or (list(below[upper]) == [lower] and list(above[lower]) == [upper])


def _pull(place: Place, other: Place, size: Mapping[Place, float]) -> float:
    return _STRAIGHT[_waypoints(place, other, size)]


def _waypoints(place: Place, other: Place, size: Mapping[Place, float]) -> int:
    """How many ends of a line are waypoints."""
    return (size[place] == _WAY) + (size[other] == _WAY)


def _spread(wishes: Sequence[tuple[float, float]], sizes: Sequence[float]) -> list[float]:
    """The positions nearest to the wishes, by weighted least squares, at which nothing overlaps.

    Neighbours that want to overlap are pooled (isotonic regression).

    >>> _spread([(0.0, 1.0), (0.0, 1.0)], [8.0, 8.0])
    [-10.0, 10.0]
    """
    offsets = [0.0]
    for one, other in itertools.pairwise(sizes):
        offsets.append(offsets[-1] + (one + other) / 2 + _GAP)
    pools: list[tuple[float, float, int]] = []  # mean, weight, count
    for (wish, weight), offset in zip(wishes, offsets, strict=True):
        pools.append((wish - offset, weight, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, heavy, count = pools.pop()
            before, light, more = pools.pop()
            pools.append(((mean * heavy + before * light) / (heavy + light), heavy + light, count + more))
    means = [mean for mean, _, count in pools for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]
