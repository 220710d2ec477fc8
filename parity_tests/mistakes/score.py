"""Plants mistakes and judges what is said of each: caught, located, and diagnosed right, wrongly or not at all."""

from __future__ import annotations

import collections
import dataclasses
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import netparity
from netparity import JaxNetwork, ParityError, prepare
from netparity.pairs import MODES
from parity_tests.mistakes.harmless import HARMLESS, Harmless
from parity_tests.mistakes.networks import NETWORKS
from parity_tests.mistakes.planting import Mistake, Network, Setup, right
from parity_tests.ports.threads import one_thread

TOLERANCES = (1e-5, 1e-3, 1e-1)
NONE_KNOWN = "no known mistake explains it"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was said of a mistake.

    Attributes:
      mistake: the mistake.
      found: the stage where the networks are said to differ first; None where nothing was said.
      diagnosis: the line; empty where nothing was said.
      verdict: ``"right"``, ``"wrong"`` or ``"none"``: whether the diagnosis names the mistake, another one, or none.
      allclose: by tolerance, whether ``np.testing.assert_allclose`` on the logits would have passed.
      seconds: of a processor that it took.
    """

    mistake: Mistake
    found: str | None
    diagnosis: str
    verdict: str
    allclose: dict[str, bool]
    seconds: float

    @property
    def caught(self) -> bool:
        return self.found is not None

    @property
    def located(self) -> bool:
        return self.found == self.mistake.stage


class Bench:
    """Right networks, each made once, so that mistakes on the PyTorch side share its compiled programs."""

    def __init__(self) -> None:
        self._made: dict[str, JaxNetwork] = {}

    def setup(self, network: Network, seed: int = 0) -> Setup:
        """The right pair."""
        if network.name not in self._made:
            jax.clear_caches()  # programs of the network before
            self._made = {network.name: network.port()}
        return right(network, self._made[network.name], seed)


def compared(setup: Setup, modes: Sequence[str] = MODES) -> netparity.Comparison:
    """The comparison of a pair in float64, which is where mistakes are found and explained."""
    return netparity.compare(
        setup.jax, setup.module, setup.inputs, labels=setup.labels, modes=modes, dtypes=["float64"],
        name=setup.of.name, **setup.keywords,
    )  # fmt: skip


def plant(mistake: Mistake, bench: Bench) -> Outcome:
    """Plants one mistake and judges what is said of it."""
    begin = time.process_time()
    setup = mistake.plant(bench.setup(NETWORKS[mistake.network]))
    try:
        result = compared(setup, mistake.modes)
        found = None if result.first_divergence is None else result.first_divergence[0]
        diagnosis = result.diagnosis or ""
    except ParityError as refused:  # the parameters do not fit, say: it is told, and no number compared
        diagnosis = str(refused)
        found = mistake.stage if mistake.stage in diagnosis else "refused"
    close = closeness(setup)
    return Outcome(mistake, found, diagnosis, verdict(mistake, diagnosis), close, time.process_time() - begin)


def verdict(mistake: Mistake, diagnosis: str) -> str:
    """Whether a diagnosis names the mistake (``"right"``), another one (``"wrong"``), or none."""
    if not diagnosis or NONE_KNOWN in diagnosis:
        return "none"
    return "right" if all(_says(one, diagnosis) for one in mistake.says) else "wrong"


def _says(wanted: str, diagnosis: str) -> bool:
    """Whether a diagnosis says one of several words, each of one side if a side is named.

    >>> told = "JAX has epsilon 1e-06 where PyTorch has 1e-05"
    >>> _says("JAX=0.000001|JAX=1e-06", told), _says("PyTorch=1e-06", told), _says("epsilon", told)
    (True, False, True)
    """
    for one in wanted.split("|"):
        side, equals, word = one.rpartition("=")
        said = said_of(side, diagnosis) if equals else diagnosis
        if word.lower() in said.lower():
            return True
    return False


def said_of(side: str, diagnosis: str) -> str:
    """What a diagnosis says of one side alone.

    >>> said_of("PyTorch", "JAX has ReLU where PyTorch has tanh")
    'PyTorch has tanh'
    >>> said_of("JAX", "JAX: nesterov, PyTorch: plain"), said_of("PyTorch", "JAX: bias left out")
    ('JAX: nesterov, ', '')
    """
    pieces = re.split(r"(?=\b(?:JAX|PyTorch)(?:'s|:| has| moves) )", diagnosis)
    return "".join(piece.replace(" where ", "") for piece in pieces if piece.startswith(side))


def closeness(setup: Setup) -> dict[str, bool]:
    """By tolerance, whether the logits of both sides agree, in evaluation mode and float32, as a test would ask."""
    try:
        ours, theirs = logits(setup)
    except ParityError:  # without a table of the parameters nothing can be asked
        return dict.fromkeys(map(str, TOLERANCES), False)
    return {str(tolerance): _close(ours, theirs, tolerance) for tolerance in TOLERANCES}


def _close(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> bool:
    try:
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)
    except AssertionError:
        return False
    return True


def logits(setup: Setup) -> tuple[np.ndarray, np.ndarray]:
    """What both networks return in evaluation mode and float32, in JAX's layout.

    Raises:
      ParityError: as of `netparity.compare`.
    """
    given = {name: setup.keywords.get(name) for name in ("table", "stages", "dropouts", "layouts")}
    ready = prepare.prepare(
        setup.jax, setup.module, setup.inputs, labels=setup.labels, train=False, losses=(None, None), seed=0, **given
    )  # fmt: skip
    arrays, inputs = jax.tree.map(jax.numpy.asarray, (setup.jax.arrays, ready.inputs))
    outputs, _, _ = setup.jax.network(arrays, inputs, None)  # step by step: nothing to be compiled
    theirs = ready.pair.torch.forward(ready.pair.params, ready.pair.inputs)
    return np.asarray(outputs), list(theirs.values())[-1]


@one_thread()
def score(
    mistakes: Sequence[Mistake],
    networks: Sequence[Network],
    seeds: int = 1,
    progress: Callable[[str], None] = lambda text: None,
    each: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any]:
    """Plants mistakes, and compares the right networks with several seeds and with what changes nothing.

    Args:
      mistakes: any of the catalogue; they are planted network by network.
      networks: the right ones.
      seeds: of the right networks' batches.
      progress: gets a line when something begins.
      each: gets the `row` of every mistake when it is known.

    Returns:
      what ``--json`` writes.
    """
    bench = Bench()
    outcomes: list[Outcome] = []
    refused: list[dict[str, Any]] = []
    harmless: list[dict[str, Any]] = []
    names = dict.fromkeys([mistake.network for mistake in mistakes] + [network.name for network in networks])
    for name in names:  # all of a network while its compiled programs are there
        for mistake in (one for one in mistakes if one.network == name):
            progress(f"mistake {len(outcomes) + 1} of {len(mistakes)}: {name}: {mistake.name}")
            outcomes.append(plant(mistake, bench))
            each(row(outcomes[-1]))
        for network in (one for one in networks if one.name == name):
            for seed in range(seeds):
                progress(f"right: {name}, seed {seed}")
                result = compared(bench.setup(network, seed))
                if not result.passed:
                    refused.append({"network": name, "seed": seed, "diagnosis": result.diagnosis})
            for change in (one for one in HARMLESS if one.network == name):
                progress(f"harmless: {name}: {change.name}")
                harmless.append(unchanged(change, bench))
    return {
        "totals": totals(outcomes),
        "right": {"networks": seeds * len(networks), "refused": refused},
        "harmless": harmless,
        "mistakes": [row(one) for one in outcomes],
    }


def unchanged(change: Harmless, bench: Bench) -> dict[str, Any]:
    """Whether a network passes with a change that changes nothing."""
    result = compared(change.plant(bench.setup(NETWORKS[change.network])))
    return {
        "name": change.name,
        "network": change.network,
        "why": change.why,
        "passed": result.passed,
        "diagnosis": result.diagnosis,
    }


def totals(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """How many were caught, located and diagnosed, and how many a test of the logits would have passed."""
    verdicts = collections.Counter(one.verdict for one in outcomes)
    return {
        "planted": len(outcomes),
        "caught": sum(one.caught for one in outcomes),
        "located": sum(one.located for one in outcomes),
        **{verdict: verdicts[verdict] for verdict in ("right", "wrong", "none")},
        "allclose_passes": {str(t): sum(one.allclose[str(t)] for one in outcomes) for t in TOLERANCES},
    }


def summary(found: Mapping[str, Any]) -> str:
    """What `score` found, in a table of the networks and a few lines."""
    lines = [f"{'network':20} planted caught located right wrong none"]
    for name in dict.fromkeys(one["network"] for one in found["mistakes"]):
        own = [one for one in found["mistakes"] if one["network"] == name]
        verdicts = [sum(one["verdict"] == verdict for one in own) for verdict in ("right", "wrong", "none")]
        numbers = [len(own), sum(one["caught"] for one in own), sum(one["located"] for one in own), *verdicts]
        widths = (7, 6, 7, 5, 5, 4)
        lines.append(f"{name:20} {' '.join(f'{n:{width}}' for n, width in zip(numbers, widths, strict=True))}")
    of, right = found["totals"], found["right"]
    passes = ", ".join(f"{count} at {tolerance}" for tolerance, count in of["allclose_passes"].items())
    harmless = found["harmless"]
    told = sum(not one["passed"] for one in harmless)
    lines += [
        f"{of['planted']} mistakes: {of['caught']} caught, {of['located']} located, diagnosed {of['right']} right, "
        f"{of['wrong']} wrong, {of['none']} not at all",
        f"assert_allclose on the logits passes with {passes}",
        f"{right['networks']} right networks: {len(right['refused'])} refused",
        f"{len(harmless)} changes that change nothing: {told} refused",
    ]
    lines += [f"    refused: {one['network']}, seed {one['seed']}: {one['diagnosis']}" for one in right["refused"]]
    lines += [f"    refused: {one['name']}: {one['diagnosis']}" for one in harmless if not one["passed"]]
    return "\n".join(lines)


def row(outcome: Outcome) -> dict[str, Any]:
    """An outcome as ``--json`` writes it."""
    mistake = outcome.mistake
    return {
        "name": mistake.name,
        "kind": mistake.kind,
        "network": mistake.network,
        "library": NETWORKS[mistake.network].library,
        "side": mistake.side,
        "stage": mistake.stage,
        "found": outcome.found,
        "caught": outcome.caught,
        "located": outcome.located,
        "verdict": outcome.verdict,
        "diagnosis": outcome.diagnosis,
        "says": list(mistake.says),
        "allclose": outcome.allclose,
        "seconds": round(outcome.seconds, 2),
    }
