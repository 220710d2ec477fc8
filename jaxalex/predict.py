"""``python -m jaxalex.predict``: the most likely classes of picture files."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxalex import cli
from jaxalex.errors import UsageError
from jaxalex.evaluate import add_network_flags
from jaxalex.system import settings

if TYPE_CHECKING:
    import numpy as np

_EPILOG = """\
examples:
  python -m jaxalex.predict runs/NAME cat.jpg dog.png
  python -m jaxalex.predict weights.safetensors --top 3 cat.jpg"""


_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "python -m jaxalex.predict",
        "Prints the most likely classes of pictures. A picture is cropped to its central square and scaled to the\n"
        "size that the network was trained on.",
        _EPILOG,
    )
    add_network_flags(parser)
    parser.add_argument("images", metavar="IMAGE", nargs="+", help=f"picture files: {', '.join(_FORMATS)}")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="how many classes to show (default 5)")
    return parser


def read_picture(path: pathlib.Path, size: int, channels: int) -> np.ndarray:
    """A picture file as the network takes it: its central square, scaled.

    Args:
      path: a file in one of `_FORMATS`. Pillow reads more formats, but hands some of them to other programs.
      size: height and width of the result in pixels.
      channels: 1 (grey) or 3 (RGB).

    Returns:
      uint8 ``[size, size, channels]``.

    Raises:
      UsageError: the file is not a readable picture; it is named.
    """
    import warnings

    import numpy as np
    from PIL import Image, ImageOps

    from jaxalex.system import quiet

    if not path.is_file():  # reading a pipe or a device might never end
        raise UsageError(f"{path}: {'is not a regular file' if path.exists() else 'no such file'}")
    try:
        with quiet.logs(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that Pillow finds odd but can read
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB" if channels == 3 else "L")
                fitted = ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)
    # Each of Pillow's readers raises exceptions of its own: ValueError, SyntaxError, struct.error …
    except Exception as error:
        raise UsageError(f"{path}: not a readable picture ({error})") from error
    return np.asarray(fitted).reshape(size, size, channels)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see ``--help``. Returns the exit code."""

    def command() -> None:
        flags = _parser().parse(argv)
        if flags.top < 1:
            raise UsageError(f"--top must be at least 1, not {flags.top}")
        settings.start_jax()
        import jax
        import numpy as np

        from jaxalex.system import compilation_cache
        from jaxalex.training import pretrained, steps

        compilation_cache.enable_for_command(flags.compilation_cache)
        loaded = pretrained.load(pathlib.Path(flags.network), flags.device, vars(flags), flags.checkpoint)
        d = loaded.description
        names = [pathlib.Path(name) for name in flags.images]
        pictures = np.stack([read_picture(name, d.image_size, d.input_channels) for name in names])
        data = {"image": pictures, "label": np.zeros(len(pictures), np.int32)}
        _, logits = steps.eval_step(loaded.state, data, np.arange(len(pictures), dtype=np.int32))
        for name, row in zip(names, np.asarray(jax.nn.softmax(logits)), strict=True):
            print(f"{name}:")
            for label in np.argsort(-row, kind="stable")[: flags.top]:
                print(f"  {100 * row[label]:6.2f}%  {d.class_names[label]}")

    return cli.run(command)


if __name__ == "__main__":
    sys.exit(main())
