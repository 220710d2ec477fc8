"""What a network keeps beside its parameters, after one pass in training mode: running statistics above all."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

import numpy as np
from torch import nn

from netparity import bounds, calls
from netparity.measure import Arrays, error
from netparity.pairs import Pair
from netparity.results import Check, check

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
            limit, note = bounds.FLOAT64_LIMIT, ""
            if worst > limit:
                left, note = _explained(pair, stage, name, found, true, allow)
                if left is not None:
                    worst, limit = left, bounds.EXPLAINED_LIMIT
            yield check("state", stage, label, worst, limit, note=note)


def batch_sizes(pair: Pair) -> dict[str, tuple[int, str, float]]:
    """Of every running variance: over how many numbers a channel's is taken, PyTorch's module, and its momentum."""
    found = {}
    for name, stage in _owners(pair).items():
        momentum = _momentum(pair, stage)
        if momentum is None:
            continue
        n = _batch_size(pair, stage, name)
        path = calls.module_of(pair.torch.stages[stage])
        turned = pair.torch.from_common({name: pair.params[name]})
        if n > 1 and f"{path}.running_var" in turned:
            found[name] = n, path, momentum
    return found


def _momentum(pair: Pair, stage: str) -> float | None:
    """PyTorch's momentum of a batch normalisation; None of anything else, and of a plain average."""
    module = pair.torch.modules.get(stage)
    if not isinstance(module, nn.modules.batchnorm._BatchNorm) or module.momentum is None:
        return None
    return float(module.momentum)


def _batch_size(pair: Pair, stage: str, name: str) -> int:
    """Over how many numbers a channel's statistics are taken."""
    return math.prod(pair.graph("evaluation").shapes[stage]) // pair.params[name].size


def _owners(pair: Pair) -> dict[str, str]:
    """The stage that uses each array of the state in evaluation mode."""
    graph = pair.graph("evaluation")
    return {
        name: next((stage for stage, used in graph.params.items() if name in used), name)
        for name in pair.jax.network.state
    }


def _explained(
    pair: Pair, stage: str, name: str, found: np.ndarray, true: np.ndarray, allow: Collection[str]
) -> tuple[float | None, str]:
    """What is left of a difference that is allowed, None if it is not; and what it is if it is known."""
    momentum = _momentum(pair, stage)
    if momentum is None:
        module = pair.torch.modules.get(stage)
        averages = isinstance(module, nn.modules.batchnorm._BatchNorm)
        return None, "PyTorch takes the plain average of all batches (momentum=None), JAX another" if averages else ""
    before = pair.params[name].astype(np.float64)
    batch = (true - (1 - momentum) * before) / momentum  # PyTorch's statistic of this batch
    n = _batch_size(pair, stage, name)
    statistics = {"": batch}
    if n > 1:
        statistics[BIASED_VARIANCE] = biased = batch * (n - 1) / n
        left = error(found, (1 - momentum) * before + momentum * biased).max
        if left <= bounds.EXPLAINED_LIMIT:
            said = f"JAX keeps the {BIASED_VARIANCE}, PyTorch the unbiased one"
            if BIASED_VARIANCE in allow:
                return left, f"{said} (n = {n}): allowed"
            return None, f"{said}: if that is meant, allow=[{BIASED_VARIANCE!r}]"
    change = found - before
    for kind, statistic in statistics.items():
        wanted = statistic - before
        scale = float(np.vdot(wanted, change) / np.vdot(wanted, wanted)) if wanted.any() else math.nan
        if math.isfinite(scale) and error(change, scale * wanted).max <= bounds.EXPLAINED_LIMIT:
            of = f", of the {kind}" if kind else ""
            return None, (
                f"JAX moves by {scale:.4g} of the difference{of}, PyTorch by its momentum of {momentum:g}: "
                f"a Flax momentum is 1 - PyTorch's, {1 - momentum:g} here"
            )
    return None, ""
