r"""Cut a document's text into segments that fit a Kafka message.

This is about message size only: what fits a model's window is the consumer's business.

    >>> cut("One paragraph.\n\nAnother one.", 16)
    ['One paragraph.\n\n', 'Another one.']
"""

from __future__ import annotations

__all__ = ["MIN_SEGMENT_BYTES", "cut"]

MIN_SEGMENT_BYTES = 4
"""The longest character in UTF-8: with less, a text could not be cut at all."""

# Each ends a segment; a full stop before a quote or a bracket is left to the white space behind.
_PARAGRAPHS = (b"\n\n", b"\r\n\r\n")
_SENTENCES = tuple(mark + space for mark in (b".", b"!", b"?") for space in (b" ", b"\n", b"\r\n")) + tuple(
    mark.encode() for mark in "。！？؟।"
)
_SPACES = (b"\n", b" ", b"\t")


def cut(text: str, segment_bytes: int) -> list[str]:
    """Cut a text into segments; joined, they are exactly the text.

    A segment ends after the last blank line in the second half of what would fit; where there is none, after
    the last end of a sentence there, else after the last white space, else after the last whole character.
    The last segment is never white space alone, unless more of it ends the text than fits one segment.

    Args:
        text: Without lone surrogates; may be empty.
        segment_bytes: The most that a segment takes in UTF-8, at least `MIN_SEGMENT_BYTES`.

    Returns:
        At least one segment; none is empty unless the text is.

    Raises:
        ValueError: `segment_bytes` is below `MIN_SEGMENT_BYTES`.
    """
    if segment_bytes < MIN_SEGMENT_BYTES:
        raise ValueError(f"a segment of {segment_bytes} bytes can't hold every character")
    if len(text) * 4 <= segment_bytes:
        return [text]
    data = text.encode()
    if len(data) <= segment_bytes:
        return [text]
    last = _last_character(text, data)
    if len(data) - last > segment_bytes:
        last = len(data)
    segments = []
    start = 0
    while len(data) - start > segment_bytes:
        end = _end_of_segment(data, start, min(start + segment_bytes, last))
        segments.append(data[start:end].decode())
        start = end
    segments.append(data[start:].decode())
    return segments


def _last_character(text: str, data: bytes) -> int:
    """Return where in `data` the last character that is no white space starts.

    It is kept with the white space behind it: a record of nothing else would end as a dead letter.
    """
    end = len(data) - len(text[len(text.rstrip()) :].encode())
    return _character_before(data, end - 1) if end else 0


def _end_of_segment(data: bytes, start: int, limit: int) -> int:
    """Return where the segment that begins at `start` ends: above `start`, and at most at `limit`."""
    floor = (start + limit) // 2
    for marks in (_PARAGRAPHS, _SENTENCES, _SPACES):
        end = max(_after_last(data, mark, floor, limit) for mark in marks)
        if end > start:
            return end
    return _character_before(data, limit)


def _after_last(data: bytes, mark: bytes, floor: int, limit: int) -> int:
    """Return the index after the last `mark` in `data[floor:limit]`, or -1."""
    found = data.rfind(mark, floor, limit)
    return found + len(mark) if found >= 0 else -1


def _character_before(data: bytes, end: int) -> int:
    """Return the greatest index, at most `end`, where a character of UTF-8 starts."""
    while end < len(data) and data[end] & 0xC0 == 0x80:
        end -= 1
    return end
