"""What the sections of the settings are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_settings import NoDecode

__all__ = ["Names", "NonEmpty", "Section", "by_comma"]

NonEmpty = Annotated[str, Field(min_length=1)]


def by_comma(value: object) -> object:
    """A variable holds one text; in it, commas part the entries of a list."""
    if isinstance(value, str):
        return [entry for entry in map(str.strip, value.split(",")) if entry]
    return value


Names = Annotated[tuple[NonEmpty, ...], NoDecode, BeforeValidator(by_comma)]


class Section(BaseModel):
    """A table of the file: frozen, and nothing unknown in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
