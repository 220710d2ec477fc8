"""``python -m jaxalex.predict``: the most likely classes of picture files."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

from jaxalex import cli
from jaxalex.data.pictures import FORMATS, check_readable, read_picture
from jaxalex.errors import RunError, UsageError
from jaxalex.evaluate import NOT_FINITE, add_network_flags
from jaxalex.system import files, settings

_EPILOG = """\
examples:
  python -m jaxalex.predict runs/NAME cat.jpg dog.png
  python -m jaxalex.predict weights.safetensors --top 3 cat.jpg
  python -m jaxalex.predict runs/NAME photos/*.jpg --chart chart.png
  python -m jaxalex.predict alexnet.safetensors --model torchvision cat.jpg"""

_AT_ONCE = 32  # pictures in memory and in the network, and in a chart
_MOST_BARS = 20  # of a picture in a chart


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "python -m jaxalex.predict",
        "Prints the most likely classes of pictures. A picture is cropped to its central square and scaled to the\n"
        "size that the network was trained on; or first scaled and then cropped, where the weights file says so. What\n"
        "is transparent in it becomes white; of an animation it is the first picture.",
        _EPILOG,
    )
    add_network_flags(parser)
    parser.add_argument("images", metavar="IMAGE", nargs="+", help=f"picture files: {', '.join(FORMATS)}")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="how many classes to show (default 5)")
    parser.add_argument(
        "--chart",
        type=pathlib.Path,
        metavar="FILE.png",
        help=f"also draw each picture, as the network sees it, beside a bar chart of these classes: at most {_AT_ONCE} "
        f"pictures, {_MOST_BARS} bars each",
    )
    return parser


def _check_chart(chart: pathlib.Path, top: int, names: Sequence[pathlib.Path]) -> None:
    """Refuses, before the work, a chart that could not be drawn or written, or would take a picture's place."""
    if chart.suffix.lower() != ".png":
        raise UsageError(f"--chart {chart}: its name must end in .png")
    if len(names) > _AT_ONCE:
        raise UsageError(f"--chart takes at most {_AT_ONCE} pictures, not {len(names)}")
    if top > _MOST_BARS:
        raise UsageError(f"--chart shows at most {_MOST_BARS} classes of a picture: --top must not be {top}")
    files.check_output("--chart", chart)
    if chart.exists() and any(name.exists() and chart.samefile(name) for name in names):
        raise UsageError(f"--chart {chart}: is one of the pictures, which it would overwrite")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see ``--help``. Returns the exit code."""

    def command() -> None:
        flags = _parser().parse(argv)
        if flags.top < 1:
            raise UsageError(f"--top must be at least 1, not {flags.top}")
        names = [pathlib.Path(name) for name in flags.images]
        if flags.chart is not None:
            _check_chart(flags.chart, flags.top, names)
        settings.start_jax()
        import jax
        import numpy as np

        from jaxalex.system import compilation_cache
        from jaxalex.training import augment, chart, pretrained, steps

        compilation_cache.enable_for_command(flags.compilation_cache)
        loaded = pretrained.load(pathlib.Path(flags.network), flags.device, vars(flags), flags.checkpoint)
        if loaded.when and loaded.file.suffix != ".safetensors":
            print(f"note: {loaded.file}: {loaded.when}", file=sys.stderr)
        d = loaded.description
        if d.class_names == pretrained.IMAGENET.class_names:
            print(
                f"note: {loaded.file} does not describe itself: pictures are prepared as for torchvision's ImageNet "
                "weights, classes are numbered",
                file=sys.stderr,
            )
        for name in names:  # before anything is printed
            check_readable(name)
        at_once = min(_AT_ONCE, len(names))
        # A run on photographs has its own way to a larger square, whose centre the network takes.
        size, resize = d.image_size, d.resize
        if resize is not None and ":" in d.dataset:
            size, resize = resize, None
        pictures = np.zeros((at_once, size, size, d.input_channels), np.uint8)
        for start in range(0, len(names), at_once):
            some = names[start : start + at_once]
            for i, name in enumerate(some):
                pictures[i] = read_picture(name, size, d.input_channels, resize)
            data = {"image": pictures, "label": np.zeros(at_once, np.int32)}
            _, logits = steps.eval_step(loaded.state, data, np.arange(at_once, dtype=np.int32))
            if not np.isfinite(logits).all():
                raise RunError(f"{loaded.file}: {NOT_FINITE}")
            probabilities = np.asarray(jax.nn.softmax(logits))
            for name, row in zip(some, probabilities, strict=False):
                print(f"{name}:")
                for label in np.argsort(-row, kind="stable")[: flags.top]:
                    print(f"  {100 * row[label]:6.2f}%  {d.class_names[label]}")
            sys.stdout.flush()
        if flags.chart is not None:  # of so few pictures that all of them are in one batch
            shown = [str(name) for name in names]
            seen = np.asarray(augment.central(jax.numpy.asarray(pictures), loaded.state.image_hw))
            chart.write_chart(flags.chart, shown, seen, probabilities, d.class_names, flags.top)

    return cli.run(command)


if __name__ == "__main__":
    cli.end(main())
