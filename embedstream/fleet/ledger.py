"""A fleet's file: what was asked for, and what each of its pods has cost, also of those that are gone.

`~/.local/state/embedstream/fleets/NAME.json` (`XDG_STATE_HOME` moves the folder). It holds no secret, and
nothing that would be lost with it keeps a pod running or hides one: pods are found by their names and their
marker, and a fleet whose file is lost only forgets what pods that are gone have cost.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from embedstream.errors import ConfigError
from embedstream.fleet.plan import Spec, deadline_of
from embedstream.fleet.records import Pod

__all__ = ["Bill", "Ledger", "ledger_path"]


class Bill(BaseModel):
    """One pod's.

    Attributes:
        name: Of the pod.
        price: Dollars an hour, as the API last said while it ran.
        since: When it was made.
        seen: When it was last seen running.
        until: Its deadline.
        gone: Whether it is no more.
        billed: Dollars, where the API's own bill was asked.
    """

    name: str
    price: float
    since: datetime
    seen: datetime
    until: datetime | None = None
    gone: bool = False
    billed: float | None = None

    @property
    def dollars(self) -> float:
        """Cost so far: from its start to when it was last seen, or the API's bill if that is more."""
        counted = self.price * max(0.0, (self.seen - self.since).total_seconds()) / 3600
        return max(counted, self.billed or 0.0)


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
        if self._file.spec is not None and self._file.spec.job != spec.job:
            self._file.bills.clear()
        self._file.spec = spec
        self._write()

    def see(
        self,
        pods: Iterable[Pod],
        now: datetime,
        billed: Callable[[str, datetime], float | None] = lambda *_: None,
    ) -> None:
        """Writes down what the fleet's pods are now; asks for the bill of each that has vanished."""
        self.reload()
        here = {pod.id: pod for pod in pods}
        bills = self._file.bills
        for pod in here.values():
            bill = bills.get(pod.id)
            if bill is None:
                since, until = pod.created_at, deadline_of(pod)
                bill = Bill(name=pod.name, price=pod.cost, since=since, seen=since, until=until)
                bills[pod.id] = bill
            if pod.cost > 0:
                bill.price, bill.seen = pod.cost, now
        for pod_id, bill in bills.items():
            if pod_id not in here and not bill.gone:
                bill.gone = True
                bill.billed = billed(pod_id, bill.since)
                if bill.billed is None:
                    # It ended since the last look, at its deadline at the latest: now is on the safe side.
                    ended = now if bill.until is None else min(now, bill.until + timedelta(minutes=1))
                    bill.seen = max(bill.seen, ended)
        self._write()

    def _write(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps(self._file.model_dump(mode="json"), indent=1), "utf-8")
            part.replace(self.path)
        except OSError as error:
            raise ConfigError(
                f"the fleet's file {self.path} can't be written ({error.strerror})", "set XDG_STATE_HOME"
            ) from None


def ledger_path(name: str) -> Path:
    """Where the file of the fleet NAME is."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "embedstream" / "fleets" / f"{name}.json"
