"""What the names of weights tell across frameworks: their kind, and which of two sets of names belong together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

_KINDS = {
    **dict.fromkeys(("kernel", "weight", "w", "scale", "gamma", "embedding"), "weight"),
    **dict.fromkeys(("bias", "b", "beta"), "bias"),
    **dict.fromkeys(("mean", "running_mean", "moving_mean"), "mean"),
    **dict.fromkeys(("var", "running_var", "moving_var", "variance", "moving_variance"), "variance"),
}
_NOISE = ("params", "batch_stats", "state_dict", "model", "module")  # what stands around a network's own names
_SYNONYMS = {"linear": "dense", "fc": "dense", "bn": "norm", "layernorm": "norm", "batchnorm": "norm"}


def kind(name: str) -> str:
    """``weight``, ``bias``, ``mean`` or ``variance``, if the last part of a name says so, else that part.

    >>> kind("Conv_0.kernel"), kind("params/bn1/scale"), kind("layer.in_proj_weight[0/3]")
    ('weight', 'weight', 'weight')
    """
    last = re.split(r"[./]", re.sub(r"\[.*", "", name))[-1].lower()
    return _KINDS.get(last) or _KINDS.get(last.rpartition("_")[2], last)


def _words(name: str) -> Counter[str]:
    tokens = re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", re.sub(r"\[.*", "", name))
    words = (_SYNONYMS.get(token.lower(), token.lower()) for token in tokens)
    return Counter(word for word in words if word not in _NOISE and word not in _KINDS)


def likeliest(names: Iterable[str], others: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of names: those that share most words first, then in order."""
    names, others = list(names), list(others)
    words = {name: _words(name) for name in (*names, *others)}
    rated = sorted(
        (-(words[name] & words[other]).total(), abs(i - j), i, j)
        for i, name in enumerate(names)
        for j, other in enumerate(others)
    )
    taken: tuple[set[int], set[int]] = (set(), set())
    found = []
    for _, _, i, j in rated:
        if i not in taken[0] and j not in taken[1]:
            found.append((names[i], others[j]))
            taken[0].add(i)
            taken[1].add(j)
    return found


def certain(names: Iterable[str], others: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pairs of which each shares more words with the other than any that is left does.

    >>> list(certain(["Conv_0.kernel", "Conv_1.kernel"], ["conv.1.weight", "conv.0.weight"]))
    [('Conv_0.kernel', 'conv.0.weight'), ('Conv_1.kernel', 'conv.1.weight')]
    """
    left, right = list(names), list(others)
    words = {name: _words(name) for name in (*left, *right)}
    while left and right:
        shared = np.array([[(words[a] & words[b]).total() for b in right] for a in left])
        rows, columns = shared.max(axis=1, keepdims=True), shared.max(axis=0, keepdims=True)
        most = (shared == rows) & (shared == columns)
        alone = most & ((shared == rows).sum(1, keepdims=True) == 1) & ((shared == columns).sum(0, keepdims=True) == 1)
        best = [(int(i), int(j)) for i, j in np.argwhere(alone)]
        if not best:
            return
        yield from ((left[i], right[j]) for i, j in best)
        left = [name for i, name in enumerate(left) if i not in {i for i, _ in best}]
        right = [name for j, name in enumerate(right) if j not in {j for _, j in best}]
