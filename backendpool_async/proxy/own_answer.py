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
    headers = refusal.headers(body, request.version, closes=_hides_the_next(request, upload))
    if request.method == b"HEAD":
        body = b""
    try:
        await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
    except OSError:
        return


def _hides_the_next(request: ProxyRequest, upload: Upload | None) -> bool:
    """Whether nobody knows where the next request begins, or if there is one.

    It is the client's choice to send a body that it was not asked for; and what follows CONNECT is
    for whom that leads to (RFC 9110, section 9.3.6).
    """
    if request.method == b"CONNECT":
        return True
    if upload is not None:
        return not upload.is_asked_for
    return any(name == b"expect" for name, _ in request.headers)
