"""Showing pools and balancers to people and programs: one page and its data, to mount in an app.

`StatusApp` is for ASGI; `backendpool_async.status.aiohttp` has the same for aiohttp.web.
"""

from backendpool_async.status.app import StatusApp as StatusApp

__all__ = ["StatusApp"]
