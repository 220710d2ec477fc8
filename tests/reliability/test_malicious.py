"""A pickle that runs a program, put in place of every file that is read: it never runs."""

from __future__ import annotations

import contextlib
import os
import pathlib
import pickle
import shutil

import pytest

from jaxalex.errors import UsageError
from reliability.readers import READERS


class _Attack:
    def __init__(self, planted: pathlib.Path) -> None:
        self.planted = planted

    def __reduce__(self):
        return os.mkdir, (str(self.planted),)


def _attacks(planted: pathlib.Path) -> list[bytes]:
    value = {"data": b"", "labels": [_Attack(planted)]}
    return [pickle.dumps(value, protocol) for protocol in (0, 2, 5)]


def test_the_attack_works_where_it_is_let_in(tmp_path) -> None:
    for data in _attacks(tmp_path / "planted"):
        pickle.loads(data)
        (tmp_path / "planted").rmdir()


# The forged checkpoint is the run folder's, and slower to forge.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "forged checkpoint" else name for name in READERS]
)
def test_it_never_runs(tmp_path, name: str) -> None:
    reader, planted = READERS[name], tmp_path / "planted"
    (tmp_path / "whole").mkdir()
    for target in reader.make(tmp_path / "whole"):
        for data in _attacks(planted):
            copy = tmp_path / "copy"
            shutil.copytree(tmp_path / "whole", copy)
            (copy / target.relative_to(tmp_path / "whole")).write_bytes(data)
            reader.mend(copy)  # its checksum fits, as a forger's would
            with contextlib.suppress(UsageError):
                reader.read(copy)
            assert not planted.exists()
            shutil.rmtree(copy)
