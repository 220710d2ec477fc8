"""``python -m parity_tests.pages.side_by_side``: the excerpts in ``docs/side-by-side.md``, taken from the code by name.

In a page, ``<!-- code: FILE NAME … -->`` asks for a function, class or constant of a Python file; what stands
between it and ``<!-- /code -->`` is replaced by the definition as it is today, without its docstring.
"""

from __future__ import annotations

import ast
import pathlib
import re
import textwrap
from collections.abc import Iterator, Sequence

from jaxalex import cli
from jaxalex.errors import RunError, UsageError

PAGE = pathlib.Path("docs/side-by-side.md")
_BLOCK = re.compile(r"<!-- code: (\S+) ([^>]+?) -->\n(.*?)<!-- /code -->", re.DOTALL)


def excerpt(source: str, name: str) -> str:
    """A definition in Python source, with its decorators, without its docstring, not indented.

    Args:
      source: of a whole module.
      name: of a function, class or constant; ``"Class.method"`` for a member.

    Raises:
      UsageError: if there is no such definition.

    >>> print(excerpt('class A:\\n    def f(self):\\n        "Doc."\\n        return 1', "A.f"))
    def f(self):
        return 1
    """
    node: ast.AST = ast.parse(source)
    for part in name.split("."):
        found = [child for child in ast.iter_child_nodes(node) if part in _names(child)]
        if not found:
            raise UsageError(f"no definition of {name}")
        node = found[-1]
    assert isinstance(node, ast.stmt)
    decorators = getattr(node, "decorator_list", [])
    first = min(item.lineno for item in [node, *decorators])
    numbers = set(range(first, (node.end_lineno or first) + 1)) - set(_docstring_lines(node))
    lines = source.splitlines()
    return textwrap.dedent("\n".join(lines[number - 1] for number in sorted(numbers))).rstrip()


def _names(node: ast.AST) -> list[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
    return []


def _docstring_lines(node: ast.AST) -> Iterator[int]:
    """The lines of the docstrings of a definition and of all in it, and the blank line after each."""
    for child in ast.walk(node):
        if not isinstance(child, ast.FunctionDef | ast.ClassDef) or ast.get_docstring(child) is None:
            continue
        text = child.body[0]
        end = text.end_lineno or text.lineno
        yield from range(text.lineno, end + 1)
        if len(child.body) > 1 and child.body[1].lineno > end + 1:
            yield end + 1


def filled(page: str, root: pathlib.Path) -> str:
    """A page with each excerpt as the code is now.

    Args:
      page: Markdown.
      root: the folder that the page's file names start from; the page itself lies in a folder of it.

    Raises:
      UsageError: naming the file or definition that is not there, or if the page asks for nothing.
    """

    def block(match: re.Match[str]) -> str:
        file, names = match[1], match[2].split()
        try:
            source = (root / file).read_text(encoding="utf-8")
            code = "\n\n\n".join(excerpt(source, name) for name in names)
        except OSError as error:
            raise UsageError(f"{file}: {error.strerror}") from error
        except UsageError as error:
            raise UsageError(f"{file}: {error}") from error
        listed = ", ".join(f"`{name}`" for name in names)
        return (
            f"<!-- code: {file} {match[2]} -->\n"
            f"[`{file}`](../{file}), {listed}:\n\n```python\n{code}\n```\n<!-- /code -->"
        )

    if page.count("<!-- code:") != len(_BLOCK.findall(page)) or not _BLOCK.search(page):
        raise UsageError("needs blocks of <!-- code: FILE NAME … --> and <!-- /code -->, each closed")
    return _BLOCK.sub(block, page)


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "python -m parity_tests.pages.side_by_side",
        "Brings the excerpts in a page up to date with the code. Run it in the project's root folder.",
    )
    parser.add_argument("page", nargs="?", type=pathlib.Path, default=PAGE, help=f"Markdown (default {PAGE})")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if an excerpt is out of date")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see ``--help``. Returns the exit code."""

    def command() -> None:
        args = _parser().parse(argv)
        if not args.page.is_file():
            raise UsageError(f"{args.page}: no such file")
        page = args.page.read_text(encoding="utf-8")
        try:
            wanted = filled(page, pathlib.Path.cwd())
        except UsageError as error:
            raise UsageError(f"{args.page}: {error}") from error
        if args.check and wanted != page:
            raise RunError(f"{args.page} is out of date: run python -m parity_tests.pages.side_by_side")
        if not args.check:
            args.page.write_text(wanted, encoding="utf-8")

    return cli.run(command)


if __name__ == "__main__":
    cli.end(main())
