"""The ways in which a command can end before it is done, and the exit code each one has."""


class UsageError(Exception):
    """Bad input or usage: one line that says what is wrong and what to do. Exit code 2."""


class RunError(Exception):
    """The work itself failed while it ran (disk full, out of memory, non-finite loss). Exit code 1."""


class NotFiniteError(RunError):
    """A loss or a gradient stopped being a finite number."""


class Stopped(Exception):
    """A signal asked the work to stop, and it did so in order. Exit code 128 + the signal's number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
