r"""Numbers, strings and maps as Avro's binary encoding writes them.

    >>> string("né")
    b'\x06n\xc3\xa9'

Records that are written by the million are put together from these: fastavro takes several times as long.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

__all__ = ["long", "string", "string_map"]

_LONG_MAX = 2**63 - 1


# Lengths, indexes and counts repeat from record to record.
@lru_cache(maxsize=1 << 14)
def long(value: int) -> bytes:
    """Return an Avro int or long: zigzag (twice the number), then seven bits a byte, the lowest first.

    Raises:
        OverflowError: The number is negative or more than 63 bits.
    """
    if not 0 <= value <= _LONG_MAX:
        raise OverflowError(f"{value} is negative or more than 63 bits")
    zigzag = value << 1
    out = bytearray()
    while zigzag > 0x7F:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    out.append(zigzag)
    return bytes(out)


def string(value: str) -> bytes:
    """Return an Avro string; raises UnicodeEncodeError for a lone surrogate."""
    data = value.encode()
    return long(len(data)) + data


def string_map(value: Mapping[str, str]) -> bytes:
    """Return an Avro map of strings, in the order of the mapping; errors as in `string`."""
    if not value:
        return long(0)
    parts = [long(len(value))]
    for name, text in value.items():
        data = text.encode()
        # The same names come in every record.
        parts += (_name(name), long(len(data)), data)
    parts.append(b"\0")
    return b"".join(parts)


_name = lru_cache(maxsize=1 << 10)(string)
