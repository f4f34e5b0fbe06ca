"""Files as streams of bytes, decompressed on the way: a truncated end is noticed, and a bomb."""

from __future__ import annotations

import contextlib
import gzip
import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

import zstandard

from producer.refusals import Reason, RefusedError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["COMPRESSIONS", "EXPANSION_GRACE_BYTES", "CountedStream", "decompressed", "too_much"]

COMPRESSIONS = (".gz", ".zst")
"""The suffixes of files that are decompressed."""

EXPANSION_GRACE_BYTES = 64 * 1024 * 1024
"""Below this much content no file expands too much, whatever its ratio."""

# 2 KiB of zstd can't make more than 64 MiB of output (a block of 128 KiB takes 4 bytes at least): a small
# step bounds the memory that a compression bomb can take, and costs nothing at usual ratios.
_ZSTD_STEP = 2048
_BUFFER_BYTES = 256 * 1024


class CountedStream(io.RawIOBase):
    """A stream that tells how much of it has been read; it may be sought in if what it reads from may.

    Attributes:
        taken: Bytes read so far.
    """

    def __init__(self, inner: BinaryIO | io.RawIOBase, on_bytes: Callable[[int], None]) -> None:
        super().__init__()
        self.taken = 0
        self._inner = inner
        self._on_bytes = on_bytes

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return whether it may be sought in."""
        return self._inner.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to an offset."""
        return self._inner.seek(offset, whence)

    def tell(self) -> int:
        """Return where it is."""
        return self._inner.tell()

    def readinto(self, buffer: Buffer) -> int:
        """Fill a buffer as far as one read goes."""
        taken: int = self._inner.readinto(buffer) or 0  # type: ignore[union-attr]
        self.taken += taken
        self._on_bytes(taken)
        return taken


@contextlib.contextmanager
def decompressed(raw: CountedStream, name: str, max_expansion: int) -> Iterator[BinaryIO]:
    """Give the content of a file to be read in order, decompressed if its suffix says so.

    A stream that ends in the middle of its compressed data raises EOFError where it ends; damaged data raises
    zlib.error, gzip.BadGzipFile or zstandard.ZstdError; one that becomes too large RefusedError.

    Args:
        raw: The file as it lies there.
        name: Its name.
        max_expansion: How many times its size the content may be, past `EXPANSION_GRACE_BYTES`.
    """
    name = name.lower()
    source = io.BufferedReader(raw, _BUFFER_BYTES)
    if name.endswith(".gz"):
        gunzipped = gzip.GzipFile(fileobj=source, mode="rb")
        yield io.BufferedReader(_Limited(gunzipped.read1, raw, max_expansion), _BUFFER_BYTES)
    elif name.endswith(".zst"):
        yield io.BufferedReader(_Limited(_ZstdFrames(source).read, raw, max_expansion), _BUFFER_BYTES)
    else:
        yield source


def too_much(content: int, taken: int, max_expansion: int) -> RefusedError | None:
    """Return why a file must not be read on, None while it may.

    Args:
        content: Bytes of its content so far.
        taken: Bytes of the file that they came from.
        max_expansion: The most that one byte may stand for.
    """
    if content <= EXPANSION_GRACE_BYTES or content <= taken * max_expansion:
        return None
    told = f"it expands to more than {max_expansion} times its size (producer.max_expansion)"
    return RefusedError(Reason.EXPANDS_TOO_MUCH, told)


class _Limited(io.RawIOBase):
    """A decompressor as a stream, up to a limit."""

    def __init__(self, read: Callable[[int], bytes], raw: CountedStream, max_expansion: int) -> None:
        super().__init__()
        self._read = read
        self._raw = raw
        self._max_expansion = max_expansion
        self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        target = memoryview(buffer)
        data = self._read(len(target))
        self._given += len(data)
        error = too_much(self._given, self._raw.taken, self._max_expansion)
        if error is not None:
            raise error
        target[: len(data)] = data
        return len(data)


class _ZstdFrames:
    """The content of one or more frames of zstd.

    zstandard's own stream_reader ends without a word where a truncated frame does.
    """

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._rest = b""
        self._output = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, and none at the end."""
        while not self._output:
            data = self._rest or self._source.read(_ZSTD_STEP)
            if not data:
                if self._frame is not None:
                    raise EOFError("the file ends within a frame of zstd")
                return b""
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._output = memoryview(self._frame.decompress(data))
            self._rest = b""
            if self._frame.eof:
                self._rest = self._frame.unused_data
                self._frame = None
        data, self._output = bytes(self._output[:size]), self._output[size:]
        return data
