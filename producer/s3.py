"""Objects in S3, and in whatever speaks its protocol, as files: found, opened, read. Needs the extra `s3`.

Credentials, region and endpoint come from AWS's usual places: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
`AWS_PROFILE`, `AWS_ENDPOINT_URL`, ..., the files in `~/.aws`, or the machine's role.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from embedstream.errors import ConfigError, ServiceUnavailableError, UsageError
from producer.refusals import Reason, RefusedError

__all__ = ["FoundObject", "check", "is_uri", "objects", "objects_between", "open_object"]

_SCHEME = "s3://"
# The most that a listing gives at once.
_PAGE = 1000
# Small enough for small documents, large enough for a stream.
_BLOCK_BYTES = 4 * 1024 * 1024


class FoundObject(NamedTuple):
    """An object.

    Attributes:
        uri: `s3://BUCKET/KEY`.
        relative: Its key below the prefix that was asked for; of an object by itself the last part of it.
        size: In bytes.
        mtime_ns: When it was last modified, nanoseconds since the epoch. S3 tells seconds; the digits below
            are made of its ETag, so that it differs after any change.
    """

    uri: str
    relative: str
    size: int
    mtime_ns: int


class _NoCredentialsError(OSError):
    """Nothing says who asks."""


class _UnreachableError(OSError):
    """No answer from the endpoint."""


def is_uri(path: str) -> bool:
    """Return whether a path lies in S3."""
    return path.startswith(_SCHEME)


def check(uri: str) -> None:
    """Look whether anything is at a URI, before anything is read.

    Raises:
        ConfigError: The extra is not installed, or there are no credentials.
        UsageError: Nothing is there, or it may not be listed.
        ServiceUnavailableError: The endpoint does not answer.
    """
    bucket, prefix = _split(uri)
    if not bucket:
        raise UsageError(f"{uri} names no bucket", "write s3://BUCKET/PREFIX")
    try:
        page = _page(bucket, prefix, max_keys=1)
    except _NoCredentialsError as error:
        raise ConfigError(f"{uri} can't be read ({error})", "set AWS_ACCESS_KEY_ID or AWS_PROFILE") from None
    except _UnreachableError as error:
        raise ServiceUnavailableError(f"{uri} can't be reached ({error})", "set AWS_ENDPOINT_URL") from None
    except OSError as error:
        raise UsageError(
            f"{uri} can't be read ({_told(error)})", "name a bucket that may be listed"
        ) from None
    if not page.get("Contents"):
        raise UsageError(f"there is nothing at {uri}", "name a prefix that objects have")


@contextlib.contextmanager
def open_object(uri: str, *, in_order: bool = True) -> Iterator[BinaryIO]:
    """Open an object.

    Args:
        uri: Of the object.
        in_order: Whether it is read from its begin to its end: more is fetched ahead then.

    Raises:
        OSError: It can't be opened or read; also from the stream.
        RefusedError: It was replaced while it was read.
    """
    cache = "readahead" if in_order else "none"
    with _as_os_errors():
        stream = _filesystem().open(uri, "rb", block_size=_BLOCK_BYTES, cache_type=cache)
        with stream:
            yield stream


def objects(uri: str) -> Iterator[list[FoundObject]]:
    """Yield the objects under a URI: pages of up to a thousand, in the order of their keys.

    Args:
        uri: Of one object, or the prefix of many, with or without `/` at its end.

    Raises:
        OSError: The listing failed.
    """
    bucket, prefix = _split(uri)
    if prefix and not prefix.endswith("/"):
        alone = [e for e in _page(bucket, prefix, max_keys=1).get("Contents", ()) if e["Key"] == prefix]
        if alone:
            yield [_found(bucket, alone[0], prefix.rpartition("/")[0] + "/" if "/" in prefix else "")]
            return
        prefix += "/"
    after = ""
    while True:
        entries = _page(bucket, prefix, after).get("Contents", ())
        # A key with / at its end is what a console makes for an empty folder.
        found = [_found(bucket, each, prefix) for each in entries if not each["Key"].endswith("/")]
        if found:
            yield found
        if len(entries) < _PAGE:
            return
        after = entries[-1]["Key"]


def objects_between(folder: str, first: str, last: str) -> dict[str, FoundObject]:
    """Return the objects of a folder whose names lie between two, or begin with the second, by their URIs.

    Args:
        folder: A URI with `/` at its end.
        first: The name that they come after.
        last: The last name, or the begin of it.

    Raises:
        OSError: The listing failed.
    """
    bucket, prefix = _split(folder)
    between: dict[str, FoundObject] = {}
    after = prefix + first
    while True:
        entries = _page(bucket, prefix, after=after).get("Contents", ())
        for entry in entries:
            if entry["Key"] > prefix + last and not entry["Key"].startswith(prefix + last):
                return between
            found = _found(bucket, entry, prefix)
            between[found.uri] = found
        if len(entries) < _PAGE:
            return between
        after = entries[-1]["Key"]


def _found(bucket: str, entry: Any, prefix: str) -> FoundObject:
    key = entry["Key"]
    tag = hashlib.blake2b(str(entry.get("ETag")).encode(), digest_size=4).digest()
    seconds = int(entry["LastModified"].timestamp())
    mtime_ns = seconds * 1_000_000_000 + int.from_bytes(tag) % 1_000_000_000
    return FoundObject(f"{_SCHEME}{bucket}/{key}", key[len(prefix) :], entry["Size"], mtime_ns)


def _page(bucket: str, prefix: str, after: str = "", max_keys: int | None = None) -> Any:
    more = {"StartAfter": after} if after else {}
    with _as_os_errors():
        return _filesystem().call_s3(
            "list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=max_keys or _PAGE, **more
        )


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix(_SCHEME).partition("/")
    return bucket, key


def _filesystem() -> Any:
    """Return the client of this process; fsspec keeps one for each."""
    try:
        import s3fs
    except ImportError:
        raise ConfigError("reading s3:// needs the extra `s3`", "pip install 'embedstream[s3]'") from None
    logging.getLogger("s3fs").setLevel(logging.CRITICAL)  # what goes wrong is raised
    return s3fs.S3FileSystem()


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    """Raise as OSError what the client's libraries raise as something of their own."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ == "FileExpired":
            told = "it changed while it was read: run again when it is done"
            raise RefusedError(Reason.CHANGED, told) from error
        kind = _kind_of(error)
        if kind is None:
            raise
        raise kind(str(error)) from error


def _kind_of(error: Exception) -> type[OSError] | None:
    modules = {each.__module__.partition(".")[0] for each in type(error).__mro__}
    if not modules & {"botocore", "aiobotocore", "aiohttp"}:
        return None
    name = type(error).__name__
    if "Credential" in name or "Token" in name or "Profile" in name:
        return _NoCredentialsError
    return _UnreachableError


def _told(error: OSError) -> str:
    return " ".join((error.strerror or str(error) or type(error).__name__).split())
