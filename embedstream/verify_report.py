"""What `verify` reports, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from embedstream.verify_merge import Finding, Kind

__all__ = ["Report"]


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        group: Whose committed offsets say which records must have an outcome.
        model_fingerprints: The models that the group has committed offsets for; more than one is a finding.
        records: Input records before the committed offsets.
        pending: Offsets of the input after the committed ones.
        embeddings: Passages of `records` that are there, each counted once.
        dead_letters: Those of `records` that are dead letters.
        deletions: Those of `records` that are deletions and were passed on.
        ahead: Output of records that were committed while the check ran.
        expired: Output of records that the documents topic has dropped since.
        unread: Offsets that the documents topic has dropped and no output names: of records that were deleted
            unread, or of none (a transaction's marker has one too).
        other_models: Output of other models, which is left alone.
        missing: Records without an outcome, or without all of it.
        double: Output that is there again, or beside a dead letter.
        out_of_order: Output that comes after that of later records.
        unexpected: Output that comes from no record of the input, or that can't be read.
        findings: The first of each kind, by input position.
        seconds: How long the check took.
    """

    group: str
    documents_topic: str
    embeddings_topic: str
    dead_letters_topic: str
    model_fingerprints: tuple[str, ...]
    records: int
    pending: int
    embeddings: int
    dead_letters: int
    deletions: int
    ahead: int
    expired: int
    unread: int
    other_models: int
    missing: int
    double: int
    out_of_order: int
    unexpected: int
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        wrong = self.missing or self.double or self.out_of_order or self.unexpected
        return not wrong and len(self.model_fingerprints) <= 1

    def to_json(self) -> dict[str, object]:
        """Return the report as what `json.dumps` takes."""
        findings = [
            {"kind": each.kind.value, "position": each.position, "detail": each.detail}
            for each in self.findings
        ]
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return (
            {"ok": self.ok}
            | own
            | {
                "model_fingerprints": list(self.model_fingerprints),
                "findings": findings,
                "seconds": round(self.seconds, 3),
            }
        )

    def lines(self) -> Iterator[str]:
        """Yield the report for a person to read."""
        yield (
            f"{self.records:,} records of {self.documents_topic} before the offsets of group {self.group}:"
            f" {self.embeddings:,} embeddings, {self.dead_letters:,} dead letters,"
            f" {self.deletions:,} deletions"
        )
        for number, what in (
            (self.pending, f"records of {self.documents_topic} are pending"),
            (self.ahead, "records of output are of input committed since the check began"),
            (self.expired, f"records of output are of input that {self.documents_topic} no longer holds"),
            (self.unread, f"offsets that {self.documents_topic} no longer holds have no output"),
            (self.other_models, "records of output are of other models"),
        ):
            if number:
                yield f"  {number:,} {what}"
        if len(self.model_fingerprints) > 1:
            yield f"mixed: the group's offsets are of several models: {', '.join(self.model_fingerprints)}"
        for kind in Kind:
            number = getattr(self, kind.value)
            if number:
                listed = [each for each in self.findings if each.kind == kind]
                more = f" (the first {len(listed)})" if number > len(listed) else ""
                yield f"{kind.value.replace('_', ' ')}: {number:,}{more}"
                yield from (f"  {each.position}: {each.detail}" for each in listed)
        yield f"{'all is well' if self.ok else 'NOT all is well'} ({self.seconds:,.1f} s)"
