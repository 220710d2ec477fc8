"""The ways in which a command can end early, and the exit code of each."""


class UsageError(Exception):
    """Bad input or usage; the message is one line that says what is wrong and what to do. Exit code 2."""


class RunError(Exception):
    """The work failed while it ran (disk full, out of memory, non-finite loss). Exit code 1."""


class NotFiniteError(RunError):
    """A loss or a gradient is no longer finite."""


class Stopped(Exception):
    """A signal asked the work to stop, and it stopped in good order. Exit code 128 + the signal's number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
