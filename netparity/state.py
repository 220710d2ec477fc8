"""What a network keeps beside its parameters, after one pass in training mode: running statistics above all."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

import numpy as np
from torch import nn

from netparity import bounds, calls
from netparity.measure import Arrays, error
from netparity.pairs import Pair
from netparity.results import Check

BIASED_VARIANCE = "biased running variance"
ALLOWED = (BIASED_VARIANCE,)


def checks(pair: Pair, after: Mapping[str, tuple[Arrays, Arrays]], allow: Collection[str]) -> Iterator[Check]:
    """The state of both sides after one pass in training mode.

    Args:
      pair: the networks.
      after: by dtype, the state of the JAX side, and that of the PyTorch side in float64, by common name.
      allow: of `ALLOWED`: differences that are meant, and then must be exactly that.
    """
    owners = _owners(pair)
    for dtype, (ours, theirs) in after.items():
        for name, true in theirs.items():
            if name not in ours:
                continue
            stage = owners.get(name, name)
            found, label = ours[name], f"{name} after a step"
            worst = error(found, true).max
            if dtype != "float64":
                yield Check("state", stage, label, True, dtype, worst, None, False, "JAX; not judged")
                continue
            passed, note = worst <= bounds.FLOAT64_LIMIT, ""
            if not passed:
                passed, note = _explained(pair, stage, name, found, true, allow)
                if passed:
                    worst = 0.0
            yield Check("state", stage, label, passed, dtype, worst, bounds.FLOAT64_LIMIT, True, note)


def batch_sizes(pair: Pair) -> dict[str, tuple[int, str, float]]:
    """Of every running variance: over how many numbers a channel's is taken, PyTorch's module, and its momentum."""
    found = {}
    for name, stage in _owners(pair).items():
        module = pair.torch.modules.get(stage)
        if not isinstance(module, nn.modules.batchnorm._BatchNorm) or module.momentum is None:
            continue
        n = math.prod(pair.graph("evaluation").shapes[stage]) // pair.params[name].size
        path = calls.module_of(pair.torch.stages[stage])
        turned = pair.torch.from_common({name: pair.params[name]})
        if n > 1 and f"{path}.running_var" in turned:
            found[name] = n, path, float(module.momentum)
    return found


def _owners(pair: Pair) -> dict[str, str]:
    """The stage that uses each array of the state in evaluation mode."""
    graph = pair.graph("evaluation")
    return {
        name: next((stage for stage, used in graph.params.items() if name in used), name)
        for name in pair.jax.network.state
    }


def _explained(
    pair: Pair, stage: str, name: str, found: np.ndarray, true: np.ndarray, allow: Collection[str]
) -> tuple[bool, str]:
    """Whether a difference is one that is allowed, and what it is if it is known."""
    module = pair.torch.modules.get(stage)
    if not isinstance(module, nn.modules.batchnorm._BatchNorm) or module.momentum is None:
        return False, ""
    before = pair.params[name].astype(np.float64)
    momentum = float(module.momentum)
    batch = (true - (1 - momentum) * before) / momentum  # PyTorch's statistic of this batch
    n = math.prod(pair.graph("evaluation").shapes[stage]) // true.size
    statistics = {"": batch}
    if n > 1:
        statistics[BIASED_VARIANCE] = batch * (n - 1) / n
    for kind, statistic in statistics.items():
        if error(found, (1 - momentum) * before + momentum * statistic).max <= bounds.EXPLAINED_LIMIT:
            if kind in allow:
                return True, f"JAX keeps the {kind}, PyTorch the unbiased one (n = {n}): allowed"
            return False, f"JAX keeps the {kind}, PyTorch the unbiased one: if that is meant, allow=[{kind!r}]"
    change = found - before
    for kind, statistic in statistics.items():
        wanted = statistic - before
        scale = float(np.vdot(wanted, change) / np.vdot(wanted, wanted)) if wanted.any() else math.nan
        if math.isfinite(scale) and error(change, scale * wanted).max <= bounds.EXPLAINED_LIMIT:
            of = f", of the {kind}" if kind else ""
            return False, (
                f"JAX moves by {scale:.4g} of the difference{of}, PyTorch by its momentum of {momentum:g}: "
                f"a Flax momentum is 1 - PyTorch's, {1 - momentum:g} here"
            )
    return False, ""
