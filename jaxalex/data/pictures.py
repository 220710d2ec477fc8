"""One picture on its way into a network: every format and kind of pixel becomes a square of 8 bits.

Training pictures and those that are predicted go the same way. It is that of Krizhevsky et al. 2012, section 2: the
shorter side is scaled to the wanted size, and what stands out of the central square is cut off.
"""

from __future__ import annotations

import contextlib
import io
import pathlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from jaxalex.errors import UsageError
from jaxalex.system import quiet

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

# Pillow reads more formats, but hands some of them to other programs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_RESIZED_PIXELS = 2**26  # at most in a resized picture
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # of TIFF 6.0
# A JPEG is decoded at half, a quarter or an eighth of its size where that leaves so many times the wanted size. At 2
# the result differs by 0.2 of 255 levels on average, at 1 it would by 0.6; 1500x1200 pixels take a third of the time.
_SPARE = 2


@contextlib.contextmanager
def strict() -> Iterator[None]:
    """Inside it Pillow refuses pictures of more than 89 million pixels, and warns and logs nothing.

    Python's filters are those of the whole process: enter it before threads are started. Others' warnings are shown.
    """
    from PIL import Image

    with quiet.logs(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # about files that Pillow finds odd but can read
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@contextlib.contextmanager
def opened(source: pathlib.Path | io.BytesIO, name: object) -> Iterator[Image.Image]:
    """A picture whose header is read; an exception of Pillow's inside the context names it. Use it inside `strict`.

    Args:
      source: a file's path or content.
      name: for messages.

    Raises:
      UsageError: it is not a readable picture.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(source, formats=FORMATS) as image:
            yield image
    except MemoryError:
        raise
    except UnidentifiedImageError as error:  # its own message shows where the content lies in memory
        size = source.stat().st_size if isinstance(source, pathlib.Path) else source.getbuffer().nbytes
        reason = f"its content is none of {', '.join(FORMATS)}" if size else "it is empty"
        raise UsageError(f"{name}: not a readable picture ({reason})") from error
    # Each of Pillow's readers raises exceptions of its own: ValueError, SyntaxError, struct.error …
    except Exception as error:
        raise UsageError(f"{name}: not a readable picture ({error})") from error


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
    return image if image.mode == "RGB" else image.convert("RGB")


def square(image: Image.Image, size: int, channels: int = 3, resize: int | None = None) -> np.ndarray:
    """A picture upright, in 8 bits (see `as_rgb`), its central square, scaled (bicubic, antialiased).

    Args:
      image: just opened.
      size: height and width of the result in pixels.
      channels: 1 (grey) or 3 (RGB).
      resize: at least ``size``: scale the shorter side to it, bilinearly, then cut out the centre, as torchvision's
        ``ImageClassification`` does, to the same pixels. None: cut out the largest central square, then scale it.

    Returns:
      uint8 ``[size, size, channels]``.
    """
    import numpy as np
    from PIL import ExifTags, Image, ImageOps

    if resize is not None:
        plain = as_rgb(image).convert("RGB" if channels == 3 else "L")
        plain.getexif()[ExifTags.Base.Orientation] = image.getexif().get(ExifTags.Base.Orientation, 1)
        return np.asarray(_resized_centre(ImageOps.exif_transpose(plain), size, resize)).reshape(size, size, channels)
    drafted = image.draft(None, (_SPARE * size, _SPARE * size))  # of a JPEG; other formats have no such thing
    plain = as_rgb(image)
    plain.load()
    # A drafted size is rounded up to whole pixels; the picture ends within the last ones.
    width, height = drafted[1][2:] if drafted else plain.size
    side = min(width, height)
    box = (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2
    # What has its size and place already isn't copied: copies take half of a small picture's time.
    fitted = plain if plain.size == (size, size) else plain.resize((size, size), Image.Resampling.BICUBIC, box)
    if channels == 1:
        fitted = fitted.convert("L")
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation != 1:
        fitted.getexif()[ExifTags.Base.Orientation] = orientation
        fitted = ImageOps.exif_transpose(fitted)
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


def check_readable(path: pathlib.Path) -> None:
    """Refuses a file that does not begin as a picture does.

    Raises:
      UsageError: naming the file.
    """
    _refuse_irregular(path)
    with strict(), opened(path, path):
        pass


def read_picture(path: pathlib.Path, size: int, channels: int, resize: int | None = None) -> np.ndarray:
    """A picture file as the network takes it: see `square`, which has the other arguments and the result.

    Args:
      path: a file in one of `FORMATS`.

    Raises:
      UsageError: the file is not a readable picture; it is named.
    """
    _refuse_irregular(path)
    with strict(), opened(path, path) as image:
        return square(image, size, channels, resize)


def _refuse_irregular(path: pathlib.Path) -> None:
    if not path.is_file():  # reading a pipe or a device might never end
        raise UsageError(f"{path}: {'is not a regular file' if path.exists() else 'no such file'}")
