"""Every error that ends a command, each with the exit code that it ends with.

A message is one line that names the setting and where its value came from; `mend` says what to do.
Codes from 64 up are those of BSD's sysexits.h; the small ones are this program's own.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BudgetUsedUpError",
    "ConfigError",
    "EmbedstreamError",
    "FencedError",
    "FindingError",
    "ServiceUnavailableError",
    "TooManyDeadLettersError",
    "TryAgainError",
    "UsageError",
]


class EmbedstreamError(Exception):
    """The base: a failure that is explained in one line, never with a traceback."""

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, mend: str | None = None) -> None:
        self.message = message
        self.mend = mend
        super().__init__(" ".join((f"{message}: {mend}" if mend else message).split()))


class FindingError(EmbedstreamError):
    """A check ran and found something."""

    exit_code = 1


class UsageError(EmbedstreamError):
    """The command line makes no sense."""

    exit_code = 2


class BudgetUsedUpError(EmbedstreamError):
    """The money set aside for the job is spent; what was encoded has been delivered."""

    exit_code = 3


class TooManyDeadLettersError(EmbedstreamError):
    """More records fail than is plausible for bad data; nothing more was committed."""

    exit_code = 4


class FencedError(EmbedstreamError):
    """Another daemon with the same instance id took over. A supervisor must not restart this one."""

    exit_code = 5


class ServiceUnavailableError(EmbedstreamError):
    """A broker, or another service that is needed, can't be reached."""

    exit_code = 69


class TryAgainError(EmbedstreamError):
    """This process can't go on, but a new one may."""

    exit_code = 75


class ConfigError(EmbedstreamError):
    """A setting, or the state of a topic or group that it names, is wrong."""

    exit_code = 78
