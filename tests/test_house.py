"""The rules of the house: who may import whom, and that starting costs nothing."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# A module imports from lower floors only.
FLOORS = {
    0: {"errors", "files", "lock", "interrupt", "memory", "config", "compilation_cache"}
    | {"layers", "winograd", "environment", "initializers", "devices", "cli"},
    1: {"models", "optim", "convert", "data"},
    2: {"state", "steps", "epochs", "weights", "checkpoint", "report"},
    3: {"progress", "loop", "pretrained"},
    4: {"train", "evaluate", "predict", "summary"},
}
FLOOR = {module: floor for floor, modules in FLOORS.items() for module in modules}
# On one floor, in this order.
SAME_FLOOR = {(module, "errors") for module in ("config", "cli", "devices", "files", "lock", "compilation_cache")} | {
    ("layers", "winograd"),
    ("config", "files"),
    ("steps", "state"),
    ("epochs", "steps"),
    ("epochs", "state"),
    ("checkpoint", "steps"),
    ("checkpoint", "state"),
    ("loop", "progress"),
    ("predict", "evaluate"),
}


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


def _files(package: str) -> list[pathlib.Path]:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    return files


@pytest.mark.parametrize(
    ("package", "banned"),
    [
        ("jaxalex", {"torch", "torchvision", "torch_ref", "parity_tests", "benchmarks", "tensorflow"}),
        ("torch_ref", {"jax", "jaxlib", "flax", "optax", "orbax", "jaxalex", "parity_tests", "benchmarks"}),
        ("tests", {"torch", "torchvision", "torch_ref"}),
    ],
)
def test_who_never_imports_whom(package: str, banned: set[str]) -> None:
    for path in _files(package):
        assert not {name.split(".")[0] for name in _imports(path)} & banned, path


def test_imports_go_down_the_floors() -> None:
    for path in _files("jaxalex"):
        relative = path.relative_to(ROOT / "jaxalex")
        module = relative.parts[0].removesuffix(".py")
        if module == "__init__":
            continue
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] != "jaxalex" or len(parts) < 2 or parts[1] == module:
                continue
            down = FLOOR[parts[1]] < FLOOR[module] or (module, parts[1]) in SAME_FLOOR
            assert down, f"{path} (floor {FLOOR[module]}) imports {name} (floor {FLOOR[parts[1]]})"


def test_every_module_has_a_floor() -> None:
    found = {path.relative_to(ROOT / "jaxalex").parts[0].removesuffix(".py") for path in _files("jaxalex")}
    assert found - {"__init__"} == set(FLOOR)


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "summary"])
def test_help_imports_nothing_heavy(command: str) -> None:
    code = f"import sys, jaxalex.{command} as c; code = c.main(['--help']); print(*sorted(sys.modules)); sys.exit(code)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    text, modules = result.stdout.rsplit("\n", 2)[0], result.stdout.splitlines()[-1].split()
    assert f"python -m jaxalex.{command}" in text
    assert "Exit codes: 0 done" in text
    assert not {"numpy", "jax", "flax", "optax", "orbax", "matplotlib", "sklearn", "PIL"} & set(modules)


def test_jaxalex_works_without_torch() -> None:
    """With torch made impossible to import, everything of jaxalex is importable all the same."""
    code = (
        "import sys; sys.modules['torch'] = None; import importlib, pkgutil, jaxalex\n"
        "for m in pkgutil.walk_packages(jaxalex.__path__, 'jaxalex.'): importlib.import_module(m.name)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
