"""What tensorflow-datasets prepared, looked at before it is trusted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxalex.system import files


def refuse_strange(folder: Path) -> None:
    """Refuses a prepared folder that holds anything but files and folders, or names classes other than TFDS' own.

    A named pipe would be waited for, and TFDS may import the module of a class that ``features.json`` names.

    Raises:
      OSError: it cannot be read.
      UsageError, ValueError: naming what is strange.
    """
    for path in folder.iterdir():
        if not path.is_dir():
            files.refuse_other_than(files.REGULAR, path, follow=True)
    features = folder / "features.json"
    for name in _class_names(files.read_json(features)) if features.exists() else ():
        if not re.fullmatch(r"tensorflow_datasets\.core\.features(\.\w+)+", name):
            raise ValueError(f"{features.name} names the class {name!r}")


def _class_names(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("pythonClassName", "python_class_name", "type"):
                yield str(inner)
            yield from _class_names(inner)
