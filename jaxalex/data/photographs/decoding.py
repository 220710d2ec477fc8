"""Decodes pictures: one, and many at once into one array."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxalex.data import pictures
from jaxalex.data.photographs.encoded import Part
from jaxalex.data.splits import ImageSet
from jaxalex.errors import UsageError
from jaxalex.system import environment

_AT_ONCE = 32  # pictures that a thread decodes before it asks for more
BAD = -1  # the label of a picture that was left out


def decode_into(image: np.ndarray, part: Part, index: int, skip_bad: bool) -> tuple[int, str | None]:
    """Decodes one picture. Use it inside `jaxalex.data.pictures.strict`.

    Args:
      image: uint8 ``[size, size, 3]``, which is filled.
      part: the part.
      index: which of its pictures.
      skip_bad: go on where it cannot be decoded.

    Returns:
      the label and None; of a picture that is left out `BAD`, and what is wrong with it.

    Raises:
      UsageError: as `decode`.
    """
    picture = part.read(index)
    try:
        with pictures.opened(io.BytesIO(picture.content), picture.name) as opened:
            image[:] = pictures.square(opened, len(image))
    except UsageError as error:
        if not skip_bad:
            raise UsageError(f"{error}: remove it, or use --on-bad-image skip") from error
        return BAD, str(error)
    return picture.label, None


def decode(
    part: Part, indices: np.ndarray, image_size: int, skip_bad: bool, description: str
) -> tuple[ImageSet, list[str]]:
    """Decodes pictures of a part, in as many threads as there are cores: Pillow lets them run side by side.

    A progress bar shows on stderr if that is a terminal and it takes more than a second.

    Args:
      part: the part.
      indices: int ``[n]``: which of its pictures, in this order.
      image_size: height and width in pixels.
      skip_bad: leave out pictures that cannot be decoded.
      description: text in front of the bar.

    Returns:
      images uint8 ``[m, image_size, image_size, 3]`` and labels, with ``m`` at most ``n``; and for each picture that is
      left out, what is wrong with it.

    Raises:
      UsageError: without ``skip_bad``: the first picture that cannot be decoded is named. In any case: a file cannot be
        read.
    """
    from tqdm import tqdm

    images = np.empty((len(indices), image_size, image_size, 3), np.uint8)
    labels = np.empty(len(indices), np.int32)

    def decode_some(rows: range) -> list[str]:
        problems = []
        for row in rows:
            labels[row], problem = decode_into(images[row], part, int(indices[row]), skip_bad)
            problems += [problem] if problem else []
        return problems

    bad: list[str] = []
    groups = [range(len(indices))[start : start + _AT_ONCE] for start in range(0, len(indices), _AT_ONCE)]
    with (
        pictures.strict(),
        tqdm(total=len(indices), desc=description, unit=" images", leave=False, disable=None, delay=1) as bar,
        ThreadPoolExecutor(environment.cpu_count()) as pool,
    ):
        # In order, so that of several bad pictures the same one is always named; the rest is then given up.
        for rows, problems in zip(groups, pool.map(decode_some, groups), strict=True):
            bad += problems
            bar.update(len(rows))
    if bad:  # the others move up, so that no second array is needed
        kept = np.flatnonzero(labels != BAD)
        for new, old in enumerate(kept):
            images[new], labels[new] = images[old], labels[old]
        images, labels = images[: len(kept)], labels[: len(kept)]
    return ImageSet(images, labels), bad
