"""The throughput table: every setting of a plan, its result written as soon as it exists."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import flops, result, roofline
from benchmarks.measure import Options, measure_setting, not_measured
from benchmarks.process import OutOfMemory, Worker, WorkerError
from benchmarks.settings import Setting
from jaxalex.errors import RunError, UsageError

_IDENTITY = ("model", "mode", "precision", "device", "width")


@dataclasses.dataclass
class Suite:
    """A run of the suite.

    Attributes:
      options: how each setting is measured.
      quick: a small roofline.
      flags: the command's arguments, for the record.
      file: where the result goes after each setting; None keeps it in memory.
      say: gets a line at each stage.
    """

    options: Options
    quick: bool
    flags: Mapping[str, Any]
    file: pathlib.Path | None
    say: Callable[[str], None]
    result: dict[str, Any] = dataclasses.field(default_factory=dict)

    def run(self, settings: Sequence[Setting], resume: bool, until: float | None) -> bool:
        """Measures what is not measured yet.

        Args:
          settings: all on one device.
          resume: go on with what the file holds.
          until: `time.monotonic` after which no setting is begun; None is no limit.

        Returns:
          whether all of it is done; see `failures`, too.

        Raises:
          UsageError: if there is no such device, or the file holds another revision's or machine's figures.
          RunError: if a worker failed before anything could be measured.
        """
        device, precisions = settings[0].device, sorted({s.precision for s in settings})
        before = (
            result.read(self.file, "rows", "ratios")
            if resume and self.file is not None and self.file.exists()
            else None
        )
        if before is not None:
            self._take_up(before, result.describe(self.flags, before["environment"].get("gpu")))
            if all(self._has(setting) for setting in settings):
                return True
        try:
            gpu, costs = self._device_and_costs(device, settings)
            environment = result.describe(self.flags, gpu)
            if before is None:
                self.result = {"environment": environment, "rows": [], "ratios": []}
            else:
                self._take_up(before, environment)
            self._measure_roofline(device, precisions)
        except WorkerError as error:
            raise RunError(str(error)) from error
        for setting in settings:
            if self._has(setting):
                continue
            if until is not None and time.monotonic() > until:
                return False
            rows = self._with_less_memory(setting)
            self.result["rows"] += [self._with_efficiency(row, costs) for row in rows]
            self.result["ratios"] = ratios(self.result["rows"])
            self._write()
        return True

    def failures(self) -> list[str]:
        """For each setting in which nothing of one framework could be measured: which, and why.

        A batch for which memory ran out is a result, unless it is all there is.
        """
        nothing = not any(row["images_per_second"] for row in self.result["rows"])
        return [
            f"{_setting(row)}: {row['framework']}: {row['note']}"
            for row in (rows[0] for rows in self._unmeasured())
            if nothing or not _out_of_memory(row)
        ]

    def _unmeasured(self) -> list[list[dict[str, Any]]]:
        """The rows of each framework of each setting in which none has a rate."""
        sides: dict[Any, list[dict[str, Any]]] = {}
        for row in self.result["rows"]:
            sides.setdefault((_setting(row), row["framework"]), []).append(row)
        return [rows for rows in sides.values() if not any(row["images_per_second"] for row in rows)]

    def _measure_roofline(self, device: str, precisions: Sequence[str]) -> None:
        before = self.result.get("roofline") or {"matmul_flops_per_second": {}}
        missing = [p for p in precisions if p not in before["matmul_flops_per_second"]]
        if missing:
            self.say("roofline: a large matrix product and a large copy")
            found = roofline.measure(device, missing, self.quick)
            found["matmul_flops_per_second"] |= before["matmul_flops_per_second"]
            self.result["roofline"] = found
            self._write()

    def _device_and_costs(self, device: str, settings: Sequence[Setting]) -> tuple[str | None, dict[str, Any]]:
        with tempfile.TemporaryDirectory() as folder, Worker("jax", pathlib.Path(folder)) as worker:
            try:
                gpu = worker.ask("hello", device=device, precision=settings[0].precision)["gpu"]
            except WorkerError as error:
                raise UsageError(str(error).removeprefix("UsageError: ")) from error
            costs = {
                model: worker.ask("cost", model=model, width=settings[0].width)
                for model in sorted({s.model for s in settings})
            }
        return gpu, costs

    def _take_up(self, before: dict[str, Any], environment: Mapping[str, Any]) -> None:
        for name in ("git_revision", "cpu", "cores", "gpu", "versions"):
            ours, theirs = environment[name], before["environment"].get(name)
            if ours != theirs:
                raise UsageError(f"{self.file}: holds figures of another {name} ({theirs}, not {ours}): use a new file")
        self.result = before
        # What failed is measured anew; memory would run out again.
        failed = {_setting(rows[0]) for rows in self._unmeasured() if not _out_of_memory(rows[0])}
        before["rows"] = [row for row in before["rows"] if _setting(row) not in failed]

    def _has(self, setting: Setting) -> bool:
        wanted = dataclasses.asdict(setting)
        return any(
            all(row[name] == wanted[name] for name in _IDENTITY)
            and setting.batch_size in (row["batch_size"], row["asked"])
            for row in self.result["rows"]
        )

    def _with_less_memory(self, setting: Setting) -> list[dict[str, Any]]:
        """Rows of a setting; where memory runs out, of half its batch, and so on."""
        asked, notes = setting.batch_size, []
        while True:
            try:
                rows = measure_setting(setting, self.options, self.say)
                break
            except OutOfMemory as error:
                note = f"out of memory at batch {setting.batch_size} ({error})"
                self.say(f"{setting}: {note}")
                notes.append(note)
                if setting.batch_size == 1:
                    rows = [not_measured(setting)]
                    break
                setting = dataclasses.replace(setting, batch_size=setting.batch_size // 2)
                if self._has(setting):  # that batch's figures are there already: only the note is new
                    rows = [not_measured(dataclasses.replace(setting, batch_size=asked))]
                    break
        for row in rows:
            row["asked"] = asked
            row["note"] = "; ".join(filter(None, [*notes, row["note"]])) or None
        return rows

    def _with_efficiency(self, row: dict[str, Any], costs: Mapping[str, Any]) -> dict[str, Any]:
        row |= {"mfu": None, "floor_fraction": None}
        rate = row["images_per_second"]
        if rate:
            roof, cost = self.result["roofline"], costs[row["model"]]
            peak = roof["matmul_flops_per_second"][row["precision"]]["best"]
            row["mfu"] = rate * cost[row["mode"]] / peak
            floor = flops.floor_bytes(cost["parameters"], row["mode"]) / roof["copy_bytes_per_second"]["best"]
            row["floor_fraction"] = floor * rate / row["batch_size"]
        return row

    def _write(self) -> None:
        if self.file is not None:
            ordered = {name: self.result.get(name) for name in ("environment", "roofline", "rows", "ratios")}
            result.write(self.file, ordered)


def _setting(row: Mapping[str, Any]) -> str:
    return str(Setting(**{field.name: row[field.name] for field in dataclasses.fields(Setting)}))


def _out_of_memory(row: Mapping[str, Any]) -> bool:
    return "out of memory" in (row["note"] or "")


def ratios(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each setting in which both frameworks were measured: the best row of each."""
    found = []
    for ours in rows:
        if ours["framework"] != "jax" or not ours["best"] or ours["ratio"] is None:
            continue
        keys = (*_IDENTITY, "batch_size", "inputs")
        theirs = next(r for r in rows if r["framework"] == "torch" and r["best"] and all(r[k] == ours[k] for k in keys))
        found.append(
            {
                **{name: ours[name] for name in ("model", "mode", "batch_size", "precision", "device")},
                "jax_images_per_second": ours["images_per_second"],
                "torch_images_per_second": theirs["images_per_second"],
                "torch_variant": theirs["variant"],
                "ratio": ours["ratio"],
            }
        )
    return found
