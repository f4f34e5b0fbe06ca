"""Bytes as people read them."""

from __future__ import annotations

__all__ = ["size_text"]


def size_text(count: float) -> str:
    """Return a number of bytes in the unit that fits, decimal."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.2f} TB"
