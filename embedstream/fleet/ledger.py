"""A fleet's file: what was asked for, and what each of its pods has cost, also of those that are gone.

`~/.local/state/embedstream/fleets/NAME.json` (`XDG_STATE_HOME` moves the folder). It holds no secret, and
nothing that would be lost with it keeps a pod running or hides one: pods are found by their names and their
marker, and a fleet whose file is lost only forgets what pods that are gone have cost.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from embedstream.errors import ConfigError
from embedstream.fleet.plan import Spec, deadline_of
from embedstream.fleet.records import Pod
from embedstream.state_folder import state_folder

__all__ = ["Bill", "Ledger", "ledger_path"]

# Bills are made by the hour: after so long one is complete.
BILL_AFTER = timedelta(hours=2)


class Bill(BaseModel):
    """One pod's.

    Attributes:
        name: Of the pod.
        price: Dollars an hour, as the API last said while it ran.
        since: When it was made.
        seen: Until when it is taken to have cost its price.
        until: Its deadline.
        gone: When it was found to be no more.
        billed: Dollars by the API's own bill, once that is complete.
    """

    name: str
    price: float
    since: datetime
    seen: datetime
    until: datetime | None = None
    gone: datetime | None = None
    billed: float | None = None

    @property
    def dollars(self) -> float:
        """Cost so far: the API's bill, and until there is one its price for as long as it may have run."""
        if self.billed is not None:
            return self.billed
        return self.price * max(0.0, (self.seen - self.since).total_seconds()) / 3600


class _File(BaseModel):
    spec: Spec | None = None
    bills: dict[str, Bill] = Field(default_factory=dict)


class Ledger:
    """The file of one fleet, written at every change."""

    def __init__(self, path: Path) -> None:
        """Reads the file, if it is there.

        Raises:
            ConfigError: It can't be read.
        """
        self.path = path
        self._file = _File()
        self.reload()

    def reload(self) -> None:
        """Reads the file again: another command may have changed it.

        Raises:
            ConfigError: It can't be read.
        """
        try:
            self._file = _File.model_validate_json(self.path.read_text("utf-8"))
        except FileNotFoundError:
            return
        except (OSError, ValidationError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"the fleet's file {self.path} can't be read ({type(error).__name__})",
                "mend or remove it; `embedstream fleet status` finds the pods by their names",
            ) from None

    @property
    def spec(self) -> Spec | None:
        """What was asked for last; None for a fleet that was never started from here."""
        return self._file.spec

    @property
    def dollars(self) -> float:
        """What all pods have cost so far."""
        return sum(bill.dollars for bill in self._file.bills.values())

    def ask_for(self, spec: Spec) -> None:
        """Keeps what is asked for; a fleet of another job begins with no bills."""
        with self._changing() as file:
            if file.spec is not None and file.spec.job != spec.job:
                file.bills.clear()
            file.spec = spec

    def see(self, pods: Iterable[Pod], now: datetime) -> None:
        """Writes down what the fleet's pods are now."""
        here = {pod.id: pod for pod in pods}
        self.reload()
        if not here and not self._file.bills:
            return
        with self._changing() as file:
            for pod in here.values():
                bill = file.bills.get(pod.id)
                if bill is None:
                    since, until = pod.created_at, deadline_of(pod)
                    bill = Bill(name=pod.name, price=pod.cost, since=since, seen=since, until=until)
                    file.bills[pod.id] = bill
                if pod.cost > 0:
                    bill.price, bill.seen = pod.cost, now
            for pod_id, bill in file.bills.items():
                if pod_id not in here and bill.gone is None:
                    bill.gone = now
                    # It ended since the last look, at its deadline at the latest: now is on the safe side.
                    ended = now if bill.until is None else min(now, bill.until + timedelta(minutes=1))
                    bill.seen = max(bill.seen, ended)

    def unbilled(self, now: datetime) -> list[tuple[str, datetime]]:
        """Pods that are gone and whose bills should be complete: their ids, and since when they cost."""
        return [
            (pod_id, bill.since)
            for pod_id, bill in self._file.bills.items()
            if bill.billed is None and bill.gone is not None and now - bill.gone > BILL_AFTER
        ]

    def settle(self, pod_id: str, dollars: float) -> None:
        """Keeps what a pod's bill says."""
        with self._changing() as file:
            if pod_id in file.bills:
                file.bills[pod_id].billed = dollars

    @contextmanager
    def _changing(self) -> Iterator[_File]:
        """The file as it is now, to be changed; no other command changes it meanwhile."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self.path.with_suffix(".lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self.reload()
                yield self._file
                part = self.path.with_suffix(".part")
                part.write_text(json.dumps(self._file.model_dump(mode="json"), indent=1), "utf-8")
                part.replace(self.path)
        except OSError as error:
            raise ConfigError(
                f"the fleet's file {self.path} can't be written ({error.strerror})", "set XDG_STATE_HOME"
            ) from None


def ledger_path(name: str) -> Path:
    """Where the file of the fleet NAME is."""
    return state_folder() / "embedstream" / "fleets" / f"{name}.json"
