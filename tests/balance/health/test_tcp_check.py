from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from checked import ward
from listening import has_ipv6, nobody, tcp_server
from servers import until

from backendpool_async import Backend
from backendpool_async.balance.health import TcpCheck
from backendpool_async.balance.health import tcp as module
from backendpool_async.balance.health.addresses import AddressInfo, addresses


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def test_what_accepts_a_connection_is_well_although_it_says_nothing() -> None:
    async with tcp_server(silent) as backend:
        await TcpCheck().check(backend)


async def test_what_refuses_connections_is_not_well() -> None:
    with pytest.raises(ConnectionRefusedError):
        await TcpCheck().check(nobody())


async def test_another_port_can_be_asked_than_the_backends_own() -> None:
    async with tcp_server(silent) as backend:
        await TcpCheck(port=backend.port).check(Backend("127.0.0.1:1"))
    with pytest.raises(ConnectionRefusedError):
        await TcpCheck(port=1).check(backend)


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback")
async def test_an_ipv6_backend_is_asked_by_ipv6() -> None:
    async with tcp_server(silent, "::1") as backend:
        assert backend.startswith("[::1]:")
        await TcpCheck().check(backend)


async def test_a_name_is_looked_up() -> None:
    async with tcp_server(silent) as backend:
        await TcpCheck().check(Backend(f"localhost:{backend.port}"))


async def test_a_name_that_does_not_exist_is_not_well() -> None:
    with pytest.raises(OSError, match=r"."):
        await TcpCheck().check(Backend("no-such-host.invalid:80"))


async def test_one_of_several_addresses_of_a_name_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = nobody().port
    async with tcp_server(silent) as backend:

        async def both(host: str, _: int) -> Sequence[AddressInfo]:
            dead, alive = await addresses("127.0.0.1", port), await addresses(*at(backend))
            return {"first": [*alive, *dead], "last": [*dead, *alive], "none": dead}[host]

        monkeypatch.setattr(module, "addresses", both)
        await TcpCheck().check(Backend("first:80"))
        await TcpCheck().check(Backend("last:80"))
        with pytest.raises(ConnectionRefusedError):
            await TcpCheck().check(Backend("none:80"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_no_connection_stays_in_time_wait() -> None:
    async with tcp_server(silent) as backend:
        # The port may have been another one's a minute ago.
        before = in_time_wait(backend)
        for _ in range(20):
            await TcpCheck().check(backend)
        assert in_time_wait(backend) <= before


async def test_what_never_answers_is_given_up_in_time() -> None:
    # A full backlog: the kernel drops what else comes.
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        try:
            for each in waiting:
                each.setblocking(False)
                each.connect_ex(address)
            async with ward(TcpCheck(), f"127.0.0.1:{address[1]}", timeout=0.1) as monitored:
                await until(lambda: monitored.said)
                assert str(monitored.said[0]).endswith("is unhealthy: no answer within 0.1 s")
        finally:
            for each in waiting:
                each.close()


async def test_a_server_that_goes_and_comes_back_is_seen_to() -> None:
    async with tcp_server(silent) as backend:
        keywords = {"interval": 0.05, "fall": 2, "rise": 2, "timeout": 1.0}
        check = TcpCheck()
        async with ward(check, backend, **keywords) as monitored:
            await until(lambda: monitored.verdicts(backend) == [True])
            check._port = 1
            await until(lambda: monitored.verdicts(backend) == [False])
            check._port = None
            await until(lambda: monitored.verdicts(backend) == [True])
            assert len(monitored.said) == 2


@pytest.mark.parametrize(
    ("port", "error"), [(0, ValueError), (65_536, ValueError), ("80", TypeError)]
)
def test_what_is_no_port_is_refused(port: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^port="):
        TcpCheck(port=port)  # type: ignore[arg-type]  # on purpose


def test_it_says_what_it_is() -> None:
    assert (repr(TcpCheck()), repr(TcpCheck(port=81))) == ("TcpCheck()", "TcpCheck(port=81)")


def at(backend: Backend) -> tuple[str, int]:
    return backend.host, backend.port


def in_time_wait(backend: Backend) -> int:
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    port = f":{backend.port:04X}"
    return sum(line[2].endswith(port) and line[3] == "06" for line in lines)
