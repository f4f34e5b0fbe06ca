"""Breaks the product on purpose, one way at a time, and looks whether the smallest test for it finds that.

python -m tests.faults.mutations                    # all of them, in some minutes
python -m tests.faults.mutations forgotten          # those whose names hold a word

Each is made in a copy of this checkout. One that the tests don't notice makes the exit code 1.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.brokers import REPOSITORY, find_kafka
from tests.faults.network import find_toxiproxy

SCENARIOS = "tests/faults/test_scenarios.py::"
TRANSACTION = "tests/integration/test_transaction.py::"
TAKEOVER = "test_after_kill_9_at_a_failpoint_the_other_daemon_takes_over_in_time[after_produce]"
GIVEN_UP = "test_a_window_whose_transaction_the_broker_gave_up_is_delivered_again"
BACK = "test_a_daemon_that_is_started_again_takes_its_partitions_back_without_a_rebalance[after_send_offsets]"


@dataclass(frozen=True)
class Mutation:
    """What is broken: in `file`, `before` becomes `after`; and what the test must say then (a pattern).

    Attributes:
        module: Where the test is.
    """

    name: str
    file: str
    before: str
    after: str
    test: str
    says: str
    module: str = SCENARIOS


MUTATIONS = (
    Mutation(
        "offsets committed outside the transaction",
        "consumer/transaction.py",
        "        self._repeat(producer.begin_transaction, timed=False)\n        sending",
        "        self._poller.request(lambda c: c.commit(offsets=offsets, asynchronous=False), 30.0)\n"
        "        self._repeat(producer.begin_transaction, timed=False)\n        sending",
        TAKEOVER,
        r"\d+ missing",
    ),
    Mutation(
        "a window forgotten after an abort",
        "consumer/deliver.py",
        "                if self._giving_up():\n                    # The stage ends",
        "                return\n                if self._giving_up():\n                    # The stage ends",
        GIVEN_UP,
        r"\d+ missing",
    ),
    Mutation(
        "no ownership check",
        "consumer/ownership.py",
        "return self._numbers.get((source.topic, source.partition)) == source.assignment",
        "return source is not None",
        "test_a_zombie_with_a_window_in_hand_doubles_nothing",
        r"\d+ double",
    ),
    Mutation(
        "a random transactional id",
        "consumer/clients.py",
        'name = f"embedstream-{settings.group}-{settings.instance_id}"',
        """name = f"embedstream-{settings.group}-{__import__('uuid').uuid4()}\"""",
        BACK,
        r"after_send_offsets: back after .* allowed: .*",
    ),
    Mutation(
        "no look at the member id",
        "consumer/poll.py",
        "if kept and self._consumer.memberid() != self._member:",
        "if kept and not self._consumer:",
        "test_a_daemon_that_is_cut_off_during_a_rebalance_doubles_nothing",
        r"AssertionError: no loss is told|\d+ double",
    ),
    Mutation(
        "each passage gets its neighbour's vector",
        "consumer/embed.py",
        "tuple(outcomes[place] for place in places)",
        "tuple(outcomes[place] for place in (*places[1:], places[0]))",
        GIVEN_UP,
        r"\d+ vectors are another text's",
    ),
    Mutation(
        "texts without their first character",
        "consumer/outbound.py",
        "text = content[passage.start_char : passage.end_char] if",
        "text = content[passage.start_char + 1 : passage.end_char] if",
        GIVEN_UP,
        r"\d+ untrue",
    ),
    Mutation(
        "records through a producer that has aborted",
        "consumer/transaction.py",
        "        self._spent = True\n",
        "",
        "test_what_the_broker_has_of_an_aborted_transaction_is_not_taken_for_what_is_delivered_again",
        r"assert \[\] == \[b'value'\]",
        TRANSACTION,
    ),
)


def run(mutation: Mutation) -> str | None:
    """Makes it and runs its test; returns what the test said, None where it did not find it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(REPOSITORY, copy, ignore=shutil.ignore_patterns(".*", "build", "dist"))
        source = copy / mutation.file
        text = source.read_text()
        assert text.count(mutation.before) == 1, f"{mutation.file} has another text than the mutation expects"
        source.write_text(text.replace(mutation.before, mutation.after))
        environment = os.environ | {"PYTHONPATH": str(copy), "KAFKA_HOME": str(find_kafka())}
        toxiproxy = find_toxiproxy()
        if toxiproxy is not None:
            environment["TOXIPROXY"] = str(toxiproxy)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", mutation.module + mutation.test],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    found = re.findall(mutation.says, done.stdout)
    return found[-1] if done.returncode == 1 and found else None


def main() -> int:
    wanted = sys.argv[1:]
    missed = 0
    for mutation in MUTATIONS:
        if not wanted or any(word in mutation.name for word in wanted):
            said = run(mutation)
            missed += said is None
            print(f"{mutation.name}: {said or 'NOT FOUND'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
