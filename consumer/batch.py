"""Which passages are encoded together: sorted by length, filled to a token budget."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["padding", "plan_batches"]


def plan_batches(lengths: Sequence[int], token_budget: int, *, padded: bool = True) -> list[list[int]]:
    """Group passages into batches that stay within the budget.

    The longest come first, so that a device short of memory shows it at once, not at the end of a window.

    Args:
        lengths: Tokens of each passage.
        token_budget: Most tokens of a batch.
        padded: Whether a batch counts as its passages times the longest of them, or as its own tokens.

    Returns:
        Batches of indexes into `lengths`, every index exactly once. A passage longer than the budget is a
        batch of its own.

    Raises:
        ValueError: The budget is not positive.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget must be positive, not {token_budget}")
    batches: list[list[int]] = []
    longest = tokens = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        tokens += longest if padded else length
        if batches and tokens <= token_budget:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = tokens = length
    return batches


def padding(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """Share of the computed tokens that are padding, from 0 to below 1.

    Args:
        lengths: Tokens of each passage.
        batches: Indexes into `lengths`, as from `plan_batches`.
    """
    computed = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches if batch)
    real = sum(lengths[i] for batch in batches for i in batch)
    return 1 - real / computed if computed else 0.0
