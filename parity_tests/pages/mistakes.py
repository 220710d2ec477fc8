"""``python -m parity_tests.pages.mistakes``: the page of known mistakes, of what was found when each was planted."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.readme_tables import replaced
from jaxalex import cli
from jaxalex.errors import RunError, UsageError
from netparity.diagnosis.mistakes import MISTAKES, KnownMistake

Row = Mapping[str, Any]  # one planted mistake, as ``python -m parity_tests.mistakes --json`` writes it


def page(found: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
      found: what ``python -m parity_tests.mistakes --json`` wrote.

    Raises:
      UsageError: if a mistake was planted that the catalogue does not know.
    """
    by_kind: dict[str, list[Row]] = {}
    for row in found["mistakes"]:
        by_kind.setdefault(row["kind"], []).append(row)
    unknown = [kind for kind in by_kind if kind not in MISTAKES]
    if unknown:
        raise UsageError(f"netparity/diagnosis/mistakes.py does not know {', '.join(unknown)}")
    known = [one for one in MISTAKES.values() if one.key in by_kind]
    limits = list(found["totals"]["allclose_passes"])
    parts = [
        _INTRODUCTION,
        summary(found),
        _networks(found["mistakes"]),
        _table(known, by_kind, limits),
        "## One by one",
    ]
    sections = [_section(one, by_kind[one.key]) for one in known]
    return "\n\n".join([*parts, *sections, _harmless(found["harmless"])]) + "\n"


_INTRODUCTION = """\
# Mistakes of those who port, and what netparity says of them

Each was planted where porters make it: in the port's source or in the PyTorch network, in small networks that are right
without it, and compared by `netparity.compare`. `python -m parity_tests.mistakes` does it again;
`python -m parity_tests.pages.mistakes` wrote this page of what it found."""


def summary(found: Mapping[str, Any]) -> str:
    """The totals in two sentences, for this page and the README."""
    totals, right = found["totals"], found["right"]
    planted = totals["planted"]
    passes = ", ".join(f"{count} at {float(limit):g}" for limit, count in totals["allclose_passes"].items())
    kinds = len({row["kind"] for row in found["mistakes"]})
    wrong = f", {totals['wrong']} named wrongly" if totals["wrong"] else ", none named wrongly"
    env = found["environment"]
    versions = ", ".join(f"{name} {env['versions'][name]}" for name in ("jax", "flax", "torch"))
    return (
        f"{planted} mistakes of {kinds} kinds planted: {totals['caught']} caught, {totals['located']} located at "
        f"their stage, {totals['right']} named{wrong}; {len(right['refused'])} of {right['networks']} right networks "
        f"refused. `assert_allclose` on the logits would have passed {passes}. "
        f"{env['cpu']}, {env['cores']} cores; {versions}."
    )


def _networks(rows: Sequence[Row]) -> str:
    lines = ["| network | library | planted | caught | located | named |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for name, library in dict.fromkeys((row["network"], row["library"]) for row in rows):
        own = [row for row in rows if row["network"] == name]
        lines.append(
            f"| {name} | {_LIBRARIES.get(library, library)} | {' | '.join(map(str, (len(own), *_counts(own))))} |"
        )
    return "\n".join(lines)


_LIBRARIES = {"linen": "Linen", "nnx": "NNX", "equinox": "Equinox"}


def _harmless(rows: Sequence[Row]) -> str:
    """What looks like a mistake and is none."""
    lines = ["## What changes nothing", "", "These look like mistakes, and the networks pass with them:", ""]
    for row in rows:
        refused = "" if row["passed"] else f" **Refused:** {row['diagnosis']}"
        lines.append(f"- {row['name']}, in {row['network']}: {row['why']}.{refused}")
    return "\n".join(lines)


def _table(known: Sequence[KnownMistake], by_kind: Mapping[str, Sequence[Row]], limits: Sequence[str]) -> str:
    """By kind, what was found, and how many a test of the logits would have let pass."""
    titles = [f"passes at {float(limit):g}" for limit in limits]
    lines = [
        "## What a test of the logits would have said",
        "",
        "`np.testing.assert_allclose` on the logits in evaluation mode and float32, with `rtol` and `atol` alike:",
        "",
        f"| mistake | planted | caught | located | named | {' | '.join(titles)} |",
        "| --- |" + " ---: |" * (4 + len(limits)),
    ]
    for one in known:
        rows = by_kind[one.key]
        passes = [sum(row["allclose"][limit] for row in rows) for limit in limits]
        counts = [len(rows), *_counts(rows), *passes]
        lines.append(f"| [{one.title}](#{_anchor(one.title)}) | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def _counts(rows: Sequence[Row]) -> tuple[int, int, int]:
    return (
        sum(row["caught"] for row in rows),
        sum(row["located"] for row in rows),
        sum(row["verdict"] == "right" for row in rows),
    )


def _section(one: KnownMistake, rows: Sequence[Row]) -> str:
    shown = next((row for row in rows if row["verdict"] == "right" and row["located"]), rows[0])
    return "\n".join(
        [
            f"### {one.title}",
            "",
            f"{shown['name']}, in {shown['network']} ({_SIDES[shown['side']]}):",
            "",
            f"    {shown['diagnosis'] or 'nothing is said'}",
            "",
            one.why,
            "",
            f"**Mend:** {one.mend} [Source]({one.source})",
        ]
    )


_SIDES = {"jax": "JAX", "torch": "PyTorch"}


def _anchor(title: str) -> str:
    """As GitHub makes it of a heading.

    >>> _anchor("“SAME” at a stride, or not")
    'same-at-a-stride-or-not'
    """
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "python -m parity_tests.pages.mistakes",
        "Writes the page of known mistakes, and their totals between <!-- mistakes:begin --> and end in the README.",
    )
    folder = pathlib.Path("docs")
    parser.add_argument(
        "--json", type=pathlib.Path, default=folder / "mistakes.json", metavar="FILE", help="what was found"
    )
    parser.add_argument(
        "--page", type=pathlib.Path, default=folder / "mistakes.md", metavar="FILE", help="to be written"
    )
    parser.add_argument(
        "--readme", type=pathlib.Path, metavar="FILE", help="which has the markers (default: left alone)"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page is out of date")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see ``--help``. Returns the exit code."""

    def command() -> None:
        args = _parser().parse(argv)
        try:
            found = json.loads(_read(args.json))
            wanted = {args.page: page(found)}
            if args.readme is not None:
                wanted[args.readme] = replaced(_read(args.readme), "mistakes", summary(found))
        except json.JSONDecodeError as error:
            raise UsageError(f"{args.json}: not JSON ({error})") from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UsageError(f"{args.json}: not what was planted ({type(error).__name__}: {error})") from error
        for path, text in wanted.items():
            if args.check and (not path.exists() or _read(path) != text):
                raise RunError(f"{path} is out of date: run python -m parity_tests.pages.mistakes")
            if not args.check:
                path.write_text(text, encoding="utf-8")

    return cli.run(command)


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


if __name__ == "__main__":
    cli.end(main())
