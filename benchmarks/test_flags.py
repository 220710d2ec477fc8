"""Every number and every output file that a benchmark is given is checked before anything is measured."""

from __future__ import annotations

import importlib
import os
import pathlib
import re
from collections.abc import Sequence

import pytest

from benchmarks import result
from jaxalex.errors import UsageError

MODULES = ("benchmarks.__main__", "benchmarks.end_to_end", "benchmarks.start_up", "benchmarks.epoch_overhead")


def _flags(module: str, values: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """A command's flags that take such values, from its help."""
    assert importlib.import_module(module).main(["--help"]) == 0
    return re.findall(rf"^ +(--[a-z-]+) (?:{values})(?:,|\s)", capsys.readouterr().out, re.MULTILINE)


def _refused(module: str, argv: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert importlib.import_module(module).main(argv) == 2, argv
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("module", MODULES)
def test_every_number_that_makes_no_sense(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = _flags(module, "N|F|S|MB", capsys)
    assert {"--batch-size", "--width"} <= set(flags)
    for flag in flags:
        for value in ("nan", "inf", "-inf", "-1", "", "1e", "one", str(10**30), "9" * 5000):
            assert flag in _refused(module, [f"{flag}={value}"], capsys)
        if flag not in ("--seed", "--setting-seconds", "--time-limit"):
            assert flag in _refused(module, [f"{flag}=0"], capsys)


@pytest.mark.parametrize("module", MODULES)
def test_every_output_that_cannot_be_written(
    module: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    flags = _flags(module, "FILE", capsys)
    assert "--json" in flags
    for flag in flags:
        assert "is a folder" in _refused(module, [flag, str(tmp_path)], capsys)
        assert "is a folder" in _refused(module, [flag, ""], capsys)
        assert "there is no folder" in _refused(module, [flag, str(tmp_path / "none" / "x")], capsys)
        assert "is a file" in _refused(module, [flag, str(tmp_path / "file" / "x")], capsys)
        if os.getuid():
            assert "cannot be written to" in _refused(module, [flag, "/usr/x"], capsys)
    for other in set(flags) - {"--json"}:
        same = str(tmp_path / "x")
        assert f"are both {same}" in _refused(module, ["--json", same, other, same], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "content",
    ['{"environment": 1}', '{"environment": {}, "rows": [1], "ratios": []}', '{"environment": {}, "runs": []}', "{}"],
)
@pytest.mark.parametrize("module", MODULES[:2])
def test_only_a_result_is_resumed(
    module: str, content: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.json"
    file.write_text(content)
    assert f"{file}: not a result of this benchmark" in _refused(module, ["--resume", "--json", str(file)], capsys)
    assert file.read_text() == content


def test_cifar10_is_looked_for_first(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JAXALEX_DATA_DIR", raising=False)
    flags = ["--dataset", "cifar10"]
    assert "no data folder: give --data-dir" in _refused("benchmarks.end_to_end", flags, capsys)
    flags += ["--data-dir", str(tmp_path)]
    assert f"no cifar-10-batches-py in {tmp_path}" in _refused("benchmarks.end_to_end", flags, capsys)


def test_a_result_can_go_to_a_device(tmp_path: pathlib.Path) -> None:
    result.write(pathlib.Path("/dev/null"), {"environment": {}})
    assert not pathlib.Path("/dev/null").is_file()
    with pytest.raises(UsageError, match="there is no folder"):
        result.write(tmp_path / "none" / "x.json", {})
