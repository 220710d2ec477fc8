"""A folder of photographs as ImageNet has it: ``PATH/train/<class>/*`` and ``PATH/val/<class>/*``."""

from __future__ import annotations

import collections
import dataclasses
import os
import zlib
from pathlib import Path
from typing import Any

from jaxalex.data.photographs.encoded import Encoded, Part, Picture
from jaxalex.errors import UsageError
from jaxalex.system import files, memory

PREFIX = "folder:"
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
_NAMES = ("LOC_synset_mapping.txt", "classes.txt")  # the first is what ImageNet's own is called
_LARGEST = 2**30  # bytes of a file that is taken for a picture


@dataclasses.dataclass
class _ClassFolder:
    """The pictures of one class in one part, sorted by name, and the CRC-32 of each that was read."""

    path: Path
    names: list[str]
    sizes: list[int]
    checksums: list[int]

    def read(self, index: int, label: int) -> Picture:
        path = self.path / self.names[index]
        try:
            with files.open_regular(path) as file:
                content = file.read(_LARGEST + 1)
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
        if len(content) > _LARGEST:
            raise UsageError(f"{path}: is larger than {memory.gigabytes(_LARGEST)}, and so no picture")
        self.checksums[index] = zlib.crc32(content)
        return Picture(str(path), content, label)

    def fingerprint(self) -> str:
        """For people, and another for another list of names, other sizes or, as far as they were read, contents."""
        described = "".join(f"{row}\n" for row in zip(self.names, self.sizes, self.checksums, strict=True))
        crc = zlib.crc32(described.encode())
        return f"{len(self.names):,} files of {sum(self.sizes):,} bytes, CRC {crc:08x}"


def find(path: Path) -> Encoded:
    """Lists the pictures of a folder in ImageNet's layout; reads none of them.

    Classes are the folders in ``train``, sorted by name; within a class the files are, too. Everything that begins
    with a dot, or has another ending than a picture's, is passed over.

    Args:
      path: absolute; holds ``train`` and one or both of ``val`` and ``test``.

    Raises:
      UsageError: the folder isn't laid out so; the message says what is missing, or which classes differ.
    """
    try:
        parts = {name: _list_part(path, name) for name in ("train", "val", "test") if _is_there(path, name)}
        names = _readable_names(path, list(parts["train"]))
    except OSError as error:
        raise UsageError(f"{error.filename or path}: cannot be read ({error.strerror})") from error
    for name, classes in parts.items():
        _check_classes(path, name, classes, parts["train"])
    return Encoded(
        name=f"{PREFIX}{path}",
        parts={name: _part(list(classes.values())) for name, classes in parts.items()},
        class_names=names,
        fingerprint=lambda: _fingerprint(parts),
    )


def _is_there(path: Path, name: str) -> bool:
    """Whether the folder has this part; refuses a folder that lacks a necessary one."""
    if not path.is_dir():
        raise UsageError(f"{PREFIX}{path}: {'is a file, not a folder' if path.exists() else 'there is no such folder'}")
    layout = "it must hold train/CLASS/*.jpg … and val/CLASS/*.jpg …"
    if name == "train" and not (path / name).is_dir():
        raise UsageError(f"{PREFIX}{path}: has no folder named train: {layout}")
    if name == "val" and not any((path / part).is_dir() for part in ("val", "test")):
        raise UsageError(f"{PREFIX}{path}: has no folder named val (or test): {layout}")
    return (path / name).is_dir()


def _list_part(path: Path, part: str) -> dict[str, _ClassFolder]:
    classes = sorted(entry.name for entry in os.scandir(path / part) if _is_visible(entry) and entry.is_dir())
    if strange := [name for name in classes if not name.isprintable()]:
        raise UsageError(f"{PREFIX}{path}: the class {strange[0]!r} in {part} has a name that cannot be printed")
    return {name: _list_class(path / part / name) for name in classes}


def _list_class(path: Path) -> _ClassFolder:
    found = sorted(
        (entry.name, 0 if entry.is_symlink() else entry.stat().st_size)
        for entry in os.scandir(path)
        if _is_visible(entry) and entry.name.lower().endswith(_SUFFIXES)
    )
    return _ClassFolder(path, [name for name, _ in found], [size for _, size in found], [0] * len(found))


def _is_visible(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".")


def _check_classes(path: Path, part: str, classes: dict[str, _ClassFolder], train: dict[str, _ClassFolder]) -> None:
    """Refuses a part without pictures, a set of fewer than two classes, and classes that only one part has."""
    where = f"{PREFIX}{path}"
    if not any(folder.names for folder in classes.values()):
        raise UsageError(f"{where}: {part} holds no pictures in folders of its own: {part}/CLASS/*.jpg …")
    if len(train) < 2:
        raise UsageError(f"{where}: train holds one class, {next(iter(train))}; to tell classes apart takes two")
    if classes.keys() != train.keys():
        problems = [f"{_few(train.keys() - classes.keys())} only in train"] if train.keys() - classes.keys() else []
        if classes.keys() - train.keys():
            problems.append(f"{_few(classes.keys() - train.keys())} only in {part}")
        raise UsageError(f"{where}: train and {part} have other classes: {'; '.join(problems)}")
    if empty := [name for name, folder in train.items() if not folder.names]:
        raise UsageError(f"{where}: no picture in train/{empty[0]} (its name must end in {', '.join(_SUFFIXES)})")


def _few(names: set[str], most: int = 10) -> str:
    shown = ", ".join(sorted(names)[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} others"


def _part(classes: list[_ClassFolder]) -> Part:
    places = [(label, index) for label, folder in enumerate(classes) for index in range(len(folder.names))]

    def read(index: int) -> Picture:
        label, place = places[index]
        return classes[label].read(place, label)

    return Part(len(places), read)


def _fingerprint(parts: dict[str, dict[str, _ClassFolder]]) -> dict[str, Any]:
    return {
        f"{part}/{name}": folder.fingerprint() for part, classes in parts.items() for name, folder in classes.items()
    }


def _readable_names(path: Path, classes: list[str]) -> tuple[str, ...]:
    """Each class by its first name in a list that lies in the folder, else by that of its folder.

    A line of such a list is ``n01440764 tench, Tinca tinca``. A name that several classes have is told apart by their
    folders'.
    """
    listed: dict[str, str] = {}
    for file in _NAMES:
        if (path / file).is_file():
            text = (path / file).read_text(errors="replace")
            for line in text.splitlines():
                folder, _, name = line.strip().partition(" ")
                listed[folder] = name.split(",")[0].strip()
            break
    names = [listed.get(name) or name for name in classes]
    names = [name if name.isprintable() else folder for name, folder in zip(names, classes, strict=True)]
    often = collections.Counter(names)
    return tuple(f"{name} ({folder})" if often[name] > 1 else name for name, folder in zip(names, classes, strict=True))
