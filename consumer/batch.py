"""Which passages are encoded together: sorted by length, filled to a token budget."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["MOST_PADDING", "is_small", "padding", "plan_batches"]

MOST_PADDING = 0.03
"""Share of a batch that may be padding, once it is no small one."""
# What a small batch is, of what the device is given at once: 128 tokens on a CPU, 1,024 on a GPU.
SMALL, SMALL_SHARE = 128, 16


def plan_batches(lengths: Sequence[int], token_budget: int, *, padded: bool = True) -> list[list[int]]:
    """Group passages into batches that stay within the budget.

    The longest come first, so that a device short of memory shows it at once, not at the end of a window.
    Where few passages of many lengths are at hand, a padded batch is closed before it is full: that costs
    less than padding does.

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
    longest = own = computed = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        may_end = not is_small(computed, token_budget)
        own += length
        computed = computed + longest if padded else own
        is_wasteful = may_end and own < (1 - MOST_PADDING) * computed
        if batches and computed <= token_budget and not is_wasteful:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = own = computed = length
    return batches


def is_small(tokens: int, token_budget: int) -> bool:
    """Whether a batch of so many tokens is too small to be closed for the sake of padding."""
    return tokens < max(SMALL, token_budget // SMALL_SHARE)


def padding(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """Share of the computed tokens that are padding, from 0 to below 1.

    Args:
        lengths: Tokens of each passage.
        batches: Indexes into `lengths`, as from `plan_batches`.
    """
    computed = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches if batch)
    real = sum(lengths[i] for batch in batches for i in batch)
    return 1 - real / computed if computed else 0.0
