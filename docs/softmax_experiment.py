"""Trains with and without a softmax inside the network, in both frameworks: the figures and picture of softmax.md.

``python docs/softmax_experiment.py`` writes softmax.json and softmax.png beside itself; ``--draw`` only draws again.
Within a seed all four runs start from the same parameters and see the same batches; dropout differs by framework.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxalex import cli, config
from jaxalex.errors import UsageError
from jaxalex.system import files

if TYPE_CHECKING:
    import torch

    from jaxalex.data import ImageSet, Splits

HERE = pathlib.Path(__file__).parent
FLOOR = math.log(math.e + 9) - 1  # ten classes, probability 1 on the right one, taken for logits
_COLOURS = {"jax": "#1769aa", "torch": "#c8541b"}
_LABELS = {"jax": "JAX", "torch": "PyTorch"}


@dataclasses.dataclass(frozen=True)
class Setup:
    """What every run shares."""

    model: str = "cifar10"
    width: float = 0.125
    init: str = "flax"  # PyTorch's default would stay at ln 10 for the first epochs
    batch_size: int = 32
    num_epochs: int = 20
    learning_rate: float = 0.01
    momentum: float = 0.9


def run_jax(setup: Setup, splits: Splits, seed: int, softmax: bool) -> list[dict[str, float]]:
    """Trains with jaxalex; a row of eval loss and accuracy before the first epoch and after each."""
    import jax

    from jaxalex.training import epochs, placement

    state = _jax_state(setup, splits, seed)
    if softmax:
        network = state.apply_fn
        state = state.replace(apply_fn=lambda *args, **kwargs: jax.nn.softmax(network(*args, **kwargs)))
    cpu = placement.on_device(jax.devices("cpu")[0])
    train, held_out = placement.place(splits.train, cpu), placement.place(splits.eval, cpu)
    key = jax.random.key(seed + 1)
    compiled = epochs.compile_epoch(state, train, setup.batch_size, key)
    rows = [_row(epochs.evaluate(state, held_out))]
    for epoch in range(1, setup.num_epochs + 1):
        indices = epochs.epoch_indices(len(splits.train), setup.batch_size, seed, epoch)
        state, _ = epochs.train_one_epoch(compiled, state, train, indices, key, f"jax, epoch {epoch}")
        rows.append(_row(epochs.evaluate(state, held_out)))
    return rows


def run_torch(setup: Setup, splits: Splits, seed: int, softmax: bool) -> list[dict[str, float]]:
    """The same with torch_ref, from the same parameters and with the same batches."""
    import torch

    from jaxalex import convert
    from jaxalex.training import epochs
    from torch_ref import models, training

    start = convert.to_torch(_jax_state(setup, splits, seed).params, setup.model)
    model = models.build(setup.model, splits.num_classes, width=setup.width)
    model.load_state_dict({name: torch.tensor(array) for name, array in start.items()})
    torch.manual_seed(seed + 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=setup.learning_rate, momentum=setup.momentum)
    criterion = training.SoftmaxCrossEntropyLoss() if softmax else torch.nn.CrossEntropyLoss()
    cpu = torch.device("cpu")
    held_out = list(_torch_batches(splits.eval, [range(len(splits.eval))]))
    rows = [_row(training.evaluate(model, held_out, criterion, cpu))]
    for epoch in range(1, setup.num_epochs + 1):
        indices = epochs.epoch_indices(len(splits.train), setup.batch_size, seed, epoch)
        batches = _torch_batches(splits.train, [row[row >= 0] for row in indices])
        training.train_epoch(model, batches, criterion, optimizer, cpu, epoch)
        rows.append(_row(training.evaluate(model, held_out, criterion, cpu)))
    return rows


def _jax_state(setup: Setup, splits: Splits, seed: int) -> Any:
    import jax
    import numpy as np

    from jaxalex import models
    from jaxalex.training import optim
    from jaxalex.training.state import create_train_state

    model = models.build(setup.model, splits.num_classes, setup.width, init=setup.init)
    tx = optim.sgd(setup.learning_rate, setup.momentum)
    half = np.full(3, 0.5, np.float32)
    return create_train_state(model, tx, jax.random.key(seed), splits.train.images.shape[1:], half, half)


def _torch_batches(images: ImageSet, rows: Sequence[Sequence[int]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    import torch

    for row in rows:
        pictures = torch.from_numpy(images.images[row]).permute(0, 3, 1, 2).contiguous()
        yield (pictures.float() / 255 - 0.5) / 0.5, torch.from_numpy(images.labels[row]).long()


def _row(result: Any) -> dict[str, float]:
    return {"loss": result.loss, "accuracy": result.accuracy}


def run_all(setup: Setup, seeds: Sequence[int]) -> dict[str, Any]:
    """Every framework, with and without, for every seed: what ``softmax.json`` holds."""
    import torch

    from jaxalex import data
    from jaxalex.system import environment

    splits = data.load("digits", None, seed=0)
    runs = []
    for seed in seeds:
        for framework, run in (("jax", run_jax), ("torch", run_torch)):
            for softmax in (False, True):
                rows = run(setup, splits, seed, softmax)
                runs.append({"framework": framework, "softmax": softmax, "seed": seed, "eval": rows})
                last = rows[-1]
                label = f"{_LABELS[framework]}, {'with' if softmax else 'without'}, seed {seed}"
                print(f"{label}: loss {last['loss']:.3f}, {last['accuracy']:.1f} %", flush=True)
    environ = {"cpu": environment.cpu_name(), "cores": environment.cpu_count()}
    environ["versions"] = environment.versions() | {"torch": torch.__version__}
    sizes = {"train_size": len(splits.train), "eval_size": len(splits.eval)}
    return {"setup": dataclasses.asdict(setup) | sizes, "environment": environ, "runs": runs}


def table(results: Mapping[str, Any]) -> str:
    """Markdown: the eval split at the end of training, mean and range over the seeds."""
    lines = ["| | softmax inside | eval loss | eval accuracy |", "| --- | --- | ---: | ---: |"]
    for softmax in (False, True):
        for framework, label in _LABELS.items():
            last = [r["eval"][-1] for r in results["runs"] if (r["framework"], r["softmax"]) == (framework, softmax)]
            losses, accuracies = [row["loss"] for row in last], [row["accuracy"] for row in last]
            lines.append(
                f"| {label} | {'yes' if softmax else 'no'} "
                f"| {statistics.fmean(losses):.3f} ({min(losses):.3f}–{max(losses):.3f}) "
                f"| {statistics.fmean(accuracies):.1f} % ({min(accuracies):.1f}–{max(accuracies):.1f}) |"
            )
    return "\n".join(lines)


def epochs_to(results: Mapping[str, Any], accuracy: float, softmax: bool) -> list[int]:
    """The epoch of each run after which its eval accuracy, in percent, was first that high."""
    runs = [run["eval"] for run in results["runs"] if run["softmax"] == softmax]
    return [next(i for i, row in enumerate(rows) if row["accuracy"] >= accuracy) for rows in runs]


def draw(results: Mapping[str, Any], path: pathlib.Path) -> None:
    """A PNG of eval loss and accuracy by epoch: a line a run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    for axes, quantity, label in zip(panels, ("loss", "accuracy"), ("eval loss", "eval accuracy, %"), strict=True):
        named = set()
        for run in results["runs"]:
            kind = (run["framework"], run["softmax"])
            name = f"{_LABELS[run['framework']]}, {'softmax inside' if run['softmax'] else 'logits'}"
            axes.plot(
                range(len(run["eval"])),
                [row[quantity] for row in run["eval"]],
                color=_COLOURS[run["framework"]],
                linestyle="--" if run["softmax"] else "-",
                linewidth=1.3,
                alpha=0.85,
                label=None if kind in named else name,
            )
            named.add(kind)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(label)
        axes.set_ylim(0, None if quantity == "loss" else 100)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].axhline(FLOOR, color="#777777", linewidth=1)
    note = f"floor with a softmax inside: {FLOOR:.3f}"
    panels[0].annotate(
        note,
        (1, FLOOR),
        (-4, -12),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        fontsize=9,
    )
    panels[1].legend(frameon=False, loc="lower right")
    figure.savefig(path)


def _parser() -> cli.Parser:
    parser = cli.Parser("python docs/softmax_experiment.py", (__doc__ or "").splitlines()[0])
    setup = Setup()
    parser.add_argument(
        "--num-epochs", type=int, default=setup.num_epochs, metavar="N", help=f"default {setup.num_epochs}"
    )
    parser.add_argument("--width", type=float, default=setup.width, metavar="F", help=f"default {setup.width}")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="how many seeds, from 0 on (default 3)")
    parser.add_argument("--out", type=pathlib.Path, default=HERE, metavar="DIR", help=f"default {HERE.name}")
    parser.add_argument("--draw", action="store_true", help="run nothing; draw the softmax.json that is there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see ``--help``. Returns the exit code."""

    def command() -> None:
        args = _parser().parse(argv)
        if args.num_epochs < 1 or args.seeds < 1:
            raise UsageError("--num-epochs and --seeds must be at least 1")
        config.check_range("width", args.width)
        path = args.out / "softmax.json"
        for output in (path, args.out / "softmax.png"):
            files.check_output("--out", output)
        if not args.draw:
            setup = Setup(width=args.width, num_epochs=args.num_epochs)
            results = run_all(setup, range(args.seeds))
            path.write_text(json.dumps(results, indent=1) + "\n")
        results = files.read_json(path)
        draw(results, args.out / "softmax.png")
        print(table(results))

    return cli.run(command)


if __name__ == "__main__":
    sys.exit(main())
