"""Brokers, topics and daemons for tests; what a skip means in CI; the seed of the property tests."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from embedstream.broker import EmbeddedBroker
from tests.brokers import SHARED_KAFKA, ApacheCluster, BrokerHandle, NoKafkaError, find_kafka
from tests.cli import start_cli
from tests.daemons import Daemons
from tests.kafka import Topics, make_topics

hypothesis.settings.register_profile("embedstream", print_blob=True, deadline=None)
hypothesis.settings.load_profile("embedstream")

IN_CI = os.environ.get("CI", "").lower() in ("1", "true")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed of the property tests, so that it can be printed, and a cache folder."""
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(random.randrange(2**32))
    # Token budgets that tests measure are kept, but not among the user's.
    os.environ["XDG_CACHE_HOME"] = str(config.rootpath / ".pytest_cache" / "home")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the seed, and in CI the skips, which fail there."""
    terminalreporter.write_line(f"--hypothesis-seed={config.option.hypothesis_seed}")
    if IN_CI:
        for report in terminalreporter.stats.get("skipped", []):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
            terminalreporter.write_line(f"skipped, which fails in CI: {report.nodeid}: {reason}", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skip fails the run: a test that does not run proves nothing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if IN_CI and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True, scope="session")
def _state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ledgers that no path is given for lie in a folder of the session's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def kafka_home() -> Path:
    """The folder of an Apache Kafka, for tests that start clusters of their own."""
    try:
        return find_kafka()
    except NoKafkaError as error:
        if IN_CI and SHARED_KAFKA.exists():
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def kafka_broker(kafka_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerHandle]:
    """Apache Kafka, one node, for the whole session."""
    with ApacheCluster(kafka_home, tmp_path_factory.mktemp("apache")) as cluster:
        yield BrokerHandle(cluster.bootstrap, "apache")


@pytest.fixture(scope="session")
def embedded_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerHandle]:
    """The embedded broker, for the whole session."""
    with EmbeddedBroker(tmp_path_factory.mktemp("embedded")) as broker:
        yield BrokerHandle(broker.bootstrap, "embedded")


@pytest.fixture(params=["embedded", pytest.param("apache", marks=pytest.mark.slow)])
def broker(request: pytest.FixtureRequest) -> BrokerHandle:
    """Each broker in turn; Apache Kafka in the slow tier."""
    name = "embedded_broker" if request.param == "embedded" else "kafka_broker"
    handle = request.getfixturevalue(name)
    assert isinstance(handle, BrokerHandle)
    return handle


@pytest.fixture
def topics(broker: BrokerHandle) -> Topics:
    """Three topics of three partitions each on `broker`."""
    return make_topics(broker.bootstrap)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """`start_cli`, with the log in `tmp_path` unless named; what still runs at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(
        *args: str | Path, log: Path | None = None, **kwargs: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        process = start_cli(*args, log=log or tmp_path / f"daemon-{len(started)}.log", **kwargs)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    """Consumer daemons with the hash encoder; what still runs at the end is killed."""
    with Daemons(tmp_path) as daemons:
        yield daemons
