"""The command line, and what the producer and the consumer share: settings, Kafka clients, telemetry."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
