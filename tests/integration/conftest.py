"""What several of the tests here need: consumer daemons with the hash encoder."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.daemons import Daemons
from tests.kafka import Topics

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def hash_daemon_on(daemons: Daemons) -> Start:
    """Starts `consume` on some topics with the hash encoder made of the keywords.

    The log of the first is `daemon-0.log` in `tmp_path`; `env` holds settings that have no flag.
    """

    def start(topics: Topics, *flags: str, **given: Any) -> subprocess.Popen[bytes]:
        return daemons.start(topics, *flags, **given).process

    return start


@pytest.fixture
def hash_daemon(hash_daemon_on: Start, topics: Topics) -> Start:
    """`hash_daemon_on` the topics of the test."""
    return partial(hash_daemon_on, topics)
