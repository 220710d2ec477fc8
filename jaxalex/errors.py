"""The two ways in which a command can fail, and the exit code each one has."""


class UsageError(Exception):
    """Bad input or usage: one line that says what is wrong and what to do. Exit code 2."""


class RunError(Exception):
    """The work itself failed while it ran (disk full, out of memory, non-finite loss). Exit code 1."""
