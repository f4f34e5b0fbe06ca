"""Totals of a whole from a sample of it, with how far they may be off. Pure arithmetic.

The estimate is a ratio: what was counted for each byte of the sample, times all bytes, which are known. Large
units are likelier to be in the sample, up to certainty, and weigh the less for it (Horvitz and Thompson 1952;
as a ratio: Särndal, Swensson and Wretman, Model Assisted Survey Sampling, 1992, chapter 5): with a few units
of very different sizes the ranges of a sample that is blind to size are far too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Total", "ratio_total"]

_TWO_SIDED_95 = 1.96
# Of a kind of which only one unit could be looked at nothing tells how the others differ.
_UNKNOWN_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Total:
    """A sum over the whole, and its standard error."""

    value: float
    error: float = 0.0

    @property
    def low(self) -> float:
        """The lower end of the 95% interval, never below zero."""
        return max(0.0, self.value - _TWO_SIDED_95 * self.error)

    @property
    def high(self) -> float:
        """The upper end of the 95% interval."""
        return self.value + _TWO_SIDED_95 * self.error

    def __add__(self, other: Total) -> Total:
        return Total(self.value + other.value, math.hypot(self.error, other.error))


def ratio_total(
    counted: Sequence[float], sizes: Sequence[float], chances: Sequence[float], whole_size: float
) -> Total:
    """Estimate a total.

    Args:
        counted: Of each unit of the sample, what is counted.
        sizes: Of each unit of the sample, its size.
        chances: Of each unit of the sample, how likely it was to be in it, above 0 and at most 1.
        whole_size: The size of all units together.

    Returns:
        The total over all units; exact if all of them were certain to be in the sample.
    """
    units = list(zip(counted, sizes, chances, strict=True))
    size = sum(size / chance for _, size, chance in units)
    if not size:
        return Total(0.0)
    ratio = sum(count / chance for count, _, chance in units) / size
    value = ratio * whole_size
    if len(units) < 2 and units[0][2] < 1:
        return Total(value, _UNKNOWN_SHARE * value)
    variance = sum((1 - p) * ((count - ratio * own) / p) ** 2 for count, own, p in units)
    return Total(value, math.sqrt(variance) * whole_size / size)
