"""Certificates of a test's own authority."""

from __future__ import annotations

import functools
import ssl

import trustme


class Certificates:
    """An authority, and the contexts of servers and clients under it."""

    def __init__(self) -> None:
        self._authority = trustme.CA()

    def server(self, *names: str) -> ssl.SSLContext:
        """The context of a server that proves to be each of the names (or addresses)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*names).configure_cert(context)
        return context

    def client(self) -> ssl.SSLContext:
        """The context of a client that trusts this authority and nobody else."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(context)
        return context

    @property
    def authority_pem(self) -> bytes:
        """The authority's certificate, for programs that read one."""
        pem: bytes = self._authority.cert_pem.bytes()
        return pem


@functools.cache
def certificates() -> Certificates:
    """The same authority for all tests of a run: making one takes a moment."""
    return Certificates()
