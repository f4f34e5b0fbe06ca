"""Where a program of this user keeps what it must remember: ledgers of what was sent and what was rented."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["state_folder"]


def state_folder() -> Path:
    """`XDG_STATE_HOME`, by default `~/.local/state`; it need not be there yet."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
