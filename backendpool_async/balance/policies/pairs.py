"""Two different candidates at random: what the power of two choices chooses between."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

from backendpool_async.balance.candidate import Candidate
from backendpool_async.balance.pauses import collected

Draw = Callable[[], tuple[Candidate, Candidate]]


def uniform_pairs(candidates: Sequence[Candidate], random: Callable[[], float]) -> Draw:
    """Return a function that draws two of at least two, every ordered pair as often as another."""
    count, others = len(candidates), len(candidates) - 1

    def draw() -> tuple[Candidate, Candidate]:
        # The fraction is as random as the whole part: one number does for both.
        number = random() * count
        index = int(number)
        # So many places back, from the end again where the list begins.
        return candidates[index], candidates[index - 1 - int((number - index) * others)]

    return draw


def weighted_pairs(candidates: Sequence[Candidate], random: Callable[[], float]) -> Draw:
    """Return a function that draws two of at least two by weight, without replacement.

    The first with a probability in proportion to its weight, the second likewise among the others.
    """
    weights = [candidate.weight for candidate in candidates]
    total = float(sum(weights))
    # Where each begins on a line on which its length is its weight.
    starts = collected(accumulate(weights[:-1], initial=0.0))
    inner = starts[1:]
    stretch = collected((total - weight) / weight for weight in weights)

    def draw() -> tuple[Candidate, Candidate]:
        number = random() * total
        index = bisect_right(inner, number)
        start = starts[index]
        # Where within the first one the number fell is random too: stretch it to all the others.
        number = (number - start) * stretch[index]
        if number >= start:
            number += weights[index]
        return candidates[index], candidates[bisect_right(inner, number)]

    return draw
