"""The graph of stages as inline SVG: who feeds whom, top-down, and what was found of each."""

from __future__ import annotations

import html
import itertools
from collections.abc import Mapping, Sequence

from netparity.report.graph_layout import Layout, Place, placed

# By verdict (see `netparity.results.Result.verdicts`): the mark before the name, and what it means.
VERDICTS = {
    "passed": ("✓", "agrees"),
    "failed": ("✗", "differs, fed the same"),
    "inherited": ("≈", "agrees by itself, is fed what differs"),
    "not reached": ("…", "not compared"),
}
_HIGH, _PAD, _LETTER = 22.0, 8.0, 6.65  # of a box; a letter of the monospaced font at 11 pixels
_NEAR, _FAR = 9.0, 24.0  # between layers: all lines straight, or not
_BENT = 0.5  # how far a line may lean and still count as straight
_FLAG = "first difference"


def graph_chart(
    parents: Mapping[str, Sequence[str]],
    others: Mapping[str, Sequence[str]],
    verdicts: Mapping[str, str],
    first: str | None,
    title: str,
    anchor: str = "",
) -> str:
    """The graph.

    Args:
      parents: by stage, what JAX computes it from; what is no stage itself is an input.
      others: by stage, what PyTorch computes it from, where that is something else.
      verdicts: by stage; what has none is an input.
      first: the stage that differs first.
      title: for readers that cannot see it.
      anchor: the name by which a link leads to that stage, if it shall have one.
    """
    whole = _union(parents, others)
    names = list(dict.fromkeys([*itertools.chain(*whole.values()), *whole]))
    labels = {name: _label(name, verdicts.get(name), name == first) for name in names}
    widths = {name: len(label) * _LETTER + 2 * _PAD for name, label in labels.items()}
    found = placed(whole, widths)
    tops = _tops(found)
    level = {name: i for i, row in enumerate(found.layers) for name in row}
    parts = _lines(found, tops, level, _single(parents, others))
    for name in names:
        x, y = found.x[name, level[name]] + 1, tops[level[name]]
        own = f' id="{html.escape(anchor)}"' if anchor and name == first else ""
        parts.append(_box(labels[name], x, y, widths[name], verdicts.get(name, "input"), name == first, own))
    width, height = found.width + 2, (tops[-1] if tops else 0) + _HIGH + 2
    return (
        f'<svg class="graph" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" '
        f'role="img" aria-label="{html.escape(title)}">{"".join(parts)}</svg>'
    )


def edge_keys(parents: Mapping[str, Sequence[str]], others: Mapping[str, Sequence[str]]) -> list[str]:
    """The keys of the lines that only one side has."""
    kinds = set(_single(parents, others).values())
    return [
        f'<span><svg class="key graph" viewBox="0 0 26 14" width="26" height="14" aria-hidden="true">'
        f'<path class="edge {kind}" d="M0 7H26"/></svg> {label}</span>'
        for kind, label in (("only-jax", "in JAX alone, as far as gradients go"), ("only-torch", "in PyTorch alone"))
        if kind in kinds
    ]


def neighbourhood(
    parents: Mapping[str, Sequence[str]], stage: str, others: Sequence[str] = (), above: int = 3
) -> dict[str, tuple[str, ...]]:
    """The part of a graph around a stage: what it is computed from, a few steps up, and what it feeds.

    Args:
      parents: by stage, what it is computed from.
      stage: the stage.
      others: what else is to be shown.
      above: how many steps.

    >>> neighbourhood({"a": ["input"], "b": ["a"], "c": ["b"], "d": ["c"], "e": ["d", "a"]}, "c", above=1)
    {'b': (), 'c': ('b',), 'd': ('c',)}
    """
    kept, edge = {stage, *others}, {stage}
    for _ in range(above):
        edge = {source for name in edge for source in parents.get(name, ())}
        kept |= edge
    kept |= {name for name, sources in parents.items() if stage in sources}
    return {name: tuple(one for one in sources if one in kept) for name, sources in parents.items() if name in kept}


def _union(parents: Mapping[str, Sequence[str]], others: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The edges of both sides, less those of PyTorch's that would close a circle."""
    whole = {name: list(sources) for name, sources in parents.items()}
    for name, sources in others.items():
        for source in sources:
            if name in whole and source not in whole[name] and name not in _ancestors(whole, source):
                whole[name].append(source)
    return whole


def _ancestors(parents: Mapping[str, Sequence[str]], name: str) -> set[str]:
    """A stage and all that it is computed from."""
    found, edge = {name}, [name]
    while edge:
        new = [source for source in parents.get(edge.pop(), ()) if source not in found]
        found.update(new)
        edge += new
    return found


def _single(parents: Mapping[str, Sequence[str]], others: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], str]:
    """The edges that only one side has, from and to, by their class in the style sheet."""
    found: dict[tuple[str, str], str] = {}
    for name, sources in others.items():
        ours = parents.get(name, ())
        found |= {(source, name): "only-torch" for source in sources if source not in ours}
        found |= {(source, name): "only-jax" for source in ours if source not in sources}
    return found


def _label(name: str, verdict: str | None, first: bool) -> str:
    mark = f"{VERDICTS[verdict][0]} " if verdict else ""
    return f"{mark}{name}{f' — {_FLAG}' if first else ''}"


def _tops(found: Layout) -> list[float]:
    """The upper edge of every layer: close to the one above where all lines between them are straight."""
    bent = {
        lower[1]
        for line in found.lines
        for upper, lower in itertools.pairwise(line)
        if abs(found.x[upper] - found.x[lower]) > _BENT
    }
    tops = [1.0]
    for level in range(1, len(found.layers)):
        tops.append(tops[-1] + _HIGH + (_FAR if level in bent else _NEAR))
    return tops[: len(found.layers)]


def _lines(
    found: Layout, tops: Sequence[float], level: Mapping[str, int], single: Mapping[tuple[str, str], str]
) -> list[str]:
    """The lines from each stage, through waypoints, to all that it feeds: what they share is drawn once."""
    segments: dict[tuple[str, str], dict[tuple[Place, Place], None]] = {}
    for line in found.lines:
        source, target = line[0][0], line[-1][0]
        kind = single.get((source, target), "")
        segments.setdefault((source, kind), {}).update(dict.fromkeys(itertools.pairwise(line)))
    paths = []
    for (_, kind), own in segments.items():
        path = ""
        for upper, lower in own:
            x, y = found.x[upper] + 1, tops[upper[1]] + _HIGH
            to, top = found.x[lower] + 1, tops[lower[1]]
            half, end = (y + top) / 2, top if level[lower[0]] == lower[1] else top + _HIGH
            bend = f"C{x:.1f} {half:.1f} {to:.1f} {half:.1f} {to:.1f} {top:.1f}" if abs(to - x) > _BENT else ""
            path += f"M{x:.1f} {y:.1f}{bend}" + (f"V{end:.1f}" if end > top or not bend else "")
        paths.append(f'<path class="{f"edge {kind}".strip()}" d="{path}"/>')
    return paths


def style(verdict: str) -> str:
    """A verdict's class in the style sheet."""
    return verdict.replace(" ", "-")


def _box(label: str, x: float, y: float, width: float, verdict: str, first: bool, own: str) -> str:
    corner = 11 if verdict == "input" else 0 if verdict == "failed" else 5
    meaning = VERDICTS[verdict][1] if verdict in VERDICTS else "an input"
    kind = f"stage {style(verdict)}{' first' if first else ''}"
    return (
        f'<g{own} class="{kind}"><title>{html.escape(label)}: {meaning}</title>'
        f'<rect x="{x - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_HIGH:g}" rx="{corner}"/>'
        f'<text x="{x - width / 2 + _PAD:.1f}" y="{y + 15:.1f}">{html.escape(label)}</text></g>'
    )
