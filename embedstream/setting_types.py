"""What settings are made of: the base of a section, and values that several sections have."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_settings import NoDecode

__all__ = ["Names", "NonEmpty", "Seconds", "Section", "is_url", "without_secrets"]

# In a URL: what stands before the host, and a parameter that is a password.
_URL_SECRETS = re.compile(r"(?<=://).*(?=@)|(?<=password=)[^&]*", re.IGNORECASE)
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Section(BaseModel):
    """A table of the settings: frozen, and nothing in it that has no meaning."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _by_comma(value: object) -> object:
    """A variable holds one text; in it, commas part the entries of a list."""
    if isinstance(value, str):
        return [entry for entry in map(str.strip, value.split(",")) if entry]
    return value


def _seconds(value: object) -> object:
    """Whole seconds from 90s, 15m, 6h or 7d; anything else is left as it is."""
    if isinstance(value, str) and (found := re.fullmatch(r"(\d+)([smhd])", value.strip())):
        return int(found[1]) * _UNIT_SECONDS[found[2]]
    return value


NonEmpty = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[NonEmpty, ...], NoDecode, BeforeValidator(_by_comma)]
Seconds = Annotated[int, BeforeValidator(_seconds)]
"""Whole seconds: a number, or 90s, 15m, 6h, 7d."""


def is_url(value: str, schemes: tuple[str, ...]) -> bool:
    """Whether it is a URL of one of the schemes, with a host."""
    try:
        parts = urlsplit(value)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port
        return False


def without_secrets(text: str) -> str:
    """The text with what a URL in it may hide: all before its host, and parameters that are passwords."""
    return _URL_SECRETS.sub("********", text)
