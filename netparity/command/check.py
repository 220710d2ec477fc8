"""``python -m netparity check``: what a function of somebody's file finds, as a report and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import pathlib
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from netparity.command import frame
from netparity.command.frame import UsageError
from netparity.measure import ParityError

_RETURN = "it has to return what netparity.compare(…) returned"
_NOT_THEIRS = tuple(str(pathlib.Path(sysconfig.get_paths()[name])) for name in ("stdlib", "purelib", "platlib"))
_OURS = str(pathlib.Path(__file__).parents[1])


def run(target: str, out: pathlib.Path | None, repro: pathlib.Path | None) -> int:
    """Prints the report of the comparison that a function makes, and writes it down.

    Args:
      target: ``"FILE.py:FUNCTION"`` or ``"package.module:FUNCTION"``.
      out: the folder of ``report.json`` and ``report.html``; None writes none.
      repro: the folder of what reproduces the first difference; None writes none.

    Returns:
      0 if parity holds, else 1; 1 also if the function raises an exception, whose traceback is printed.

    Raises:
      UsageError: if there is no such file or function, if it cannot be called without arguments or returns something
        else, or if its networks cannot be compared.
    """
    frame.require_folder("--out", out)
    frame.require_folder("--repro", repro)
    where, colon, name = target.rpartition(":")
    if not colon or not where or not name:
        raise UsageError(f"{target} names no function: write FILE.py:FUNCTION or package.module:FUNCTION")
    with _own_imports(where):
        try:
            result = _called(_function(_imported(where), where, name), target)
        except (UsageError, BrokenPipeError):
            raise
        except ParityError as problem:
            raise UsageError(f"{target}: {problem}") from problem
        except AssertionError as problem:
            return _asserted(problem, nothing_written=out or repro)
        except SystemExit as problem:
            raise UsageError(
                f'{target} calls sys.exit: what a file does as a program belongs under if __name__ == "__main__"'
            ) from problem
        except Exception as problem:
            print("".join(_theirs(problem)), end="", file=sys.stderr)
            return 1
    return _reported(result, target, name, out, repro)


def _reported(result: Any, target: str, name: str, out: pathlib.Path | None, repro: pathlib.Path | None) -> int:
    _require_result(result, target)
    from netparity import comparison

    code = comparison.finish(getattr(result, "name", name), result, out)
    if repro is None or code != 1:
        return code
    try:
        print(f"reproduction: {result.repro(repro)}")
    except ParityError as problem:  # what differs is no stage, such as the loss
        frame.fail(f"--repro {repro}: {problem}")
    except OSError as problem:
        raise UsageError(f"--repro {repro}: {problem.filename or repro}: {problem.strerror}") from problem
    return code


def _require_result(result: Any, target: str) -> None:
    from netparity.results import Result

    if not isinstance(result, Result):
        given = "nothing" if result is None else type(result).__name__
        raise UsageError(f"{target} returned {given}: {_RETURN}")


# ---------------------------------------------------------------------------------------------------- the function


@contextlib.contextmanager
def _own_imports(where: str) -> Iterator[None]:
    """Inside, a file's neighbours can be imported, as if it were run; of a package, what lies in this folder."""
    before = list(sys.path)
    sys.path.insert(0, str(pathlib.Path(where).resolve().parent) if _is_file(where) else str(pathlib.Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before


def _is_file(where: str) -> bool:
    return where.endswith(".py") or "/" in where or os.sep in where or pathlib.Path(where).is_file()


def _imported(where: str) -> ModuleType:
    if not _is_file(where):
        try:
            return importlib.import_module(where)
        except ModuleNotFoundError as problem:
            if problem.name is None or not f"{where}.".startswith(f"{problem.name}."):
                raise  # a module that theirs imports
            raise UsageError(f"there is no module {problem.name}, seen from {pathlib.Path.cwd()}") from problem
        except ValueError as problem:  # "..", or an empty name
            raise UsageError(f"{where} is no module: write FILE.py:FUNCTION or package.module:FUNCTION") from problem
    path = pathlib.Path(where)
    if not path.is_file():
        raise UsageError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: is no Python file: its name has to end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses look there for the module that they are in
    spec.loader.exec_module(module)
    return module


def _function(module: ModuleType, where: str, name: str) -> Callable[[], Any]:
    found = getattr(module, name, None)
    if found is None:
        own = [n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__]
        has = f"it has {', '.join(own)}" if own else "it has no function at all"
        raise UsageError(f"{where} has no function {name}: {has}")
    if not callable(found):
        raise UsageError(f"{where}:{name} is {type(found).__name__}, no function")
    return found


def _called(function: Callable[[], Any], target: str) -> Any:
    with contextlib.suppress(ValueError):  # some builtins have no signature
        needed = [
            parameter.name
            for parameter in inspect.signature(function).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
        if needed:
            raise UsageError(f"{target} needs arguments ({', '.join(needed)}): write a function that takes none")
    return function()


# ---------------------------------------------------------------------------------------------------- their errors


def _asserted(problem: AssertionError, nothing_written: pathlib.Path | None) -> int:
    """`netparity.assert_parity` says all there is to say; of another assertion the place is of interest."""
    last = traceback.extract_tb(problem.__traceback__)[-1]
    if last.filename.startswith(_OURS):
        print(str(problem).strip())
        if nothing_written is not None:
            frame.fail(f"{nothing_written}: not written: netparity.assert_parity gives no result, compare returns one")
    else:
        print("".join(_theirs(problem)), end="", file=sys.stderr)
    return 1


def _theirs(problem: BaseException) -> Iterator[str]:
    """A traceback of what lies in nobody's library."""
    told = traceback.TracebackException.from_exception(problem)
    own = [one for one in told.stack if not one.filename.startswith((*_NOT_THEIRS, _OURS, "<frozen"))]
    if own or isinstance(problem, SyntaxError):  # which says itself where it is
        told.stack = traceback.StackSummary.from_list(own)
    told.__cause__ = told.__context__ = None
    return told.format()
