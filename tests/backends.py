"""Backends that tests send requests to: well-behaved, byte-exact, misbehaving, over TLS.

Every server runs on 127.0.0.1 in the test's own loop, on a free port, and stops with its block.
"""

from __future__ import annotations

from backends_echo import EchoBackend, Received, echo_backend
from backends_exchange import Answer, connected, exchange, read_answer
from backends_misbehaving import MISBEHAVIOURS
from backends_raw import RawBackend, raw_backend, read_head, read_request
from backends_served import Served, served_by_aiohttp, served_by_hypercorn, served_by_uvicorn
from backends_tls import Certificates, certificates

__all__ = [
    "MISBEHAVIOURS",
    "Answer",
    "Certificates",
    "EchoBackend",
    "RawBackend",
    "Received",
    "Served",
    "certificates",
    "connected",
    "echo_backend",
    "exchange",
    "raw_backend",
    "read_answer",
    "read_head",
    "read_request",
    "served_by_aiohttp",
    "served_by_hypercorn",
    "served_by_uvicorn",
]
