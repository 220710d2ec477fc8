"""``python -m parity_tests.mistakes``: plants every mistake and prints what is said of it, and the totals."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

_WHAT = "Plants the mistakes that porters make in networks that pass, and judges what netparity says of each."


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a row for each mistake and the totals; the exit code is 1 if one is missed or a right network refused."""
    parser = argparse.ArgumentParser(prog="python -m parity_tests.mistakes", description=_WHAT)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="plant in these alone (default: all)")
    parser.add_argument("--only", metavar="NAME", help="plant the mistakes whose name has NAME in it")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write all that was found there")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="of each right network (default 1)")
    args = parser.parse_args(argv)
    from parity_tests.mistakes import score
    from parity_tests.mistakes.catalogue import MISTAKES
    from parity_tests.mistakes.networks import NETWORKS

    unknown = [name for name in args.networks if name not in NETWORKS]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; known are {', '.join(NETWORKS)}")
    networks = args.networks or list(NETWORKS)
    chosen = [one for one in MISTAKES if one.network in networks and (args.only or "").lower() in one.name.lower()]
    if not chosen:
        parser.error(f"no mistake in {', '.join(networks)} has {args.only!r} in its name")
    right = [] if args.only else [NETWORKS[name] for name in networks]
    found = score.score(chosen, right, args.seeds, _progress, _print)
    _totals(found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    missed = found["totals"]["caught"] < found["totals"]["planted"]
    return int(missed or bool(found["right"]["refused"]))


def _print(row: dict[str, Any]) -> None:
    _progress("")
    where = row["stage"] if row["located"] else f"{row['stage']}, found at {row['found']}"
    passes = [tolerance for tolerance, passed in row["allclose"].items() if passed]
    close = f"; allclose passes at {', '.join(passes)}" if passes else ""
    print(f"{row['network']} {row['side']:5} {row['name']} ({where}){close}", flush=True)
    print(f"    {row['verdict']}: {row['diagnosis']}", flush=True)


def _totals(found: dict[str, Any]) -> None:
    _progress("")
    of = found["totals"]
    print(
        f"{of['planted']} mistakes: {of['caught']} caught, {of['located']} located, diagnosed {of['right']} right, "
        f"{of['wrong']} wrong, {of['none']} not at all"
    )
    passes = ", ".join(f"{count} at {tolerance}" for tolerance, count in of["allclose_passes"].items())
    print(f"assert_allclose on the logits passes with {passes}")
    right = found["right"]
    print(f"{right['networks']} right networks: {len(right['refused'])} refused")
    for one in right["refused"]:
        print(f"    {one['network']}, seed {one['seed']}: {one['diagnosis']}")


def _progress(text: str) -> None:
    """One line on stderr that overwrites itself; nothing where that is no terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
