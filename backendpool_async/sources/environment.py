"""Numbered environment variables."""

from __future__ import annotations

import logging
import os
import re

from backendpool_async.backend import Backend
from backendpool_async.errors import EmptyAnswer, InvalidBackend, quote
from backendpool_async.logs import log
from backendpool_async.source import Answer


class EnvironmentSource:
    """``PREFIX_0``, ``PREFIX_1``, ... up to the first that is not set.

    Reads this process's own environment at each fetch: what another process or a shell sets
    later is not in it. No ``PREFIX_0`` is a negative answer; a value that is no backend, or is
    empty, raises `InvalidBackend` naming the variable. A variable beyond a gap is not read, and
    warned of once. Raises ValueError for a prefix that no variable can have.
    """

    __slots__ = ("_prefix", "_warned")

    def __init__(self, prefix: str) -> None:
        if not prefix or "=" in prefix or "\0" in prefix:
            raise ValueError(f"no environment variable begins with {quote(prefix)}")
        self._prefix = prefix
        self._warned = False

    async def fetch(self) -> Answer:
        backends: list[Backend] = []
        while (value := os.environ.get(name := f"{self._prefix}_{len(backends)}")) is not None:
            try:
                backends.append(Backend.parse(value.strip(" \t\r\n")))
            except InvalidBackend as error:
                raise InvalidBackend(value, error.reason, f"variable {name}") from None
        self._warn_of_gap(len(backends))
        if not backends:
            raise EmptyAnswer(str(self), f"no variable {self._prefix}_0")
        return Answer(backends)

    def _warn_of_gap(self, first_absent: int) -> None:
        if self._warned:
            return
        numbered = re.compile(re.escape(self._prefix) + r"_(0|[1-9][0-9]{0,8})").fullmatch
        beyond = [int(found[1]) for name in os.environ if (found := numbered(name))]
        ignored = min((number for number in beyond if number > first_absent), default=None)
        if ignored is not None:
            self._warned = True
            log(
                logging.WARNING,
                f"{self}: {self._prefix}_{ignored} is ignored,"
                f" because {self._prefix}_{first_absent} is not set",
            )

    def __str__(self) -> str:
        return f"env:{self._prefix}"
