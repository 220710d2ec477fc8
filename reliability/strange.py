"""Puts something else in the place of a file or folder: a link, a named pipe, a socket, a device, a folder, a file."""

from __future__ import annotations

import os
import pathlib
import random
import shutil
import stat


def replace(path: pathlib.Path, outside: pathlib.Path, rng: random.Random) -> str:
    """Replaces a file or folder by something of another kind.

    Args:
      path: what is replaced.
      outside: a folder, made anew, for what links lead to: like ``path`` and elsewhere, so that to follow them works.
      rng: decides what it is replaced by.

    Returns:
      what that is, for people.
    """
    shutil.rmtree(outside, ignore_errors=True)
    (outside / "folder").mkdir(parents=True)
    (outside / "folder" / "precious").write_bytes(b"mine")
    (outside / "file").write_bytes(b"mine")
    like = outside / "like"
    (shutil.copytree if path.is_dir() else shutil.copyfile)(path, like)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    what = rng.choice(("link", "link", "link", "pipe", "socket", "device", "other kind"))
    if what == "link":
        nowhere, itself, device = outside / "nothing", path, pathlib.Path("/dev/zero")
        to = rng.choice((like, like, outside / "file", outside / "folder", nowhere, itself, device))
        path.symlink_to(to)
        return f"a link to {to}"
    if what == "other kind":
        if like.is_dir():
            path.write_bytes(b"a file")
        else:
            path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    else:
        try:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero
        except OSError:  # only root may
            path.symlink_to("/dev/zero")
    return what


def content(folder: pathlib.Path) -> dict[str, tuple[int, bytes]]:
    """Mode and bytes of everything in a folder, by name."""
    return {
        path.relative_to(folder).as_posix(): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }
