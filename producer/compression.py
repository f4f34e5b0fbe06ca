"""Files as streams of bytes, decompressed on the way, with the end of a truncated one noticed."""

from __future__ import annotations

import contextlib
import gzip
import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

import zstandard

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["COMPRESSIONS", "open_stream"]

COMPRESSIONS = (".gz", ".zst")
"""The suffixes of files that are decompressed."""

# 2 KiB of zstd can't make more than 64 MiB of output (a block of 128 KiB takes 4 bytes at least): a small
# step bounds the memory that a compression bomb can take, and costs nothing at usual ratios.
_ZSTD_STEP = 2048
_BUFFER_BYTES = 256 * 1024


@contextlib.contextmanager
def open_stream(path: str, on_bytes: Callable[[int], None]) -> Iterator[BinaryIO]:
    """Open a file to be read in order, decompressed if its suffix says so.

    A stream that ends in the middle of its compressed data raises EOFError where it ends; damaged data raises
    zlib.error, gzip.BadGzipFile or zstandard.ZstdError.

    Args:
        path: Of a regular file.
        on_bytes: Told how many bytes were taken from the disk, each time that some were.

    Raises:
        OSError: The file can't be opened.
    """
    name = path.lower()
    with _CountedFile(path, on_bytes) as raw:
        if name.endswith(".gz"):
            yield gzip.GzipFile(fileobj=raw, mode="rb")  # type: ignore[misc]
        elif name.endswith(".zst"):
            yield io.BufferedReader(_ZstdStream(raw), _BUFFER_BYTES)
        else:
            yield io.BufferedReader(raw, _BUFFER_BYTES)


class _CountedFile(io.FileIO):
    """A file that tells how much of it has been read."""

    def __init__(self, path: str, on_bytes: Callable[[int], None]) -> None:
        super().__init__(path)
        self._on_bytes = on_bytes

    def readinto(self, buffer: Buffer) -> int:
        taken = super().readinto(buffer)
        self._on_bytes(taken)
        return taken

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(-1 if size is None else size)
        self._on_bytes(len(data))
        return data


class _ZstdStream(io.RawIOBase):
    """The content of one or more frames of zstd.

    zstandard's own stream_reader ends without a word where a truncated frame does.
    """

    def __init__(self, raw: io.FileIO) -> None:
        self._source = io.BufferedReader(raw, _BUFFER_BYTES)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._rest = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        while not self._output:
            data = self._rest or self._source.read(_ZSTD_STEP)
            if not data:
                if self._frame is not None:
                    raise EOFError("the file ends within a frame of zstd")
                return 0
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._output = memoryview(self._frame.decompress(data))
            self._rest = b""
            if self._frame.eof:
                self._rest = self._frame.unused_data
                self._frame = None
        target = memoryview(buffer)
        size = min(len(target), len(self._output))
        target[:size] = self._output[:size]
        self._output = self._output[size:]
        return size
