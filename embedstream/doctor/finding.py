"""What one look of `doctor` finds: a line, what to do about it, and the exit code that it means."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from embedstream.errors import ConfigError, EmbedstreamError

__all__ = ["Finding", "State", "failed", "from_error", "ok", "skipped", "warning"]


class State(StrEnum):
    """How serious a finding is; only `failed` decides the exit code."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        check: What was looked at.
        state: Whether it is as it should be.
        message: What was found.
        mend: What to do; empty where nothing is to be done.
        exit_code: Of the whole command, if this has failed: 69 what can't be reached, 78 what is wrong.
    """

    check: str
    state: State
    message: str
    mend: str = ""
    exit_code: int = 0

    def to_json(self) -> dict[str, str]:
        """The line for a program."""
        return {"check": self.check, "state": self.state, "message": self.message, "mend": self.mend}

    def __str__(self) -> str:
        mend = f": {self.mend}" if self.mend else ""
        return " ".join(f"{self.state:<8} {self.check:<16} {self.message}{mend}".splitlines())


def ok(check: str, message: str) -> Finding:
    """As it should be."""
    return Finding(check, State.OK, message)


def warning(check: str, message: str, mend: str) -> Finding:
    """It works, and may fail later or cost more than it must."""
    return Finding(check, State.WARNING, message, mend)


def failed(check: str, message: str, mend: str, exit_code: int = ConfigError.exit_code) -> Finding:
    """A command would fail over it."""
    return Finding(check, State.FAILED, message, mend, exit_code)


def skipped(check: str, message: str) -> Finding:
    """It can't be looked at, or the settings don't ask for it."""
    return Finding(check, State.SKIPPED, message)


def from_error(check: str, error: EmbedstreamError) -> Finding:
    """What a command would end with, as a line."""
    return failed(check, error.message, error.mend or "", error.exit_code)
