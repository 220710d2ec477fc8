"""Compares a JAX network with a PyTorch one: `compare`, `assert_parity`, `infer_table`."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from netparity import arguments, isolation, jax_side, levels, prepare, state, torch_side
from netparity.adapters.given import JaxNetwork
from netparity.diagnosis import conventions, mistakes, repro, stage
from netparity.diagnosis.diagnose import Diagnosis, describe
from netparity.layouts import Layout
from netparity.measure import ParityError
from netparity.pairs import DTYPES, MODES, Pair
from netparity.report import document, environment, screen
from netparity.results import Check, Result, StageResult
from netparity.table import Entry
from netparity.training import diagnosis as optimizer_diagnosis
from netparity.training import lockstep, recording
from netparity.training import mistakes as optimizer_mistakes
from netparity.training.steps import TorchFactory


@dataclasses.dataclass
class Comparison(Result):
    """A result that can be written down.

    Attributes:
      name: of the network, for people.
      pair: the networks that were compared.
    """

    name: str = "network"
    pair: Pair | None = dataclasses.field(default=None, repr=False)

    def __str__(self) -> str:
        return screen.summary(self.name, self)

    def report(self, folder: str | pathlib.Path) -> None:
        """Writes ``report.json`` and ``report.html`` into a folder, which is made if need be.

        Raises:
          OSError: if it cannot be written to.
        """
        document.write(document.to_dict({self.name: self}, environment.environment()), pathlib.Path(folder))

    def repro(self, folder: str | pathlib.Path) -> pathlib.Path:
        """Writes a script that shows the first stage that differs alone, and the two files that it reads.

        The script needs nothing but JAX, PyTorch and NumPy.

        Returns:
          its path, ``repro.py`` in the folder, which is made if need be.

        Raises:
          ParityError: if no stage differs in float64 when fed the same.
          OSError: if the folder cannot be written to.
        """
        if self.pair is None:
            raise ParityError("there is nothing to reproduce: the networks were not compared")
        for one in self.failures:
            if one.stage not in self.pair.torch.stages:
                continue
            if isinstance(one, Check) and one.level == "shapes":
                found = stage.of_shapes(self.pair, one.stage)
            elif isinstance(one, StageResult) and not one.float64_passed:
                found = stage.of_failure(self.pair, one.stage, one.mode)
            else:
                continue
            return repro.write(found, pathlib.Path(folder), f"{self.name}: {self.diagnosis}")
        raise ParityError("there is nothing to reproduce: no stage differs in float64 when fed the same")


def compare(
    jax_network: JaxNetwork,
    module: nn.Module,
    inputs: np.ndarray | Sequence[np.ndarray],
    *,
    labels: np.ndarray | None = None,
    table: Mapping[str, Entry] | None = None,
    stages: Mapping[str, str] | None = None,
    dropouts: Sequence[str] | None = None,
    layouts: Mapping[str, Layout] | None = None,
    modes: Collection[str] = MODES,
    dtypes: Collection[str] = DTYPES,
    jax_loss: jax_side.Loss | None = None,
    torch_loss: torch_side.Loss | None = None,
    state_dict: Mapping[str, Any] | None = None,
    optimizer: tuple[Any, TorchFactory] | None = None,
    steps: int = 0,
    allow: Collection[str] = (),
    seed: int = 0,
    name: str = "network",
) -> Comparison:
    """Compares two networks: shapes, every stage in isolation, the whole pass, loss, gradients and state.

    The PyTorch network gets the JAX network's values, by the table. It is left as it is.

    Args:
      jax_network: what `netparity.linen`, `netparity.nnx`, `netparity.equinox` or `netparity.function` gives.
      module: the PyTorch network.
      inputs: an array or several, in JAX's layout: images float ``[batch, height, width, channel]`` (of Equinox
        ``[batch, channel, height, width]``), sequences ``[batch, time, feature]``, tokens int ``[batch, time]`` …
      labels: int ``[batch]`` of the mean cross-entropy, or whatever the losses take; None takes a random sum of the
        outputs for a loss.
      table: every parameter of both sides, JAX name to `Same`, `ConvKernel`, `DenseKernel` …; None infers it.
      stages: by JAX's name of a value, PyTorch's module whose output it is; None finds all that it can.
      dropouts: the stages that are dropout; PyTorch gets the masks that JAX draws. None finds them.
      layouts: by stage or ``"input"``, how it lies in PyTorch where it differs from what the shapes and the table
        tell (`AsIs`, `ChannelsFirst`, `Flattened`).
      modes: of ``("training", "evaluation")``.
      dtypes: of ``("float64", "float32")``.
      jax_loss, torch_loss: ``(outputs, labels) -> scalar``, both or none.
      state_dict: PyTorch's own weights, where the JAX network's were made of them by a converter of yours: it is
        compared by the table, too.
      optimizer: an optax transformation and a function that makes PyTorch's optimizer of a list of parameters; where
        that clips or follows a schedule, it returns ``(optimizer, step)``, and ``step()`` does it all.
      steps: of training on this batch with both, compared after each.
      allow: differences of convention that are meant, and then must be just that: ``"biased running variance"``.
      seed: of dropout and of the random cotangents.
      name: of the network, for people.

    Raises:
      ParityError: listing all that does not fit: parameters, stages, layouts, inputs.
    """
    arguments.require(
        jax_network,
        module,
        inputs,
        {"allow": (allow, state.ALLOWED), "dtypes": (dtypes, DTYPES), "modes": (modes, MODES)},
        table=table,
        stages=stages,
        dropouts=dropouts,
        layouts=layouts,
        losses=(jax_loss, torch_loss),
        training=(steps, optimizer),
    )
    ready = prepare.prepare(
        jax_network,
        module,
        inputs,
        labels=labels,
        table=table,
        stages=stages,
        dropouts=dropouts,
        layouts=layouts,
        train="training" in modes,
        losses=(jax_loss, torch_loss),
        seed=seed,
    )
    given = ready.inputs
    result = Comparison(len(given[0]) if given[0].ndim else 1, given[0].shape[1:], name=name)
    result.conventions = conventions.conventions(jax_network, ready)
    pair, states = ready.pair, levels.States()
    result.pair = pair
    mode = "training" if "training" in modes else "evaluation"
    result.parents = dict(pair.graph(mode).parents)
    if state_dict is not None:
        result.checks += prepare.weights(ready, state_dict)
        if result.failures:
            return result
    wanted = [mode for mode in MODES if mode in modes]
    if len(wanted) > 1 and not levels.has_modes(pair):
        wanted = ["training"]
    result.layers, checks, result.flips = levels.network(
        pair, dtypes, wanted, whole=["float64"], states=states, tolerance=result.minimum_tolerance
    )
    result.checks += checks
    result.checks += state.checks(pair, states, allow)
    recorder = recording.Recorder(result.batch_size)
    if steps and optimizer is not None and not result.failures:  # training would only repeat them
        result.steps = steps
        result.trajectory, checks = lockstep.train(jax_network, ready, optimizer, steps, dtypes, allow, recorder)
        result.checks += checks
    if result.failures:
        found = _diagnosis(result.failures[0], pair, recorder)
        result.diagnosis = found.text
        result.advice = mistakes.MISTAKES[found.key].mend if found.key in mistakes.MISTAKES else None
        wrong = [stage for stage, verdict in result.verdicts.items() if verdict == "failed"]
        result.torch_parents = isolation.torch_parents(pair, wrong, mode) if result.layers else {}
    return result


def _diagnosis(failure: StageResult | Check, pair: Pair, recorder: recording.Recorder) -> Diagnosis:
    """What differs first, and what explains it."""
    if not (isinstance(failure, Check) and failure.level == "training"):
        return describe(failure, pair)
    recorded = recorder.recording()
    explanation = optimizer_diagnosis.explain(recorded)
    found = describe(failure, pair, {failure.stage: lambda: explanation})
    if explanation:
        return dataclasses.replace(found, key=optimizer_mistakes.key(explanation))
    seen = optimizer_diagnosis.pattern(recorded)
    return dataclasses.replace(found, text=f"{found.text}: {seen}") if seen else found


def assert_parity(jax_network: JaxNetwork, module: nn.Module, inputs: Any, **keywords: Any) -> None:
    """As `compare`, for tests.

    Raises:
      AssertionError: if the networks differ, with the report for the screen.
      ParityError: as of `compare`.
    """
    result = compare(jax_network, module, inputs, **keywords)
    if not result.passed:
        raise AssertionError(str(result))


def finish(name: str, result: Result, out: pathlib.Path | None = None) -> int:
    """Prints the table, and writes ``report.json`` and ``report.html`` into a folder.

    Args:
      name: of the network, for people.
      result: what `compare` found.
      out: the folder; None writes nothing.

    Returns:
      0 if parity holds, else 1; 2 if the folder cannot be written to, which is told in one line on stderr.
    """
    print(screen.summary(name, result))
    if out is not None:
        try:
            document.write(document.to_dict({name: result}, environment.environment()), out)
        except OSError as error:
            print(f"error: {error.filename or out}: {error.strerror}: the report is not written", file=sys.stderr)
            return 2
    return 0 if result.passed else 1
