"""The lookup table of Maglev hashing: whom each slot belongs to."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import cycle, islice
from typing import Final

from backendpool_async.balance.pauses import CHUNK, collected, pause

# So many looks at a slot take less than a millisecond.
_LOOKS: Final = 4 * CHUNK


def maglev_table(addresses: Sequence[str], weights: Sequence[int], size: int) -> array[int]:
    """Return the index of an address for each of `size` slots, a prime number of them.

    Every address prefers the slots in an order of its own; they take turns, and in each one takes
    the first slot in its order that is still free (Eisenbud et al., "Maglev: a fast and reliable
    software network load balancer", NSDI 2016, section 3.4). One of weight w takes part in w of as
    many rounds as the greatest weight, as in Envoy, so that a change of one weight, unless it is
    the greatest, leaves the turns of the others alone.

    The order of the addresses matters where two want the same slot, so they are to be sorted.
    """
    places, steps = _preferences(addresses, size)
    turns = _turns(weights)
    table = _blank("H" if len(addresses) <= 1 << 16 else "I", size)
    taken = bytearray(size)
    free = size
    # Looking for one of the last free slots takes longer than asking which of them comes first.
    few = math.isqrt(size)
    while free > few:
        some = min(free - few, max(1, _LOOKS * free // (size + free)))
        for index in islice(turns, some):
            slot, step = places[index], steps[index]
            while taken[slot]:
                slot += step
                if slot >= size:
                    slot -= size
            taken[slot] = 1
            table[slot] = index
            places[index] = slot
        free -= some
        pause()
    left = _untaken(taken)
    while left:
        index = next(turns)
        place, step = places[index], steps[index]
        # The slot number k of an order is place + k * step: k is the distance over the step.
        inverse = pow(step, -1, size)
        nearest = min([(slot - place) * inverse % size for slot in left])
        slot = places[index] = (place + nearest * step) % size
        left.remove(slot)
        table[slot] = index
        pause()
    return table


def _preferences(addresses: Sequence[str], size: int) -> tuple[list[int], list[int]]:
    """Return with which slot the order of each address begins, and how far it is to the next."""
    digests = collected(blake2b(each.encode(), digest_size=16).digest() for each in addresses)
    return (
        collected(int.from_bytes(digest[:8], "big") % size for digest in digests),
        collected(int.from_bytes(digest[8:], "big") % (size - 1) + 1 for digest in digests),
    )


def _turns(weights: Sequence[int]) -> Iterator[int]:
    greatest = max(weights)
    if min(weights) == greatest:
        return cycle(range(len(weights)))
    return _weighted_turns(weights, greatest)


def _weighted_turns(weights: Sequence[int], greatest: int) -> Iterator[int]:
    # Turn number m of weight w is in the first round k for which k * w reaches m * greatest. Kept
    # by round, for most of the light ones have none in most rounds.
    taken = [0] * len(weights)
    rounds = {0: list(range(len(weights)))}
    number = 0
    while True:
        for index in sorted(rounds.pop(number)):
            yield index
            taken[index] += 1
            following = -(taken[index] * greatest // -weights[index])
            rounds.setdefault(following, []).append(index)
        # Those of the greatest weight take part in all of them, so none is empty.
        number += 1


def _blank(kind: str, size: int) -> array[int]:
    table = array(kind)
    some = bytes(table.itemsize * 64 * CHUNK)
    while len(table) < size:
        table.frombytes(some)
        pause()
    del table[size:]
    return table


def _untaken(taken: bytearray) -> set[int]:
    slots = set()
    slot = taken.find(0)
    while slot >= 0:
        slots.add(slot)
        slot = taken.find(0, slot + 1)
    return slots
