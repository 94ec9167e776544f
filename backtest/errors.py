"""What can go wrong, by whose fault; each carries the exit code of the command line."""


class PmStressError(Exception):
    """Base of all errors that a user can act on; the message says what to change."""

    exit_code = 1


class ConfigError(PmStressError):
    """A bad request or configuration: names file, key, value and what is allowed."""

    exit_code = 2


class DataError(PmStressError):
    """Bad data: names file, column, rule, count and the first rows."""

    exit_code = 3


class RunError(PmStressError):
    """A run that finished with failed cells."""

    exit_code = 4
