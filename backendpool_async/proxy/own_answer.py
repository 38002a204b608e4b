"""The answers that the proxy gives by itself, to HTTP."""

from __future__ import annotations

from backendpool_async.proxy.refusal import Refusal
from backendpool_async.proxy.request import ProxyRequest
from backendpool_async.proxy.upload import Send, Upload


async def answer(
    refusal: Refusal, request: ProxyRequest, send: Send, *, upload: Upload | None = None
) -> None:
    """Answer with the refusal, once; `upload` is what there was of the request's body, if any.

    A client that has left is no error.
    """
    body = f"{refusal}\n".encode()
    headers = refusal.headers(body, request.version, closes=_may_send_unasked(request, upload))
    if request.method == b"HEAD":
        body = b""
    try:
        await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
    except OSError:
        return


def _may_send_unasked(request: ProxyRequest, upload: Upload | None) -> bool:
    """Whether it is the client's choice to send its body, so that nobody knows where it ends."""
    if upload is not None:
        return not upload.is_asked_for
    return any(name == b"expect" for name, _ in request.headers)
