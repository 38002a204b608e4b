"""Weighted turns, spread as evenly as they can be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import Final

from backendpool_async.balance.pauses import collected

_ENTRIES_EACH: Final = 16
_ENTRIES_AT_LEAST: Final = 1024


def smooth_sequence(weights: Sequence[int]) -> list[int]:
    """Return indexes, each as often as its weight says, as evenly spread as may be.

    Longer sequences than 16 entries an index, or 1024 if that is more, are scaled down. An index
    then has at most half an entry more or less than its weight asks for, but at least one: for one
    of average weight an error of 3 %.

    The order is that of worst-case fair weighted fair queueing, WF2Q (Bennett and Zhang, INFOCOM
    1996), for packets of one size: of those whose turn has begun, the one whose turn ends first.
    So between two turns of one index lies at most twice the ideal distance, also where the
    sequence begins again. nginx's smooth weighted round robin spreads similarly, at n times the
    cost.

    >>> "".join("abc"[index] for index in smooth_sequence([5, 1, 1]))
    'abaacaa'
    """
    return collected(_by_end_of_turn(scaled(weights)))


def scaled(weights: Sequence[int], entries_at_least: int = _ENTRIES_AT_LEAST) -> list[int]:
    """Return the same proportions in small numbers, each at least 1.

    They add up to at most 16 times as many as there are, or to `entries_at_least` if that is more.

    >>> scaled([20, 40]), scaled([1, 65_535])
    ([1, 2], [1, 1022])
    """
    divisor = math.gcd(*weights)
    total = sum(weights) // divisor
    limit = max(_ENTRIES_EACH * len(weights), entries_at_least)
    if total <= limit:
        return [weight // divisor for weight in weights]
    # Rounding adds less than one to each.
    room = limit - len(weights)
    parts = [max(1, (2 * weight * room // divisor + total) // (2 * total)) for weight in weights]
    divisor = math.gcd(*parts)
    return [part // divisor for part in parts]


def _by_end_of_turn(parts: Sequence[int]) -> Iterator[int]:
    total = sum(parts)
    served = [0] * len(parts)
    # The turn number m of an index with part p begins at m * total / p and ends where the next one
    # begins. A turn is looked at from the first whole slot after its beginning.
    beginning: dict[int, list[int]] = {}
    # All begin at once.
    begun = collected((-(total // -part), index) for index, part in enumerate(parts))
    heapify(begun)
    for slot in range(total):
        for index in beginning.pop(slot, ()):
            end = -((served[index] + 1) * total // -parts[index])
            heappush(begun, (end, index))
        end, index = heappop(begun)
        served[index] += 1
        beginning.setdefault(max(end, slot + 1), []).append(index)
        yield index
