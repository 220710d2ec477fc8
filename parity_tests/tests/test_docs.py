"""The pages for learners, held against the code and against the runs that they report."""

from __future__ import annotations

import importlib
import json
import math
import pathlib
import re
import types

import pytest

from jaxalex.errors import UsageError
from parity_tests.pages import side_by_side

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("softmax_experiment")


def test_the_side_by_side_page_shows_the_code_as_it_is(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert side_by_side.main(["--check"]) == 0, capsys.readouterr().err


def test_a_page_that_is_out_of_date_is_found_and_mended(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    (tmp_path / "code.py").write_text("def f():\n    return 1\n")
    page = tmp_path / "docs" / "page.md"
    page.write_text("before\n<!-- code: code.py f -->\n<!-- /code -->\nafter\n")
    monkeypatch.chdir(tmp_path)
    assert side_by_side.main(["docs/page.md", "--check"]) == 1
    assert side_by_side.main(["docs/page.md"]) == 0
    assert side_by_side.main(["docs/page.md", "--check"]) == 0
    lines = page.read_text().splitlines()
    assert lines == [
        "before",
        "<!-- code: code.py f -->",
        "[`code.py`](../code.py), `f`:",
        "",
        "```python",
        "def f():",
        "    return 1",
        "```",
        "<!-- /code -->",
        "after",
    ]
    (tmp_path / "code.py").write_text("def f():\n    return 2\n")
    assert side_by_side.main(["docs/page.md", "--check"]) == 1
    assert "out of date" in capsys.readouterr().err


def test_an_excerpt_keeps_decorators_and_comments_and_drops_docstrings():
    source = '''
TABLE: tuple[int, ...] = (
    1,  # one
)


class A:
    """Doc."""

    size: int = 3

    @property
    def f(self):
        """Doc of f,

        two lines.
        """

        # why
        return "not a docstring"
'''
    assert side_by_side.excerpt(source, "TABLE") == "TABLE: tuple[int, ...] = (\n    1,  # one\n)"
    method = '@property\ndef f(self):\n    # why\n    return "not a docstring"'
    assert side_by_side.excerpt(source, "A.f") == method
    assert side_by_side.excerpt(source, "A").startswith("class A:\n    size: int = 3\n\n    @property")
    with pytest.raises(UsageError, match=r"no definition of A\.g"):
        side_by_side.excerpt(source, "A.g")


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("nothing asked for", "needs blocks"),
        ("<!-- code: jaxalex/training/optim.py sgd -->\nnever closed", "needs blocks"),
        ("<!-- code: jaxalex/absent.py sgd -->\n<!-- /code -->", "jaxalex/absent.py: No such file"),
        (
            "<!-- code: jaxalex/training/optim.py adam -->\n<!-- /code -->",
            "optim.py: no definition of adam",
        ),
    ],
)
def test_what_cannot_be_filled_is_one_line_and_exit_code_2(page, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (tmp_path / "page.md").write_text(page)
    assert side_by_side.main([str(tmp_path / "page.md")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert (tmp_path / "page.md").read_text() == page


def test_every_link_of_the_pages_leads_somewhere():
    for page in (ROOT / "docs" / "side-by-side.md", ROOT / "docs" / "softmax.md"):
        prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        links = re.findall(r"\]\(([^)#:]+)\)", prose)
        assert links
        assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_softmax_page_shows_the_figures_that_were_measured(experiment):
    results = json.loads((ROOT / "docs" / "softmax.json").read_text())
    page = (ROOT / "docs" / "softmax.md").read_text(encoding="utf-8")
    assert experiment.table(results) in page
    epochs = {softmax: experiment.epochs_to(results, 90, softmax) for softmax in (False, True)}
    words = " ".join(page.split())
    assert f"passes 90 % after {min(epochs[False])} to {max(epochs[False])} epochs" in words
    assert f"it takes {min(epochs[True])} to {max(epochs[True])}," in words
    environment, setup = results["environment"], results["setup"]
    for figure in (
        f"{environment['cpu'].split(' with ')[0]}, {environment['cores']} cores",
        *(f"{name} {environment['versions'][name]}" for name in ("jax", "flax", "optax", "torch")),
        f"{setup['num_epochs']} epochs",
        f"width {setup['width']:g}",
        f"{setup['train_size']:,} training images",
    ):
        assert figure in words, figure


def test_the_runs_on_the_softmax_page_are_complete(experiment):
    results = json.loads((ROOT / "docs" / "softmax.json").read_text())
    kinds = {(run["framework"], run["softmax"], run["seed"]) for run in results["runs"]}
    assert kinds == {(f, s, seed) for f in ("jax", "torch") for s in (False, True) for seed in range(3)}
    for run in results["runs"]:
        assert len(run["eval"]) == results["setup"]["num_epochs"] + 1
        if run["softmax"]:
            assert min(row["loss"] for row in run["eval"]) > experiment.FLOOR


def test_within_a_seed_both_frameworks_start_from_the_same_parameters():
    runs = json.loads((ROOT / "docs" / "softmax.json").read_text())["runs"]
    starts = {(run["framework"], run["softmax"], run["seed"]): run["eval"][0]["loss"] for run in runs}
    for (_, softmax, seed), loss in starts.items():
        assert loss == pytest.approx(starts["jax", softmax, seed], rel=1e-4)


def test_the_floor_is_that_of_a_softmax_taken_for_logits(experiment):
    import jax
    import optax

    certain = jax.nn.softmax(1000 * jax.numpy.eye(10)[:1])
    floor = optax.softmax_cross_entropy_with_integer_labels(certain, jax.numpy.zeros(1, int))
    assert float(floor[0]) == pytest.approx(experiment.FLOOR, abs=1e-6)
    assert math.isclose(experiment.FLOOR, 1.461, abs_tol=5e-4)


def test_a_softmax_inside_makes_the_first_gradient_a_tenth():
    import torch

    from torch_ref.training import SoftmaxCrossEntropyLoss

    grads: list[torch.Tensor] = []
    for criterion in (torch.nn.CrossEntropyLoss(), SoftmaxCrossEntropyLoss()):
        logits = torch.zeros(1, 10, dtype=torch.float64, requires_grad=True)
        grads += torch.autograd.grad(criterion(logits, torch.tensor([3])), logits)
    torch.testing.assert_close(grads[1], grads[0] / 10)
