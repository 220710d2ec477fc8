"""``python -m parity_tests.ports``: every port beside its original, each in a process of its own, as a table."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

_WHAT = "Compares every port with its original, each in a process of its own, and prints a table."


def main() -> int:
    """Prints a row of the table for each network; the exit code is 1 if one does not pass."""
    parser = argparse.ArgumentParser(
        prog="python -m parity_tests.ports",
        description="Compares every port with its original, each in a process of its own, and prints a table.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a network (default: all)")
    parser.add_argument("--full", action="store_true", help="at their published sizes")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # one, in this process
    args = parser.parse_args()
    from parity_tests.ports import comparing

    known = comparing.FULL if args.full else comparing.SMALL
    unknown = [name for name in args.names if name not in known]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; known are {', '.join(known)}")
    if args.here:
        return _here(args.names[0], args.full)
    print("| network | library | stages | lines of the port | seconds | peak memory | |")
    print("| --- | --- | ---: | ---: | ---: | ---: | --- |", flush=True)
    codes = []
    for name in args.names or known:
        command = [sys.executable, "-m", "parity_tests.ports", "--here", name, *(["--full"] if args.full else [])]
        begin = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - begin
        print(done.stdout.strip().replace("SECONDS", f"{seconds:.0f}") or f"{name}: {done.stderr}", flush=True)
        codes.append(done.returncode)
    return int(any(codes))


def _here(name: str, full: bool) -> int:
    from parity_tests.ports import cases, comparing

    case = (comparing.FULL if full else comparing.SMALL)[name]
    result = comparing.compared(case)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    stages = len({row.stage for row in result.layers})
    verdict = "passes" if result.passed else f"FAILED: {result.diagnosis}"
    cells = (name, case.library, stages, cases.lines(case), "SECONDS", f"{peak:.1f} GB", verdict)
    print(f"| {' | '.join(map(str, cells))} |")
    return 0 if result.passed else 1


if __name__ == "__main__":
    sys.exit(main())
