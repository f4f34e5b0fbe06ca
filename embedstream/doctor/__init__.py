"""Looks at everything a job needs before it starts: this machine, Kafka, and the services beside it."""

from __future__ import annotations

from embedstream.doctor.examine import Diagnosis, examine
from embedstream.doctor.finding import Finding, State

__all__ = ["Diagnosis", "Finding", "State", "examine"]
