"""``python -m benchmarks.readme_tables``: the tables of a page, generated from results."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import result, tables
from jaxalex import cli
from jaxalex.errors import RunError, UsageError
from jaxalex.system import files

Result = Mapping[str, Any]


def throughput(results: Sequence[Result]) -> str:
    """The ratio tables, one for each device; a device without a result is not measured."""

    def one(found: Result) -> str:
        table = tables.markdown(tables.ratio_table(found["ratios"]))
        return f"{table}\n\n{tables.disturbance(found['rows'])}{_measured_on(found)}"

    return _by_device(results, one)


def speed(results: Sequence[Result]) -> str:
    """Every ratio in one small table for each device, over all that was measured on one of its kind."""
    parts = []
    for name in ("cpu", "gpu"):
        own = [found for found in results if _device(found) == name]
        if own:
            quiet = "".join(tables.disturbance(found["rows"]) for found in own)
            machines = "; and on ".join(tables.machine(found["environment"]) for found in own)
            parts.append(f"{tables.markdown(tables.speed_table(own))}\n\n{quiet}Measured on {machines}.")
        else:
            parts.append(f"On a {name.upper()}: {tables.NOT_MEASURED}.")
    return "\n\n".join(parts)


def throughput_rows(results: Sequence[Result]) -> str:
    """Every row, its parts and the chip, one set for each device."""

    def one(found: Result) -> str:
        parts = (
            tables.rows_table(found["rows"]),
            tables.parts_table(found["rows"]),
            tables.roofline_table(found["roofline"]),
        )
        return "\n\n".join([*map(tables.markdown, parts), _measured_on(found)])

    return _by_device(results, one)


def end_to_end(results: Sequence[Result]) -> str:
    """Whole training runs, by device."""

    def one(found: Result) -> str:
        flags = found["environment"]["flags"]
        table = tables.markdown(tables.end_to_end_table(found["rows"]))
        shape = f"{flags['model']} on {flags['dataset']}, batch {flags['batch_size']}, width {flags['width']:g}"
        shown = f"{table}\n\n{shape}. {_measured_on(found)}"
        curve = "![Seconds of a training epoch against the size of the training set](performance-epochs-cpu.png)"
        return f"{shown}\n\n{curve}" if _device(found) == "cpu" else shown

    return _by_device(results, one)


def start_up(results: Sequence[Result]) -> str:
    """Seconds to the first step, by device."""

    def one(found: Result) -> str:
        setting = found["start_up"]["setting"]
        shape = f"{setting['model']}, batch {setting['batch_size']}, width {setting['width']:g}, {setting['precision']}"
        table = tables.markdown(tables.start_up_table(found["start_up"]))
        return f"{table}\n\n{shape}. {_measured_on(found)}"

    return _by_device(results, one)


# A part of a page, by the name in its markers: which key tells that a result is for it, and what it shows.
PARTS: dict[str, tuple[str, Callable[[Sequence[Result]], str]]] = {
    "speed": ("ratios", speed),
    "throughput": ("ratios", throughput),
    "throughput-rows": ("ratios", throughput_rows),
    "end-to-end": ("runs", end_to_end),
    "start-up": ("start_up", start_up),
}


def _by_device(results: Sequence[Result], one: Callable[[Result], str]) -> str:
    parts = []
    for name in ("cpu", "gpu"):
        own = [found for found in results if _device(found) == name]
        shown = "\n\n".join(map(one, own)) or tables.NOT_MEASURED[0].upper() + tables.NOT_MEASURED[1:] + "."
        parts.append(f"**{name.upper()}**\n\n{shown}")
    return "\n\n".join(parts)


def _device(found: Result) -> str:
    return "gpu" if found["environment"].get("gpu") else "cpu"


def _measured_on(found: Result) -> str:
    flags = found["environment"]["flags"]
    quick = "A smoke run (`--quick`), no benchmark: networks at width "
    kind = f"{quick}{flags['width']:g}. " if flags.get("quick") else ""
    return f"{kind}Measured on {tables.machine(found['environment'])}."


def replaced(page: str, name: str, content: str) -> str:
    """A page with ``content`` between the markers of a part.

    Raises:
      UsageError: unless it has each marker once, in order.

    >>> print(replaced("a\\n<!-- x:begin -->\\nold\\n<!-- x:end -->", "x", "new"))
    a
    <!-- x:begin -->
    <BLANKLINE>
    new
    <BLANKLINE>
    <!-- x:end -->
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(end) < page.index(begin):
        raise UsageError(f"needs one line {begin} and after it one line {end}")
    before, rest = page.split(begin)
    return f"{before}{begin}\n\n{content}\n\n{end}{rest.split(end)[1]}"


def filled(page: str, results: Sequence[Result]) -> str:
    """A page with every part between its markers for which there is a result; the others stay as they are.

    Raises:
      UsageError: if markers do not come in pairs, or the page has none for these results.
    """
    done = False
    for name, (key, write) in PARTS.items():
        own = [found for found in results if key in found]
        if own and f"<!-- {name}:begin -->" in page:
            page, done = replaced(page, name, write(own)), True
    if not done:
        raise UsageError(
            "has no markers for these results; known are " + ", ".join(f"<!-- {n}:begin -->" for n in PARTS)
        )
    return page


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "python -m benchmarks.readme_tables",
        f"Writes tables between a page's markers, from results of the benchmarks. Markers: {', '.join(PARTS)}.",
    )
    parser.add_argument("files", nargs="+", type=pathlib.Path, metavar="FILE", help="RESULT.json …, and last the page")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the two disagree")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see ``--help``. Returns the exit code."""

    def command() -> None:
        args = _parser().parse(argv)
        *sources, page = args.files
        if not sources:
            raise UsageError("needs at least one RESULT.json, and last the page")
        if not args.check:
            files.check_output("PAGE", page)
        results = [result.read(source) for source in sources]
        try:
            text = page.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{page}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
        try:
            wanted = filled(text, results)
        except UsageError as error:
            raise UsageError(f"{page}: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"not results of these benchmarks ({type(error).__name__}: {error})") from error
        if args.check and wanted != text:
            names = ", ".join(map(str, sources))
            raise RunError(f"{page} disagrees with {names}: run this again without --check")
        if not args.check:
            page.write_text(wanted, encoding="utf-8")

    return cli.run(command)


if __name__ == "__main__":
    cli.end(main())
