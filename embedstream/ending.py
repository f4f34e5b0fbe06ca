"""How a process ends: every error as one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from embedstream import __version__
from embedstream.errors import EmbedstreamError
from embedstream.logs import get_logger

__all__ = ["ends_the_process", "tell"]


def tell(error: Exception) -> int:
    """Prints the line that the error is to a user, and returns the exit code; a bug is logged as well."""
    if isinstance(error, EmbedstreamError):
        code, line = error.exit_code, str(error)
    else:
        get_logger("embedstream").error("bug", exc_info=error)
        code = EmbedstreamError.exit_code
        line = f"this is a bug in embedstream {__version__} ({type(error).__name__}: {error})"
    with suppress(OSError):  # nobody reads it any more
        print(f"embedstream: {line}", file=sys.stderr)
    return code


@contextmanager
def ends_the_process() -> Iterator[None]:
    """Ends the process with the block: 0, or as the error that it raises says.

    At once, without the interpreter's own end: there, Kafka clients and devices are taken down, which has
    hung and crashed, and a stuck thread of a library would be waited for.
    """
    code = 0
    try:
        yield
    except Exception as error:
        code = tell(error)
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
