"""All looks of `doctor`, one after the other; each is told even where one before it has failed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from embedstream.doctor import kafka, machine, services
from embedstream.doctor.finding import Finding, State
from embedstream.settings import Settings

__all__ = ["Diagnosis", "examine"]


@dataclass(frozen=True)
class Diagnosis:
    """What was found, in the order in which it was looked at."""

    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """0, or the highest of what failed: what is wrong (78) needs a person, what is away (69) may not."""
        return max((each.exit_code for each in self.findings), default=0)

    def to_json(self) -> dict[str, object]:
        """The findings for a program."""
        return {"ok": self.exit_code == 0, "checks": [each.to_json() for each in self.findings]}

    def lines(self) -> Iterator[str]:
        """The findings for a person, a line each, and what they come to."""
        yield from map(str, self.findings)
        count = {state: sum(each.state is state for each in self.findings) for state in State}
        told = f"{count[State.FAILED]} failed, {count[State.WARNING]} to look at, {count[State.OK]} well"
        yield f"{told}, {count[State.SKIPPED]} not looked at"


def examine(settings: Settings) -> Diagnosis:
    """Look at this machine, at Kafka and at the services that the settings name.

    Nothing is written, to Kafka or elsewhere, and no consumer group is joined. With no answer from Kafka it
    takes about half a minute.
    """
    findings = [*machine.look(settings), *kafka.look(settings), *services.look(settings)]
    return Diagnosis(tuple(findings))
