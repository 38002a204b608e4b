"""The logger of the library."""

from __future__ import annotations

import logging

_logger = logging.getLogger("backendpool_async")


def log(level: int, message: str) -> None:
    """Say it, whatever becomes of it."""
    # A handler that raises would keep the answer from those who wait for it.
    try:
        _logger.log(level, "%s", message)
    except Exception:  # noqa: BLE001 - see above; what it raised is its own affair
        return
