"""Pages and results: the tables in them are those of the committed files, and misuse is told."""

from __future__ import annotations

import json
import pathlib
import re

import pytest

from benchmarks import end_to_end, readme_tables
from benchmarks.process import ROOT

_RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
_TABLED = [path for path in _RESULTS if {"ratios", "runs", "start_up"} & set(json.loads(path.read_text()))]


@pytest.mark.parametrize("page", ["README.md", "docs/performance.md"])
def test_the_page_agrees_with_the_committed_results(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _TABLED
    code = readme_tables.main(["--check", *map(str, _TABLED), str(ROOT / page)])
    assert code == 0, capsys.readouterr().err


@pytest.mark.parametrize("path", _RESULTS, ids=lambda path: path.name)
def test_results_name_no_machine_and_no_path(path: pathlib.Path) -> None:
    assert not re.search(r"/(home|root|tmp|usr|work|mnt|opt)/", path.read_text())


def _result(**environment: object) -> dict[str, object]:
    entry = {"model": "paper", "mode": "train", "batch_size": 32, "precision": "float32", "device": "cpu"}
    entry |= {"jax_images_per_second": 12.5, "torch_images_per_second": 10.0, "torch_variant": "eager", "ratio": 1.25}
    described = {
        "cpu": "A processor",
        "cores": 2,
        "gpu": None,
        "versions": {"jax": "1.2", "torch": "3.4"},
        "flags": {},
        "git_revision": "0123456789abcdef",
        "date": "2000-01-01",
        **environment,
    }
    return {"environment": described, "roofline": {}, "rows": [], "ratios": [entry]}


@pytest.fixture
def files(tmp_path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """A made-up result and a page for it."""
    source, page = tmp_path / "result.json", tmp_path / "README.md"
    source.write_text(json.dumps(_result()))
    page.write_text("# A page\n\n<!-- throughput:begin -->\nold\n<!-- throughput:end -->\n\nThe end.\n")
    return source, page


def _run(*arguments: object) -> int:
    return readme_tables.main([str(argument) for argument in arguments])


def test_what_was_written_passes_the_check_and_the_rest_stays(files: tuple[pathlib.Path, pathlib.Path]) -> None:
    source, page = files
    assert _run(source, page, "--check") == 1
    assert "old" in page.read_text()
    assert _run(source, page) == 0
    assert _run(source, page, "--check") == 0
    text = page.read_text()
    assert text.startswith("# A page\n\n<!-- throughput:begin -->\n\n**CPU**\n\n| network | mode |")
    assert "| paper | train | 32 | float32 | 12.5 | 10.0 | eager | 1.25 |" in text
    assert "Measured on A processor, 2 cores; jax 1.2, torch 3.4; 2000-01-01, revision 0123456789ab." in text
    assert text.endswith("<!-- throughput:end -->\n\nThe end.\n")
    page.write_text(text.replace("1.25", "1.35"))
    assert _run(source, page, "--check") == 1


def test_a_device_without_a_result_is_not_measured(files: tuple[pathlib.Path, pathlib.Path]) -> None:
    source, page = files
    assert _run(source, page) == 0
    assert "**GPU**\n\nNot measured." in page.read_text()
    on_gpu = source.with_name("gpu.json")
    on_gpu.write_text(json.dumps(_result(gpu="A GPU")))
    assert _run(source, on_gpu, page) == 0
    assert "Not measured" not in page.read_text()
    assert "Measured on A GPU; A processor" in page.read_text()


def test_the_small_table_spans_what_was_measured(tmp_path: pathlib.Path) -> None:
    first, second, page = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "README.md"
    slower = _result(cpu="Another")
    slower["ratios"] = [{**_result()["ratios"][0], "ratio": 0.75}]  # type: ignore[index]
    first.write_text(json.dumps(_result()))
    second.write_text(json.dumps(slower))
    page.write_text("<!-- speed:begin -->\n<!-- speed:end -->\n")
    assert _run(first, page) == 0
    assert "| paper, training | 1.25 |" in page.read_text()
    assert _run(first, second, page) == 0
    text = page.read_text()
    assert "| JAX images/s over PyTorch's | batch 32 |" in text
    assert "| paper, training | 0.75–1.25 |" in text
    assert (
        "Measured on A processor, 2 cores; jax 1.2, torch 3.4; 2000-01-01, revision 0123456789ab; and on Another"
        in text
    )
    assert "On a GPU: not measured." in text


def test_a_smoke_run_says_what_it_is(files: tuple[pathlib.Path, pathlib.Path]) -> None:
    source, page = files
    source.write_text(json.dumps(_result(flags={"quick": True, "width": 0.05})))
    assert _run(source, page) == 0
    assert "A smoke run (`--quick`), no benchmark: networks at width 0.05. Measured on" in page.read_text()


def _run_of(
    framework: str, pair: int, wall: float, epochs: list[float], precision: str = "float32"
) -> dict[str, object]:
    timed = {"wall_seconds": wall, "epoch_seconds": epochs, "train_size": 100, "test_accuracy": 50.0}
    return {"framework": framework, "precision": precision, "pair": pair, **timed}


def test_end_to_end_rows_by_hand() -> None:
    runs = [
        *(_run_of("jax", 0, 20.0, [6.0, 4.0]), _run_of("torch", 0, 30.0, [10.0, 10.0])),
        *(_run_of("jax", 1, 40.0, [12.0, 8.0]), _run_of("torch", 1, 80.0, [20.0, 20.0])),
        _run_of("jax", 0, 10.0, [2.0, 2.0], "bfloat16"),
    ]
    steps = [{"framework": "jax", "precision": "float32", "images_per_second": 20.0}]
    ours, theirs, other = end_to_end.rows(runs, steps, 2)
    assert (ours["wall_seconds"], ours["n"], ours["epoch_seconds"]) == (30.0, 2, 6.0)
    assert ours["images_per_second"] == 15.0  # 200 images in 10 s and in 20 s
    assert ours["share_of_step"] == 0.75
    assert ours["outside_steps"] == pytest.approx(2 / 3)  # the bare steps take 10 of 30 s
    assert ours["ratio"] == 1.75  # 30/20 and 80/40
    assert theirs["ratio"] is None
    assert theirs["share_of_step"] is None
    assert other["precision"] == "bfloat16"
    assert other["ratio"] is None  # PyTorch ran in float32


def test_pages_of_whole_runs_and_start_up(tmp_path: pathlib.Path) -> None:
    page, whole, start = tmp_path / "page.md", tmp_path / "runs.json", tmp_path / "start.json"
    page.write_text(
        "".join(f"<!-- {n}:begin -->\n<!-- {n}:end -->\n" for n in ("end-to-end", "start-up", "throughput"))
    )
    flags = {"model": "cifar10", "dataset": "digits", "batch_size": 32, "width": 1.0}
    environment = _result(flags=flags)["environment"]
    rows = end_to_end.rows([_run_of("jax", 0, 20.0, [6.0, 4.0]), _run_of("torch", 0, 30.0, [9.0, 9.0])], [], 2)
    whole.write_text(json.dumps({"environment": environment, "runs": [1], "rows": rows}))
    first = [{"what": "JAX, cached", "seconds": 3.04, "quartiles": [3.0, 3.1], "n": 3}]
    shown = {"setting": {"model": "cifar10", "width": 1.0, "batch_size": 32, "precision": "float32"}}
    start_up = {**shown, "first_step": first, "help": [{"what": "x --help", "seconds": 0.1, "quartiles": None, "n": 1}]}
    start.write_text(json.dumps({"environment": environment, "start_up": start_up}))
    assert _run(whole, start, page) == 0
    text = page.read_text()
    assert "| jaxalex.train | float32 | 100 | 2 | 20.0 | 1 | 20.0 | – | – | 50.0 % | 1.50 |" in text
    assert "| first step: JAX, cached | 3.04 (3.00–3.10) | 3 |" in text
    assert "cifar10 on digits, batch 32, width 1. Measured on A processor" in text
    assert text.endswith("<!-- throughput:begin -->\n<!-- throughput:end -->\n")  # no result, left alone


@pytest.mark.parametrize(
    ("content", "page", "message"),
    [
        (None, None, "no such file"),
        ("{", None, "is not valid JSON"),
        ("[]", None, "is not a JSON object"),
        ('{"environment": {}, "ratios": 3}', None, "not results of these benchmarks"),
        ("good", "no markers", "has no markers for these results"),
        ("good", "<!-- throughput:end --> <!-- throughput:begin -->", "needs one line <!-- throughput:begin -->"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(
    files: tuple[pathlib.Path, pathlib.Path],
    capsys: pytest.CaptureFixture[str],
    content: str | None,
    page: str | None,
    message: str,
) -> None:
    if content is None:
        files[0].unlink()
    elif content != "good":
        files[0].write_text(content)
    if page is not None:
        files[1].write_text(page)
    before = files[1].read_text()
    assert _run(*files) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert files[1].read_text() == before
