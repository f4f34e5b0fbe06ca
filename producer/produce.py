r"""One run: everything under the paths that is not in the documents topic yet goes there.

    summary = produce(["corpus"], settings, progress=True)
    print(*summary.lines(), sep="\n")

Files are found here, read by several processes where there is much to read, and sent from here: one thread
decides what has to be sent, sends it, and keeps the ledger.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from embedstream.errors import UsageError
from embedstream.garbage import rare_collections
from embedstream.metrics import Metrics
from embedstream.metrics_server import serve
from embedstream.settings import ProducerSettings, Settings
from producer.corpus import Corpus, open_corpus
from producer.open_ledger import connect, open_ledger
from producer.progress import Progress
from producer.run import Run
from producer.signals import stop_on_signals
from producer.summary import Summary

__all__ = ["produce"]


def produce(paths: Sequence[str | Path], settings: Settings, *, progress: bool) -> Summary:
    """Send every document under the paths that the ledger does not know as it is.

    A document that can't be sent is refused, counted, and the rest goes on. On SIGINT or SIGTERM what was
    accepted is still delivered; the second signal acts as if this function had no handler.

    Args:
        paths: Files and folders. The id of a document that names none is its path below the one given here.
        settings: `kafka` and `producer` are used.
        progress: Whether to show how far it is, on stderr.

    Raises:
        UsageError: A path does not exist or is of no known kind.
        ServiceUnavailableError: No broker answers at the start; later, the summary says so.
        ConfigError: The topic does not exist, a setting is wrong, or the ledger is about another topic.
        TryAgainError: Another run uses the ledger.
    """
    started = time.monotonic()
    _check(settings.producer)
    # Before the signals are taken: to choose a sample may take an hour, and leaves nothing to put in order.
    corpus = open_corpus(paths, settings.producer)
    with ExitStack() as stack:
        stack.enter_context(rare_collections())
        stop = stack.enter_context(stop_on_signals())
        if settings.producer.prune and not corpus.is_whole:
            told = "--prune needs the whole corpus: what filters, samples and limits leave out is still there"
            raise UsageError(told, "leave those out, or --prune")
        topic = connect(settings)
        ledger = open_ledger(settings, topic, lambda: stop.signal is not None)
        if ledger is not None:
            stack.enter_context(ledger)
        shown = stack.enter_context(Progress(shown=progress, measure=lambda: _sizes(corpus)))
        metrics = Metrics("producer")
        serve(metrics, settings.metrics.model_copy(update={"port": settings.producer.metrics_port}))
        run = Run(corpus, settings, topic, ledger, stop, shown, metrics)
        run.go()
        return run.summary(time.monotonic() - started)


def _check(settings: ProducerSettings) -> None:
    """Refuse what makes no sense without a ledger, before anything else is done."""
    asked = ("prune", "rehash", "ledger_from_topic")
    for name in asked if settings.ledger == "none" else ():
        if getattr(settings, name):
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} needs a ledger, and there is none", "leave out --no-ledger")


def _sizes(corpus: Corpus) -> Iterator[int]:
    for batch in corpus.batches(lambda _: None):
        yield sum(file.size for file in batch.files)
