"""The consumer daemon that fault tests start: all of the product but the model, with failpoints around it.

python -m tests.faults.daemon FLAGS...      # `embedstream consume FLAGS...`, controlled through FAULTS
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NoReturn

import numpy as np
from confluent_kafka.admin import AdminClient
from numpy.typing import NDArray

from consumer.encoder import OutOfMemory
from tests.faults.failpoints import Failpoints, install
from tests.hash_encoder import HashEncoder

__all__ = ["NAN_WORD", "RAISING_WORD", "FaultyEncoder", "main"]

# Words that are one token each in the bundled model's vocabulary.
RAISING_WORD = "dynamite"
NAN_WORD = "arsenic"


@dataclass
class FaultyEncoder(HashEncoder):
    """Fails for the passages that hold a certain word, and when the control folder says so.

    A file `slow` there holds the seconds that one batch takes; `out_of_memory` the largest batch, in tokens
    with padding, that fits as long as the file is there.
    """

    points: ClassVar[Failpoints]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._raising = self._token(RAISING_WORD)
        self._nan = self._token(NAN_WORD)

    def encode(self, batch: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        slow = self.points.take("slow")
        if slow is not None:
            self.points.note("slow")
            time.sleep(float(slow))
        limit = self.points.peek("out_of_memory")
        if limit and len(batch) * max(map(len, batch)) > int(limit):
            self.points.note("out_of_memory")
            raise OutOfMemory("the batch is larger than the test allows")
        if any(self._raising in ids for ids in batch):
            raise RuntimeError("the encoder fails on this text")
        vectors = super().encode(batch)
        vectors[[self._nan in ids for ids in batch]] = np.nan
        return vectors

    def _token(self, word: str) -> int:
        return int(self.splitter.split_many([word])[0].passages[0].token_ids[1])


def forbid_calls_that_end_the_process() -> None:
    """Has the daemon fail, always, where librdkafka's coordinator requests would end it now and then."""

    def forbidden(*_: object, **__: object) -> NoReturn:
        # Not an exception: what only watches would count it and go on.
        print("a daemon made an admin request to a group's coordinator", file=sys.stderr, flush=True)
        os.abort()

    for name in ("describe_consumer_groups", "list_consumer_group_offsets", "delete_consumer_groups"):
        setattr(AdminClient, name, forbidden)


def main() -> None:
    """Runs `consume` with the points laid and the encoder that FAULTS describes."""
    import consumer.model
    from embedstream.cli import main as cli

    # A harness that waits in vain asks where the threads are.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    faults = json.loads(os.environ["FAULTS"])
    forbid_calls_that_end_the_process()
    points = Failpoints(Path(faults["control"]))
    install(points)
    FaultyEncoder.points = points
    consumer.model.load_encoder = lambda *_: FaultyEncoder(**faults.get("encoder", {}))
    sys.argv[1:1] = ["consume"]
    cli()


if __name__ == "__main__":
    main()
