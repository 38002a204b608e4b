"""``backendpool demo``: three live lists, changed and broken before your eyes.

Nothing is acted: every line is printed from what the pools said, every time was measured, and
the summary counts what happened. Needs the extra ``demo`` (rich, dnspython, asyncinotify).
"""

from backendpool_async.extras import missing

try:
    from backendpool_async.demo.pace import FOR_A_READER, Pace
    from backendpool_async.demo.story import play
except ModuleNotFoundError as _error:
    raise missing(__name__, "'backendpool-async[demo]'", _error) from _error

__all__ = ["FOR_A_READER", "Pace", "play"]
