"""Dead letters: input records that could not be embedded, and why.

A dead letter has the key and value of its input record, untouched, so that it can be sent back as
it came. Everything about the failure is in its headers.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, ValidationError

from schemas.headers import Headers, read_headers, read_number, read_source, read_text, source_headers
from schemas.records import Count, Long, Name, Record, SourcePosition

__all__ = ["MESSAGE_BYTES", "DeadLetter", "Reason"]

MESSAGE_BYTES = 1024
"""The most bytes of UTF-8 that an error message has in a dead letter."""


class Reason(StrEnum):
    """Why an input record is a dead letter."""

    NOT_AVRO = "not_avro"
    """Its value has no known framing."""
    UNKNOWN_SCHEMA = "unknown_schema"
    """Its value was written with a schema that was never released."""
    CORRUPT = "corrupt"
    """Its value can't be read."""
    INVALID = "invalid"
    """Its fields contradict each other or their meaning."""
    EMPTY = "empty"
    """It has no passage: no text, or nothing but white space."""
    ENCODE_FAILED = "encode_failed"
    """The model failed for one of its passages."""
    NOT_FINITE = "not_finite"
    """The model gave NaN or infinity for one of its passages."""
    ZERO_VECTOR = "zero_vector"
    """The model gave a vector of zeros for one of its passages."""
    OUT_OF_MEMORY = "out_of_memory"
    """One of its passages alone does not fit into the accelerator's memory."""
    TOO_LARGE = "too_large"
    """One of its embeddings is larger than the broker takes."""


def _cap(message: str) -> str:
    data = message.encode(errors="replace")
    # errors="ignore" drops the character that the cut goes through.
    return data[:MESSAGE_BYTES].decode(errors="ignore")


class DeadLetter(Record):
    """What a dead letter's headers say.

    Attributes:
        error_class: Why the record could not be embedded.
        error_message: The error in words; cut to `MESSAGE_BYTES` at the end of a character.
        source: Where the input record is.
        model: Name or path of the model.
        model_fingerprint: What identifies the model and its splitter.
        attempts: How many times it was tried.
        document_id: The document's id, where it could be read.
        document_version: The document's version, milliseconds since the epoch, where it could be read.
    """

    error_class: Reason
    error_message: Annotated[str, AfterValidator(_cap)]
    source: SourcePosition
    model: Name
    model_fingerprint: Name
    attempts: Count = 1
    document_id: str | None = None
    document_version: Long | None = None

    def to_headers(self) -> Headers:
        """Return the headers; ``document.id`` and ``document.version`` are left out where not known."""
        headers = [
            ("error.class", self.error_class.encode()),
            ("error.message", self.error_message.encode()),
            *source_headers(self.source),
            ("model", self.model.encode()),
            ("model.fingerprint", self.model_fingerprint.encode()),
            ("attempts", str(self.attempts).encode()),
        ]
        if self.document_id is not None:
            headers.append(("document.id", self.document_id.encode()))
        if self.document_version is not None:
            headers.append(("document.version", str(self.document_version).encode()))
        return headers

    @classmethod
    def from_headers(cls, headers: Sequence[tuple[str, bytes | str | None]] | None) -> DeadLetter:
        """Return what a dead letter's headers say.

        Raises:
            ValueError: Where a header that every dead letter has is missing or can't be read; the
                message names it.
        """
        values = read_headers(headers)
        source = read_source(values)
        if source is None:
            raise ValueError("headers source.topic, source.partition and source.offset name no record")
        fields = {
            "error.class": read_text(values, "error.class"),
            "error.message": read_text(values, "error.message"),
            "model": read_text(values, "model"),
            "model.fingerprint": read_text(values, "model.fingerprint"),
            "attempts": read_number(values, "attempts"),
        }
        for name, value in fields.items():
            if value is None:
                raise ValueError(f"header {name} is missing or can't be read")
        try:
            return cls.model_validate(
                {
                    **{name.replace(".", "_"): value for name, value in fields.items()},
                    "source": source,
                    "document_id": read_text(values, "document.id"),
                    "document_version": read_number(values, "document.version"),
                }
            )
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            name = str(first["loc"][0]).replace("_", ".")
            raise ValueError(f"header {name}: {first['msg']}") from error
