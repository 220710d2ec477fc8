"""``python -m jaxalex.predict``: the most likely classes of picture files."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jaxalex import cli
from jaxalex.errors import RunError, UsageError
from jaxalex.evaluate import NOT_FINITE, add_network_flags
from jaxalex.system import settings

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

_EPILOG = """\
examples:
  python -m jaxalex.predict runs/NAME cat.jpg dog.png
  python -m jaxalex.predict weights.safetensors --top 3 cat.jpg
  python -m jaxalex.predict alexnet.safetensors --model torchvision cat.jpg"""


_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_AT_ONCE = 32  # pictures in memory and in the network
_RESIZED_PIXELS = 2**26  # at most in a resized picture
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # of TIFF 6.0


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "python -m jaxalex.predict",
        "Prints the most likely classes of pictures. A picture is cropped to its central square and scaled to the\n"
        "size that the network was trained on; or first scaled and then cropped, where the weights file says so. What\n"
        "is transparent in it becomes white; of an animation it is the first picture.",
        _EPILOG,
    )
    add_network_flags(parser)
    parser.add_argument("images", metavar="IMAGE", nargs="+", help=f"picture files: {', '.join(_FORMATS)}")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="how many classes to show (default 5)")
    return parser


@contextmanager
def _opened(path: pathlib.Path) -> Iterator[Image.Image]:
    """A picture file whose header is read; an exception of Pillow's inside the context names the file.

    Raises:
      UsageError: the file is not a readable picture; it is named.
    """
    import warnings

    from PIL import Image

    from jaxalex.system import quiet

    if not path.is_file():  # reading a pipe or a device might never end
        raise UsageError(f"{path}: {'is not a regular file' if path.exists() else 'no such file'}")
    try:
        with quiet.logs(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that Pillow finds odd but can read
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                yield image
    # Each of Pillow's readers raises exceptions of its own: ValueError, SyntaxError, struct.error …
    except Exception as error:
        raise UsageError(f"{path}: not a readable picture ({error})") from error


def as_rgb(image: Image.Image) -> Image.Image:
    """A picture of any of Pillow's modes in 8-bit RGB, on white where it is transparent.

    Values of 16 bits, or of 12, are scaled by the range of their type.

    Raises:
      ValueError: it holds floating-point or 32-bit numbers, and nothing says which of them is white.
    """
    import numpy as np
    from PIL import Image

    # A PNG or PPM of 16 bits may be of mode I, too.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        tags = getattr(image, "tag_v2", {})
        white = 2 ** int(tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1
        values = np.clip(np.asarray(image).astype(np.float32), 0, white)
        if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            values = white - values
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            values[values == transparent] = white
        return Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        kind = "32-bit" if image.mode == "I" else "floating-point"
        raise ValueError(f"it holds {kind} numbers, and nothing says which is white: save it with 8 or 16 bits")
    if image.mode == "La":  # alpha multiplied in, which Pillow converts to LA only
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def read_picture(path: pathlib.Path, size: int, channels: int, resize: int | None = None) -> np.ndarray:
    """A picture file as the network takes it: upright, in 8 bits (see `as_rgb`), its central square, scaled.

    Args:
      path: a file in one of `_FORMATS`. Pillow reads more formats, but hands some of them to other programs.
      size: height and width of the result in pixels.
      channels: 1 (grey) or 3 (RGB).
      resize: at least ``size``: scale the shorter side to it, bilinearly, then cut out the centre, as torchvision's
        ``ImageClassification`` does. None: cut out the largest central square, then scale it, bicubically.

    Returns:
      uint8 ``[size, size, channels]``.

    Raises:
      UsageError: the file is not a readable picture; it is named.
    """
    import numpy as np
    from PIL import ExifTags, Image, ImageOps

    with _opened(path) as image:
        plain = as_rgb(image).convert("RGB" if channels == 3 else "L")
        plain.getexif()[ExifTags.Base.Orientation] = image.getexif().get(ExifTags.Base.Orientation, 1)
        upright = ImageOps.exif_transpose(plain)
        if resize is None:
            fitted = ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)
        else:
            fitted = _resized_centre(upright, size, resize)
    return np.asarray(fitted).reshape(size, size, channels)


def _resized_centre(image: Image.Image, size: int, resize: int) -> Image.Image:
    """The central square of ``size`` by ``size`` pixels once the shorter side is ``resize``.

    Lengths are rounded, and every pixel is, as in torchvision's ``resize`` and ``center_crop``.
    """
    from PIL import Image

    short = min(image.size)
    # Of a strip that would take gigabytes when resized, most is cut off beforehand.
    longest = short * max(2, _RESIZED_PIXELS // resize**2)
    image = image.crop(_centre(image.size, min(image.width, longest), min(image.height, longest)))
    width, height = (resize * length // short for length in image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop(_centre(resized.size, size, size))


def _centre(picture: tuple[int, int], width: int, height: int) -> tuple[int, int, int, int]:
    """The box of a picture's centre: left, top, right and bottom.

    >>> _centre((341, 256), 224, 224)
    (58, 16, 282, 240)
    """
    left, top = round((picture[0] - width) / 2), round((picture[1] - height) / 2)
    return left, top, left + width, top + height


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
        if loaded.when and loaded.file.suffix != ".safetensors":
            print(f"note: {loaded.file}: {loaded.when}", file=sys.stderr)
        d = loaded.description
        if d.class_names == pretrained.IMAGENET.class_names:
            print(
                f"note: {loaded.file} does not describe itself: pictures are prepared as for torchvision's ImageNet "
                "weights, classes are numbered",
                file=sys.stderr,
            )
        names = [pathlib.Path(name) for name in flags.images]
        for name in names:  # before anything is printed
            with _opened(name):
                pass
        at_once = min(_AT_ONCE, len(names))
        pictures = np.zeros((at_once, d.image_size, d.image_size, d.input_channels), np.uint8)
        for start in range(0, len(names), at_once):
            some = names[start : start + at_once]
            for i, name in enumerate(some):
                pictures[i] = read_picture(name, d.image_size, d.input_channels, d.resize)
            data = {"image": pictures, "label": np.zeros(at_once, np.int32)}
            _, logits = steps.eval_step(loaded.state, data, np.arange(at_once, dtype=np.int32))
            if not np.isfinite(logits).all():
                raise RunError(f"{loaded.file}: {NOT_FINITE}")
            for name, row in zip(some, np.asarray(jax.nn.softmax(logits)), strict=False):
                print(f"{name}:")
                for label in np.argsort(-row, kind="stable")[: flags.top]:
                    print(f"  {100 * row[label]:6.2f}%  {d.class_names[label]}")
            sys.stdout.flush()

    return cli.run(command)


if __name__ == "__main__":
    cli.end(main())
