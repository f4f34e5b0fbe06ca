"""Where a program of this user keeps what it must remember: ledgers of what was sent and what was rented."""

from __future__ import annotations

import os
from pathlib import Path

from embedstream.errors import ConfigError

__all__ = ["state_folder"]


def state_folder() -> Path:
    """`XDG_STATE_HOME`, by default `~/.local/state`; it need not be there yet.

    Raises:
        ConfigError: Neither is known.
    """
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    except RuntimeError:
        raise ConfigError("this user has no home folder", "set XDG_STATE_HOME, or HOME") from None
