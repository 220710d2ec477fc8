"""``python -m jaxalex.train``: trains AlexNet and leaves everything worth looking at in a run folder."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

from jaxalex import cli, data
from jaxalex import config as config_lib
from jaxalex.config import TrainConfig
from jaxalex.errors import UsageError
from jaxalex.system import settings
from jaxalex.system.memory import keep_freed_memory

_EPILOG = """\
examples:
  python -m jaxalex.train --recipe quickstart
  python -m jaxalex.train --dataset cifar10 --num-epochs 3
  python -m jaxalex.train --dataset cifar10 --data-dir DIR --init flax --workdir runs/flax
  python -m jaxalex.train --recipe paper --dataset folder:imagenette2-320
  python -m jaxalex.train --model paper --dataset folder:imagenette2-320 --init flax
  python -m jaxalex.train --dataset cifar10 --model torchvision --weights FILE.safetensors --normalize weights
  python -m jaxalex.train --resume runs/flax"""


def _add(group: Any, field: str, help: str, **options: Any) -> None:
    """Adds the flag of a field of `TrainConfig`; its help shows the default, and a flag not given sets nothing."""
    default = getattr(TrainConfig(), field)
    shown = "" if default is None else f" (default {default})"
    flag = "--" + field.replace("_", "-")
    group.add_argument(flag, dest=field, default=argparse.SUPPRESS, help=help + shown, **options)


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "python -m jaxalex.train",
        "Trains AlexNet in JAX with SGD and leaves metrics, pictures, checkpoints and weights in a run folder.\n"
        "Without flags: the recipe 'baseline' (batch 32, 20 epochs, SGD 0.01 with momentum 0.9).",
        _EPILOG,
    )
    _add_run_flags(parser)
    _add_machine_flags(parser)
    return parser


def _add_run_flags(parser: cli.Parser) -> None:
    """The flags that decide what is trained, on what and how."""
    group = parser.add_argument_group("what to run")
    _add(group, "recipe", "named set of values; flags override it", choices=tuple(config_lib.RECIPES))
    _add(group, "model", "the network", choices=config_lib.MODELS)
    _add(group, "width", "factor on all hidden channels and units", type=float, metavar="F")
    _add(group, "init", "initialisation of the parameters", choices=config_lib.INITS)
    _add(
        group,
        "weights",
        "start from the parameters in this .safetensors file; only the last layer is initialised where the data have "
        "another number of classes",
        metavar="FILE",
    )

    group = parser.add_argument_group("data")
    _add(
        group,
        "dataset",
        "cifar10; digits; auto: cifar10 if it is on disk, else digits; folder:PATH: photographs in PATH/train/CLASS/ "
        "and PATH/val/CLASS/; tfds:NAME: what tensorflow-datasets prepared in --data-dir",
        metavar="NAME",
    )
    _add(
        group,
        "data_dir",
        "where CIFAR-10 is, or is downloaded to, or tfds:NAME is (default: $JAXALEX_DATA_DIR, else "
        "tensorflow-datasets' folder)",
        metavar="DIR",
    )
    _add(
        group,
        "normalize",
        "half: to -1..1; dataset: by the train split's statistics; mean: less its mean, on the scale of 255; "
        "weights: as the --weights file says",
        choices=config_lib.NORMALIZATIONS,
    )
    _add(
        group,
        "augment",
        "paper: crop, mirror and shift the colours of training pictures as in the 2012 paper",
        choices=config_lib.AUGMENTATIONS,
    )
    _add(
        group,
        "on_bad_image",
        "at a photograph that cannot be decoded: stop, or skip and count it",
        choices=config_lib.BAD_IMAGES,
    )
    _add(
        group,
        "keep_decoded",
        "keep decoded photographs in memory; never: decode them in each epoch; auto: keep them if they take no more "
        "than half of what is free",
        choices=config_lib.KEEP_DECODED,
    )
    _add(group, "data_workers", "processes that decode in each epoch; 0: threads of this one", type=int, metavar="N")
    _add(group, "limit_train", "train on the first N of the shuffled train split", type=int, metavar="N")
    _add(group, "limit_eval", "evaluate and test on the first N samples of each set", type=int, metavar="N")
    _add(group, "test_crops", "10: at the end, also test with ten crops of each picture", type=int, metavar="1|10")

    group = parser.add_argument_group("training")
    _add(group, "batch_size", "samples per step", type=int, metavar="N")
    _add(group, "num_epochs", "passes over the train split", type=int, metavar="N")
    _add(group, "learning_rate", "of SGD", type=float, metavar="F")
    _add(
        group,
        "schedule",
        "plateau: divide the learning rate by 10 when the evaluation stops improving, three times at most",
        choices=config_lib.SCHEDULES,
    )
    _add(group, "patience", "of the plateau: epochs in a row without a better evaluation", type=int, metavar="N")
    _add(group, "momentum", "of SGD", type=float, metavar="F")
    _add(group, "weight_decay", "added to the gradient, as torch.optim.SGD does", type=float, metavar="F")
    _add(group, "seed", "for the split, the parameters, the order of samples and dropout", type=int, metavar="N")
    _add(
        group,
        "on_nonfinite",
        "at a loss or gradient that is not finite: stop, or skip the step and count it",
        choices=config_lib.NONFINITE,
    )


def _add_machine_flags(parser: cli.Parser) -> None:
    """The flags that decide where it runs and what it leaves."""
    group = parser.add_argument_group("machine and output")
    _add(group, "device", "auto: a GPU where there is one", choices=config_lib.DEVICES)
    group.add_argument(
        "--gpu",
        dest="device",
        action="store_const",
        const="gpu",
        default=argparse.SUPPRESS,
        help="--device gpu",
    )
    _add(
        group,
        "precision",
        "float32: full, on a GPU too; tf32: products rounded to TF32; bfloat16: float32 parameters and loss",
        choices=config_lib.PRECISIONS,
    )
    parser.add_compilation_cache(group)
    group.add_argument("--workdir", metavar="DIR", help="run folder, new or empty (default: a new one under runs/)")
    _add(group, "checkpoint_every", "also save every N steps, or N minutes (5m), inside an epoch", metavar="N")
    _add(group, "keep", "how many of the last checkpoints to keep, besides the best", type=int, metavar="N")
    group.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with the run in this folder; other flags must agree with it, but --num-epochs may grow",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see ``--help``. Returns the exit code."""

    def command() -> None:
        flags = vars(_parser().parse(argv))
        workdir, run, cache = (flags.pop(name) for name in ("workdir", "resume", "compilation_cache"))
        if "dataset" in flags:
            flags["dataset"] = data.stored_name(flags["dataset"])
        if (run is None or "data_dir" in flags) and (stored := data.stored_dir(flags.get("data_dir"))):
            flags["data_dir"] = stored
        if "weights" in flags:
            flags["weights"] = _absolute(flags["weights"])
        if run is None:
            config = config_lib.from_recipe(flags.pop("recipe", "baseline"), flags)
            path = pathlib.Path(workdir) if workdir else None
        else:
            path = pathlib.Path(run)
            if workdir is not None and pathlib.Path(workdir) != path:
                raise UsageError(f"--resume {run} goes on in that folder: leave out --workdir {workdir}")
            config = config_lib.resumed(path, flags)
        keep_freed_memory()
        settings.start_jax()  # slow: not before the flags are checked
        from jaxalex.system import compilation_cache
        from jaxalex.training.loop import train_and_evaluate

        compilation_cache.enable_for_command(cache)
        train_and_evaluate(config, path, say=lambda line: print(line, flush=True), resume=run is not None)

    return cli.run(command)


def _absolute(weights: str) -> str:
    """A weights file by the name that it has from every other folder, too."""
    try:
        return str(pathlib.Path(weights).expanduser().absolute())
    except (OSError, RuntimeError) as error:  # a current folder that is gone; ~nobody
        raise UsageError(f"--weights {weights}: {error}") from error


if __name__ == "__main__":
    cli.end(main())
