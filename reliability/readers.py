"""Everything in `jaxalex` that reads a file a stranger may have made, through the doors that the commands use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reliability import data_readers, run_readers
from reliability.reader import Reader


def _make_pictures(folder: Path) -> list[Path]:
    from PIL import Image

    picture = Image.fromarray(data_readers.samples()[0][0]).resize((40, 30))
    made = []
    for suffix in ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm"):
        picture.save(folder / f"picture.{suffix}")
        made.append(folder / f"picture.{suffix}")
    return made


def _read_pictures(folder: Path) -> Any:
    from jaxalex.data.pictures import read_picture
    from jaxalex.errors import UsageError

    problems = []
    for path in sorted(folder.iterdir()):
        try:
            read_picture(path, 32, 3)
        except UsageError as error:
            problems.append(error)
    if problems:
        raise problems[0]
    return None


USAGE_ERRORS = ("jaxalex.errors",)
READERS: dict[str, Reader] = {
    **data_readers.READERS,
    **run_readers.READERS,
    "picture": Reader(_make_pictures, _read_pictures, share=20),
}
