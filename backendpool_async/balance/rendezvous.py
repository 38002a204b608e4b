"""Rendezvous hashing: what a key falls back on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b

from backendpool_async.balance.candidate import Candidate


def rendezvous(key: str, candidates: Sequence[Candidate]) -> Candidate:
    """Return the candidate with the highest score for this key.

    The same in every process and whatever the order of the candidates, and over many keys in
    proportion to the weights. When another one goes, the key stays.

    The method is highest random weight (Thaler and Ravishankar, "Using name-based mappings to
    increase hit rates", IEEE/ACM Transactions on Networking 6(1), 1998), with the weights of
    Schindelhauer and Schomaker, "Weighted distributed hash tables" (SPAA 2005): the weight over
    the negative logarithm of a number between 0 and 1.
    """
    # Keyed and not appended, so that no key and address run into each other as others do.
    salt = blake2b(key.encode(errors="surrogatepass"), digest_size=16).digest()

    def score(candidate: Candidate) -> tuple[float, str]:
        hashed = blake2b(candidate.backend.encode(), digest_size=6, key=salt).digest()
        number = (int.from_bytes(hashed) + 0.5) / 2**48
        return candidate.weight / -math.log(number), candidate.backend

    return max(candidates, key=score)
