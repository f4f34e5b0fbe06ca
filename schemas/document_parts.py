"""A document record read as far as its embeddings need it: the rest is passed on as bytes.

    document = read_parts(data)
    document.content, document.identity  # text, and the id and version in Avro

An embedding repeats its document's id, version, hash, segment and metadata, and Avro writes them in both
records alike. What is refused is what `schemas.wire.decode_document` refuses.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from schemas.avro_bytes import long, string, string_map
from schemas.records import Document
from schemas.wire import current_document_start, decode_document

__all__ = ["DocumentParts", "parts_of", "read_parts"]

_HASH_SIZE = long(64)
_HASH = re.compile(rb"[0-9a-f]{64}")
_INT_LIMIT = 2**31
_LONG_BITS = 64


class DocumentParts(NamedTuple):
    """What a consumer needs of a document record.

    Attributes:
        id: Id of the document.
        content: Text of this segment.
        start_char: Where the segment starts in the whole document, in characters.
        identity: Id and version, in Avro, and so the next three.
        content_hash: SHA-256 of the whole document.
        segment: Its index and the count.
        metadata: The map of metadata.
    """

    id: str
    content: str
    start_char: int
    identity: bytes
    content_hash: bytes
    segment: bytes
    metadata: bytes

    @property
    def version(self) -> int:
        """When the producer read this version of the document, milliseconds since the epoch."""
        size, place = _long(self.identity, 0)
        return _long(self.identity, place + size)[0]


class _Unusual(Exception):
    """Not what records are as a rule."""


def read_parts(data: bytes) -> DocumentParts:
    """Read a document record; several times sooner than `decode_document` where it is as usual.

    Raises:
        WireError: With the reason, whatever is wrong with the bytes.
    """
    if start := current_document_start(data):
        try:
            return _usual(data, start)
        except (_Unusual, IndexError, UnicodeDecodeError):
            pass
    return parts_of(decode_document(data))


def parts_of(document: Document) -> DocumentParts:
    """Return the parts of a document record; raises UnicodeEncodeError for a lone surrogate."""
    return DocumentParts(
        document.id,
        document.content,
        document.segment.start_char,
        string(document.id) + long(document.version),
        string(document.content_hash),
        long(document.segment.index) + long(document.segment.count),
        string_map(document.metadata),
    )


def _usual(data: bytes, begin: int) -> DocumentParts:
    """Read a record of the current schema, whose datum starts at `begin`.

    Whatever is not plainly right is unusual, and read elsewhere.
    """
    identifier, place = _string(data, begin)
    _, place = _long(data, place)
    identity = data[begin:place]
    content, place = _string(data, place)
    begin, place = place, place + 66
    if data[begin : begin + 2] != _HASH_SIZE or not _HASH.fullmatch(data, begin + 2, place):
        raise _Unusual
    content_hash = data[begin:place]
    _, begin = _string(data, place)
    index, place = _long(data, begin)
    count, place = _long(data, place)
    segment = data[begin:place]
    start_char, begin = _long(data, place)
    pairs, place = _long(data, begin)
    metadata = data[begin:]
    if pairs:
        is_utf8 = metadata.isascii()
        for _ in range(2 * pairs):
            size = data[place]
            if size & 0x81:
                size, place = _long(data, place)
            else:
                size >>= 1
                place += 1
            if not is_utf8:
                data[place : place + size].decode()
            place += size
        # More than one block is not how maps are written.
        if data[place]:
            raise _Unusual
        place += 1
    # A string that claims more than there is ends behind the data.
    if place != len(data) or not identifier or not index < count < _INT_LIMIT:
        raise _Unusual
    return DocumentParts(identifier, content, start_char, identity, content_hash, segment, metadata)


def _long(data: bytes, place: int) -> tuple[int, int]:
    """Return a number that is not negative, and where it ends."""
    byte = data[place]
    place += 1
    if byte & 1:
        raise _Unusual
    if byte < 0x80:
        return byte >> 1, place
    zigzag, shift = byte & 0x7F, 7
    while True:
        byte = data[place]
        place += 1
        if byte < 0x80:
            if not byte:
                raise _Unusual  # longer than it need be: the general reader shortens it
            zigzag |= byte << shift
            break
        zigzag |= (byte & 0x7F) << shift
        shift += 7
        if shift >= _LONG_BITS:
            raise _Unusual
    if zigzag >> _LONG_BITS:
        raise _Unusual
    return zigzag >> 1, place


def _string(data: bytes, place: int) -> tuple[str, int]:
    size = data[place]
    # Most strings are short: the call is saved.
    if size & 0x81:
        size, place = _long(data, place)
    else:
        size >>= 1
        place += 1
    end = place + size
    return data[place:end].decode(), end
