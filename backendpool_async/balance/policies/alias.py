"""A weighted draw at the cost of an unweighted one."""

from __future__ import annotations

from collections.abc import Sequence

from backendpool_async.balance.pauses import CHUNK, collected, pause


def alias_table(weights: Sequence[int]) -> tuple[list[float], list[int]]:
    """Return for every index where it ends within its place, and who has the rest of the place.

    Draw a real number from 0 to n. Its whole part is a place: the index itself if the number is
    less than `ends` there, else the one in `others`. Each index gets its share exactly, but for the
    rounding of the `ends`: Vose's alias method ("A linear algorithm for generating random numbers
    with a given distribution", IEEE Transactions on Software Engineering 17(9), 1991), in whole
    numbers.

    >>> alias_table([1, 3])
    ([0.5, 2.0], [1, 1])
    """
    count, total = len(weights), sum(weights)
    rest = collected(weight * count for weight in weights)
    ends = collected(index + 1.0 for index in range(count))
    others = collected(range(count))
    poor = collected(index for index in others if rest[index] < total)
    rich = collected(index for index in others if rest[index] >= total)
    while poor:
        index, giver = poor.pop(), rich[-1]
        ends[index] = index + rest[index] / total
        others[index] = giver
        rest[giver] -= total - rest[index]
        if rest[giver] < total:
            poor.append(rich.pop())
        if not index % CHUNK:
            pause()
    return ends, others
