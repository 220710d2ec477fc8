"""``python -m parity_tests.mistakes``: plants every mistake and prints what is said of it, and the totals."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from jaxalex import cli
from jaxalex.errors import RunError, UsageError
from jaxalex.system import files, settings


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "python -m parity_tests.mistakes",
        "Plants the mistakes that porters make in networks that pass, and judges what netparity says of each.",
        "Exit code 1 also means that a mistake was missed, told wrongly, or a right network refused.",
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="plant in these alone (default: all)")
    parser.add_argument("--only", metavar="TEXT", help="plant the mistakes with TEXT in their name or kind")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="of each right network (default 1)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write all that was found there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return cli.run(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> None:
    args = _parser().parse(argv)
    if not 0 <= args.seeds <= 1000:
        raise UsageError(f"--seeds must be at least 0 and at most 1000, not {args.seeds}")
    files.check_output("--json", args.json)
    settings.start_jax()
    from netparity.report.environment import environment
    from parity_tests.mistakes import score
    from parity_tests.mistakes.catalogue import MISTAKES
    from parity_tests.mistakes.networks import NETWORKS

    unknown = [name for name in args.networks if name not in NETWORKS]
    if unknown:
        raise UsageError(f"there is no network {', '.join(unknown)}; there are {', '.join(NETWORKS)}")
    names, text = args.networks or list(NETWORKS), (args.only or "").lower()
    chosen = [one for one in MISTAKES if one.network in names and (text in one.name.lower() or text in one.kind)]
    if not chosen:
        raise UsageError(f"no mistake in {', '.join(names)} has {args.only!r} in its name or kind")
    right = [] if args.only else [NETWORKS[name] for name in names]
    found = score.score(chosen, right, args.seeds, _progress, _print)
    _progress("")
    print(score.summary(found), flush=True)
    if args.json:
        found["environment"] = environment()
        files.write_whole(args.json, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    if found["totals"]["caught"] < found["totals"]["planted"] or found["totals"]["wrong"] or found["right"]["refused"]:
        raise RunError("a mistake was missed or told wrongly, or a right network refused")


def _print(row: dict[str, Any]) -> None:
    _progress("")
    where = row["stage"] if row["located"] else f"{row['stage']}, found at {row['found']}"
    passes = [tolerance for tolerance, passed in row["allclose"].items() if passed]
    close = f"; assert_allclose passes at {', '.join(passes)}" if passes else ""
    print(f"{row['network']}, {row['side']}: {row['name']} ({where}){close}")
    print(f"    {row['verdict']}: {row['diagnosis']}", flush=True)


def _progress(text: str) -> None:
    """One line on stderr that overwrites itself; nothing where that is no terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.end(main())
