"""The rules of the house: who may import whom, and that starting costs nothing."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def _imports(path: pathlib.Path) -> set[str]:
    """Dotted names of everything that a file imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_who_imports_whom() -> None:
    """The contracts stand in pyproject.toml; every module of a package that has floors must have one."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    result = subprocess.run([*command, "--no-cache"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stdout
    assert "kept, 0 broken." in result.stdout


def test_the_tests_of_jaxalex_do_without_pytorch() -> None:
    files = [path for path in (ROOT / "tests").rglob("*.py") if "torch_ref" not in path.parts]
    assert files
    for path in files:
        assert not {name.split(".")[0] for name in _imports(path)} & {"torch", "torchvision", "torch_ref"}, path


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "summary"])
def test_help_imports_nothing_heavy(command: str) -> None:
    code = f"import sys, jaxalex.{command} as c; code = c.main(['--help']); print(*sorted(sys.modules)); sys.exit(code)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    text, modules = result.stdout.rsplit("\n", 2)[0], result.stdout.splitlines()[-1].split()
    assert f"python -m jaxalex.{command}" in text
    assert "Exit codes: 0 done" in text
    assert not {"numpy", "jax", "flax", "optax", "orbax", "matplotlib", "sklearn", "PIL"} & set(modules)


@pytest.mark.parametrize("absent", ["torch", "jaxtyping"])
def test_jaxalex_works_without(absent: str) -> None:
    """With it made impossible to import, everything of jaxalex is importable all the same, and a network runs."""
    code = (
        f"import sys; sys.modules[{absent!r}] = None; import importlib, pkgutil, jax, jaxalex\n"
        "for m in pkgutil.walk_packages(jaxalex.__path__, 'jaxalex.'): importlib.import_module(m.name)\n"
        "from jaxalex import models; model = models.build('cifar10', width=0.05)\n"
        "print(jax.eval_shape(lambda key: model.init_with_output(key, jax.numpy.ones((2, 16, 24, 3)))[0],"
        " jax.random.key(0)).shape)"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "(2, 10)\n"
