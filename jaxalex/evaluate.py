"""``python -m jaxalex.evaluate``: loss and accuracy on the test set, of a run or of any weights file."""

from __future__ import annotations

import math
import pathlib
import sys
from collections.abc import Sequence

from jaxalex import cli
from jaxalex import config as config_lib
from jaxalex.errors import RunError, UsageError
from jaxalex.system import settings

_EPILOG = """\
examples:
  python -m jaxalex.evaluate runs/NAME
  python -m jaxalex.evaluate runs/NAME --checkpoint best
  python -m jaxalex.evaluate weights.safetensors --data-dir DIR"""
NOT_FINITE = "the network's outputs are not finite numbers: its weights, mean or std are too large or too small"


def add_network_flags(parser: cli.Parser) -> None:
    """Adds the flags that choose a network, and those that describe a weights file without a description."""
    parser.add_argument("network", metavar="RUN_OR_WEIGHTS", help="a run folder or a .safetensors file")
    parser.add_argument(
        "--checkpoint", choices=("best", "last"), default="last", help="of a run folder (default last: the newest)"
    )
    parser.add_argument("--device", choices=config_lib.DEVICES, default="auto", help="default auto")
    parser.add_compilation_cache()
    group = parser.add_argument_group("for a weights file that does not say what it holds")
    group.add_argument(
        "--model", choices=config_lib.MODELS, help="the network; predict needs no more for torchvision's 1000 classes"
    )
    group.add_argument("--width", type=float, metavar="F", help="its width factor (default 1.0)")
    stated = [name for name in config_lib.NORMALIZATIONS if name != "weights"]
    group.add_argument("--normalize", choices=stated, help="as in training")
    group.add_argument("--dataset", metavar="NAME", help="default: what it was trained on")
    group.add_argument("--data-dir", metavar="DIR", help="where CIFAR-10, or tfds:NAME, is")


def _parser() -> cli.Parser:
    parser = cli.Parser("python -m jaxalex.evaluate", "Prints loss and accuracy on the whole test set.", _EPILOG)
    add_network_flags(parser)
    parser.add_argument(
        "--limit-eval", type=int, metavar="N", help="the first N of the test set (default: as in training)"
    )
    parser.add_argument(
        "--test-crops",
        type=int,
        metavar="1|10",
        help="10: also average the predictions for ten crops of each picture (default: as in training)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see ``--help``. Returns the exit code."""

    def command() -> None:
        flags = _parser().parse(argv)
        if flags.limit_eval is not None and flags.limit_eval < 1:
            raise UsageError(f"--limit-eval must be at least 1, not {flags.limit_eval}")
        config_lib.check_range("test_crops", flags.test_crops)
        settings.start_jax()
        import numpy as np

        from jaxalex import data
        from jaxalex.system import compilation_cache
        from jaxalex.training import pretrained, report
        from jaxalex.training.epochs import evaluate
        from jaxalex.training.placement import place, room_for_images

        compilation_cache.enable_for_command(flags.compilation_cache)
        path = pathlib.Path(flags.network)
        loaded = pretrained.load(path, flags.device, vars(flags), flags.checkpoint)
        config, description = loaded.config, loaded.description
        limit = flags.limit_eval or (config.limit_eval if config else None)
        data_dir = flags.data_dir or (config.data_dir if config else None)
        dataset = flags.dataset or description.dataset
        if not flags.dataset and ":" not in dataset and dataset not in config_lib.DATASETS:
            known = ", ".join((*config_lib.DATASETS[1:], "folder:PATH"))
            raise UsageError(f"{path} was trained on {dataset}, which is not here: give --dataset ({known})")
        splits = data.load(
            data.stored_name(dataset),
            data_dir,
            0,
            limit_eval=limit,
            image_size=description.resize or description.image_size,
            skip_bad=config is not None and config.on_bad_image == "skip",
            room=room_for_images(config.keep_decoded if config else "auto", loaded.sharding),
            workers=config.data_workers if config else 0,
            only_test=True,
            notify=lambda line: print(line, file=sys.stderr),
        )
        if splits.num_classes != description.num_classes:
            raise UsageError(f"{path} knows {description.num_classes} classes, {splits.name} has {splits.num_classes}")
        test_set = place(splits.test, loaded.sharding)
        crops = {1, flags.test_crops or (config.test_crops if config else 1)}
        results = {number: evaluate(loaded.state, test_set, crops=number) for number in sorted(crops)}
        if not all(math.isfinite(result.loss) and np.isfinite(result.logits).all() for result in results.values()):
            raise RunError(f"{loaded.file}: {NOT_FINITE}")
        if loaded.config:
            print(f"network    {loaded.file}" + (f": {loaded.when}" if loaded.when else ""))
        for problem in results[1].problems:
            print(f"note: left out: {problem}", file=sys.stderr)
        for number, result in results.items():
            top5 = report.top5_accuracy(result.logits, result.labels)
            print(report.test_line(result.loss, result.accuracy, top5, number))

    return cli.run(command)


if __name__ == "__main__":
    cli.end(main())
