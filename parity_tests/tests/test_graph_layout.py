"""Where the report's graph places its stages."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from netparity.report.graph_layout import placed


def _random_graph(seed: int, count: int) -> dict[str, list[str]]:
    """A chain with skipped stages and side branches, and an input that several stages use."""
    rng = np.random.default_rng(seed)
    parents: dict[str, list[str]] = {"s0": ["input"]}
    for i in range(1, count):
        others = [f"s{j}" for j in rng.integers(max(0, i - 9), i, rng.integers(0, 3))]
        extra = ["mask"] if i % 7 == 0 else []
        parents[f"s{i}"] = list(dict.fromkeys([f"s{i - 1 - (i % 5 == 0)}", *others, *extra]))
    return parents


@pytest.mark.parametrize(("seed", "count"), [(0, 3), (1, 40), (2, 150)])
def test_every_stage_is_below_all_that_feed_it_and_nothing_overlaps(seed, count):
    parents = _random_graph(seed, count)
    names = ["input", "mask", *parents]
    widths = {name: 30.0 + 17 * (i % 6) for i, name in enumerate(names)}
    found = placed(parents, widths)
    level = {name: i for i, row in enumerate(found.layers) for name in row}
    for name, sources in parents.items():
        assert all(level[source] < level[name] for source in sources)
    assert len(found.lines) == sum(map(len, parents.values()))
    for line in found.lines:
        assert [at for _, at in line] == list(range(line[0][1], line[-1][1] + 1))  # it passes every layer between
        assert line[0][0] in parents[line[-1][0]]
    by_level: dict[int, list[tuple[float, float]]] = {}
    for (name, at), x in found.x.items():
        half = widths[name] / 2 if level[name] == at else 3.0
        by_level.setdefault(at, []).append((x - half, x + half))
        assert x - half >= -1e-6
        assert x + half <= found.width + 1e-6
    for spans in by_level.values():
        for (_, end), (start, _) in itertools.pairwise(sorted(spans)):
            assert start - end > 11.9


def test_a_chain_is_a_straight_line_and_residuals_run_beside_it():
    parents = {f"s{i}": [f"s{i - 1}"] if i else ["input"] for i in range(12)}
    for end in (3, 6, 9):
        parents[f"s{end}"].append(f"s{end - 3}")
    found = placed(parents, dict.fromkeys(["input", *parents], 50.0))
    middle = {round(x, 3) for (name, at), x in found.x.items() if name in found.layers[at]}
    assert len(middle) == 1
    skips = [line for line in found.lines if len(line) > 2]
    assert len(skips) == 3
    for line in skips:
        assert len({round(found.x[place], 3) for place in line[1:-1]}) == 1  # straight, too


def test_what_needs_no_input_stands_just_above_what_it_feeds():
    parents = {"a": ["input"], "b": ["a"], "position": [], "c": ["b", "position"]}
    assert placed(parents, dict.fromkeys(["input", *parents], 50.0)).layers == (
        ("input",),
        ("a",),
        ("b", "position"),
        ("c",),
    )


def test_two_branches_do_not_cross():
    parents = {"a": ["input"], "b": ["input"], "a2": ["a"], "b2": ["b"], "c": ["b2", "a2"]}
    found = placed(parents, dict.fromkeys(["input", *parents], 50.0))
    assert (found.x["a", 1] < found.x["b", 1]) == (found.x["a2", 2] < found.x["b2", 2])


def test_nothing_is_placed_nowhere():
    assert placed({}, {}).layers == ()
