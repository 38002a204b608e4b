"""httpx and httpx2 clients whose requests go to the backends of a live list.

Extra ``httpx`` or ``httpx2``. The modules are named after the libraries that they wire; ``import
httpx`` in here is the library.
"""

from backendpool_async.httpx.transport import BackendTransport

__all__ = ["BackendTransport"]
