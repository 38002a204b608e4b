from __future__ import annotations

import asyncio
import builtins
import contextlib
import errno
import importlib
import random
import socket
import sys
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

import aiodns
import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest

from backendpool_async.testing import dns_server
from backendpool_async.testing.dns_server import (
    FakeDnsServer,
    Query,
    Step,
    cname,
    formerr,
    garbage,
    nodata,
    notimp,
    nxdomain,
    records,
    refused,
    servfail,
    silence,
    slow,
    truncated,
    wrong_id,
)

NXDOMAIN, NODATA, SERVFAIL, REFUSED, NOTIMP, FORMERR = 4, 1, 3, 6, 5, 2
TIMEOUT = 12


@pytest.fixture
async def server() -> AsyncIterator[FakeDnsServer]:
    async with FakeDnsServer() as server:
        yield server


async def ask(
    server: FakeDnsServer,
    name: str = "api.test",
    qtype: str = "A",
    *,
    edns: bool = False,
    tcp: bool = False,
    timeout: float = 5,
) -> dns.message.Message:
    query = dns.message.make_query(name, qtype, use_edns=0 if edns else False, payload=4096)
    if tcp:
        return await dns.asyncquery.tcp(query, "127.0.0.1", timeout, server.port)
    return await dns.asyncquery.udp(query, "127.0.0.1", timeout, server.port)


async def is_silent(server: FakeDnsServer, *, tcp: bool = False) -> bool:
    try:
        await ask(server, tcp=tcp, timeout=0.1)
    except dns.exception.Timeout:
        return True
    return False


def texts(message: dns.message.Message) -> list[str]:
    return [record.to_text() for rrset in message.answer for record in rrset]


async def resolve(
    server: FakeDnsServer, name: str = "api.test", qtype: str = "A", timeout: float = 5
) -> list[tuple[str, int]]:
    resolver = aiodns.DNSResolver(nameservers=[server.address], timeout=timeout, tries=1)
    try:
        result = await resolver.query_dns(name, qtype)
    finally:
        await resolver.close()
    found: list[Any] = [rr for rr in result.answer if rr.type == {"A": 1, "AAAA": 28}[qtype]]
    return [(rr.data.addr, rr.ttl) for rr in found]


async def resolve_error(server: FakeDnsServer, timeout: float = 5) -> int:
    with pytest.raises(aiodns.error.DNSError) as caught:
        await resolve(server, timeout=timeout)
    code: int = caught.value.args[0]
    return code


async def test_a_real_resolver_gets_the_addresses_and_their_ttl(server: FakeDnsServer) -> None:
    server.answer("api.test", "10.0.0.1", "10.0.0.2", ttl=7)
    assert await resolve(server) == [("10.0.0.1", 7), ("10.0.0.2", 7)]


async def test_the_type_of_a_record_is_inferred_and_only_the_asked_one_answered(
    server: FakeDnsServer,
) -> None:
    server.answer("api.test", "10.0.0.1", "2001:db8::1", "0 5 8080 a.test.")
    assert texts(await ask(server)) == ["10.0.0.1"]
    assert texts(await ask(server, qtype="AAAA")) == ["2001:db8::1"]
    assert texts(await ask(server, qtype="SRV")) == ["0 5 8080 a.test."]
    assert await resolve(server, qtype="AAAA") == [("2001:db8::1", 30)]


def test_a_value_that_is_no_record_is_refused() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        records("nonsense")


async def test_a_type_without_records_is_nodata_with_a_soa(server: FakeDnsServer) -> None:
    server.answer("api.test", "10.0.0.1")
    response = await ask(server, qtype="AAAA")
    assert (response.rcode(), response.answer) == (dns.rcode.NOERROR, [])
    assert response.authority[0].rdtype == dns.rdatatype.SOA


async def test_no_addresses_at_all_is_nodata(server: FakeDnsServer) -> None:
    server.answer("api.test")
    assert await resolve_error(server) == NODATA


async def test_an_unknown_name_does_not_exist(server: FakeDnsServer) -> None:
    response = await ask(server, "unknown.test")
    assert response.rcode() == dns.rcode.NXDOMAIN
    assert response.authority[0].rdtype == dns.rdatatype.SOA


async def test_an_answer_replaces_the_one_before_for_every_type(server: FakeDnsServer) -> None:
    server.answer("api.test", "10.0.0.1")
    server.script("api.test", records("::1"), qtype="AAAA")
    server.answer("api.test", "10.0.0.2")
    assert texts(await ask(server)) == ["10.0.0.2"]
    assert texts(await ask(server, qtype="AAAA")) == []


async def test_a_script_is_played_one_step_a_query_and_the_last_for_ever(
    server: FakeDnsServer,
) -> None:
    server.script("api.test", records("10.0.0.1"), servfail(), records("10.0.0.2"))
    assert texts(await ask(server)) == ["10.0.0.1"]
    assert (await ask(server)).rcode() == dns.rcode.SERVFAIL
    assert [texts(await ask(server)) for _ in range(2)] == [["10.0.0.2"], ["10.0.0.2"]]


async def test_a_script_for_one_type_leaves_the_others_alone(server: FakeDnsServer) -> None:
    server.answer("api.test", "10.0.0.1", "::1")
    server.script("api.test", servfail(), records("::2"), qtype="aaaa")
    assert (await ask(server, qtype="AAAA")).rcode() == dns.rcode.SERVFAIL
    assert texts(await ask(server)) == ["10.0.0.1"]
    assert texts(await ask(server, qtype="AAAA")) == ["::2"]


def test_a_script_without_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        FakeDnsServer().script("api.test")


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (nxdomain(), NXDOMAIN),
        (nodata(), NODATA),
        (servfail(), SERVFAIL),
        (refused(), REFUSED),
        (notimp(), NOTIMP),
        (formerr(), FORMERR),
    ],
)
async def test_a_real_resolver_tells_the_negative_answers_and_failures_apart(
    server: FakeDnsServer, step: Step, code: int
) -> None:
    server.script("api.test", step)
    assert await resolve_error(server) == code


@pytest.mark.parametrize("step", [nxdomain, nodata])
async def test_the_soa_of_a_negative_answer_tells_how_long_it_holds_or_is_absent(
    server: FakeDnsServer, step: Any
) -> None:
    server.script("api.test", step(negative_ttl=17), step(soa=False))
    soa = (await ask(server)).authority[0]
    assert (soa.ttl, soa[0].to_text().split()[-1]) == (17, "17")
    assert (await ask(server)).authority == []


async def test_silence_is_no_answer_over_either_transport(server: FakeDnsServer) -> None:
    server.script("api.test", silence())
    assert await is_silent(server)
    assert await is_silent(server, tcp=True)
    assert await resolve_error(server, timeout=0.1) == TIMEOUT


async def test_garbage_is_no_message_and_the_same_in_each_run(server: FakeDnsServer) -> None:
    server.script("api.test", garbage())
    query = dns.message.make_query("api.test", "A")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendto(client, query.to_wire(), ("127.0.0.1", server.port))
        reply = await loop.sock_recv(client, 512)
    assert reply[:2] == query.id.to_bytes(2)
    assert reply[2:] == random.Random(53).randbytes(40)
    with pytest.raises(dns.exception.DNSException):
        dns.message.from_wire(reply)


async def test_a_real_resolver_fails_on_garbage(server: FakeDnsServer) -> None:
    server.script("api.test", garbage())
    assert await resolve_error(server, timeout=0.1) not in {NXDOMAIN, NODATA}


async def test_an_answer_under_a_wrong_id_is_ignored_by_a_real_resolver(
    server: FakeDnsServer,
) -> None:
    server.script("api.test", wrong_id(records("10.0.0.66")))
    assert await resolve_error(server, timeout=0.1) == TIMEOUT
    assert len(server.queries) == 1


async def test_a_slow_answer_comes_when_its_time_has_passed(server: FakeDnsServer) -> None:
    server.script("api.test", slow(0.1, slow(0.1, records("10.0.0.1"))))
    loop = asyncio.get_running_loop()
    for tcp in (False, True):
        began = loop.time()
        assert texts(await ask(server, tcp=tcp)) == ["10.0.0.1"]
        assert loop.time() - began >= 0.199


async def test_a_slow_answer_holds_up_nobody_else(server: FakeDnsServer) -> None:
    server.script("slow.test", slow(60, records("10.0.0.1")))
    server.answer("api.test", "10.0.0.2")
    waiting = asyncio.create_task(ask(server, "slow.test"))
    await asyncio.sleep(0)
    assert texts(await ask(server)) == ["10.0.0.2"]
    waiting.cancel()
    await asyncio.wait({waiting})


async def test_a_truncated_answer_comes_whole_over_tcp(server: FakeDnsServer) -> None:
    server.script("api.test", truncated(records("10.0.0.1")))
    over_udp = await ask(server)
    assert over_udp.flags & dns.flags.TC
    assert over_udp.answer == []
    over_tcp = await ask(server, tcp=True)
    assert not over_tcp.flags & dns.flags.TC
    assert texts(over_tcp) == ["10.0.0.1"]


async def test_a_real_resolver_follows_the_truncated_answer_to_tcp(server: FakeDnsServer) -> None:
    server.script("api.test", truncated(records("10.0.0.1")))
    assert await resolve(server) == [("10.0.0.1", 30)]
    assert [query.transport for query in server.queries] == ["udp", "tcp"]


async def test_hundreds_of_records_are_truncated_over_udp_and_arrive_whole(
    server: FakeDnsServer,
) -> None:
    addresses = [f"10.0.{n // 250}.{n % 250}" for n in range(1000)]
    server.answer("api.test", *addresses)
    assert [address for address, _ in await resolve(server)] == addresses
    assert server.queries[-1].transport == "tcp"


@pytest.mark.parametrize(
    ("edns", "count", "is_cut"),
    [(False, 28, False), (False, 32, True), (True, 32, False), (True, 80, True)],
)
async def test_udp_carries_512_bytes_or_1232_with_edns(
    server: FakeDnsServer, edns: bool, count: int, is_cut: bool
) -> None:
    server.answer("api.test", *(f"10.0.0.{n}" for n in range(count)))
    response = await ask(server, edns=edns)
    assert bool(response.flags & dns.flags.TC) is is_cut
    assert len(response.to_wire()) <= (1232 if edns else 512)


async def test_edns_is_answered_with_edns_and_only_then(server: FakeDnsServer) -> None:
    server.answer("api.test", "10.0.0.1")
    assert (await ask(server)).edns == -1
    response = await ask(server, edns=True)
    assert (response.edns, response.payload) == (0, 1232)


async def test_the_case_of_the_name_is_kept_and_does_not_matter(server: FakeDnsServer) -> None:
    server.answer("Api.Test.", "10.0.0.1")
    response = await ask(server, "aPi.tEST")
    assert texts(response) == ["10.0.0.1"]
    assert response.question[0].name.to_text() == "aPi.tEST."
    assert response.answer[0].name.to_text() == "aPi.tEST."
    assert server.queries == [Query("api.test", "A", "udp")]


async def test_an_alias_is_followed_to_a_scripted_target(server: FakeDnsServer) -> None:
    server.script("api.test", cname("b.test", ttl=3))
    server.script("b.test", cname("c.test."))
    server.answer("c.test", "10.0.0.1", ttl=9)
    response = await ask(server)
    assert texts(response) == ["b.test.", "c.test.", "10.0.0.1"]
    assert [rrset.ttl for rrset in response.answer] == [3, 30, 9]
    assert await resolve(server) == [("10.0.0.1", 9)]


async def test_an_alias_of_an_unknown_name_stands_alone(server: FakeDnsServer) -> None:
    server.script("api.test", cname("elsewhere.test"))
    response = await ask(server)
    assert texts(response) == ["elsewhere.test."]
    # To c-ares that is a success without any address.
    assert await resolve(server) == []


async def test_an_alias_asked_for_as_such_is_not_followed(server: FakeDnsServer) -> None:
    server.script("api.test", cname("b.test"))
    server.answer("b.test", "10.0.0.1")
    response = await ask(server, qtype="CNAME")
    assert (texts(response), response.authority) == (["b.test."], [])


async def test_a_circle_of_aliases_ends(server: FakeDnsServer) -> None:
    server.script("api.test", cname("b.test"))
    server.script("b.test", cname("api.test"))
    assert texts(await ask(server)) == ["b.test.", "api.test."]


async def test_what_becomes_of_the_target_becomes_of_the_alias(server: FakeDnsServer) -> None:
    server.script("api.test", slow(0.1, cname("b.test")))
    server.script("b.test", slow(0.1, nxdomain()))
    began = asyncio.get_running_loop().time()
    response = await ask(server)
    assert asyncio.get_running_loop().time() - began >= 0.199
    assert response.rcode() == dns.rcode.NXDOMAIN
    assert texts(response) == ["b.test."]


async def test_what_becomes_of_an_alias_becomes_of_its_answer(server: FakeDnsServer) -> None:
    server.script("api.test", truncated(cname("b.test")), wrong_id(cname("b.test")))
    server.answer("b.test", "10.0.0.1")
    response = await ask(server)
    assert (bool(response.flags & dns.flags.TC), response.answer) == (True, [])
    with pytest.raises(dns.query.BadResponse):
        await ask(server)


async def test_an_outage_answers_everything_and_moves_no_script(server: FakeDnsServer) -> None:
    server.script("api.test", records("10.0.0.1"), records("10.0.0.2"))
    server.outage = servfail()
    assert (await ask(server)).rcode() == dns.rcode.SERVFAIL
    assert (await ask(server, "unknown.test")).rcode() == dns.rcode.SERVFAIL
    server.outage = silence()
    assert await is_silent(server)
    server.outage = None
    assert texts(await ask(server)) == ["10.0.0.1"]


async def test_every_query_is_listed_also_those_without_an_answer(server: FakeDnsServer) -> None:
    server.outage = silence()
    assert await is_silent(server)
    server.outage = None
    await ask(server, qtype="SRV", tcp=True)
    assert server.queries == [Query("api.test", "A", "udp"), Query("api.test", "SRV", "tcp")]


async def test_what_is_no_query_is_dropped(
    server: FakeDnsServer, caplog: pytest.LogCaptureFixture
) -> None:
    response = dns.message.make_response(dns.message.make_query("api.test", "A"))
    no_question = dns.message.Message(id=1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        for wire in (b"", b"junk", response.to_wire(), no_question.to_wire()):
            client.sendto(wire, ("127.0.0.1", server.port))
    # Sent later from the same host, so received later.
    await ask(server)
    assert server.queries == [Query("api.test", "A", "udp")]
    assert caplog.records == []


async def test_one_connection_carries_many_queries_in_any_pieces(server: FakeDnsServer) -> None:
    server.answer("api.test", "10.0.0.1")
    wires = [dns.message.make_query("api.test", "A", id=number).to_wire() for number in (7, 8)]
    stream = b"".join(len(wire).to_bytes(2) + wire for wire in wires)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for piece in (stream[:1], stream[1:9], stream[9:-3], stream[-3:]):
        writer.write(piece)
        await writer.drain()
        # Each piece is a packet of its own once another client has been served in between.
        await ask(server)
    for number in (7, 8):
        length = int.from_bytes(await reader.readexactly(2))
        assert dns.message.from_wire(await reader.readexactly(length)).id == number
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_hung_up_before_a_slow_answer_does_no_harm(
    server: FakeDnsServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.script("api.test", slow(0.05, records("10.0.0.1")))
    server.script("later.test", slow(0.2, records("10.0.0.1")))
    wire = dns.message.make_query("api.test", "A").to_wire()
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(len(wire).to_bytes(2) + wire)
    await server.queried()
    writer.transport.abort()
    # Answered after the one that finds no reader.
    await ask(server, "later.test")
    assert server._connections == set()
    assert server._timers == set()
    assert caplog.records == []


async def test_it_leaves_no_task_no_timer_and_no_open_port() -> None:
    async with FakeDnsServer() as server:
        port = server.port
        server.script("api.test", slow(3600, records("10.0.0.1")))
        asking = [asyncio.create_task(ask(server, tcp=tcp)) for tcp in (False, True)]
        await server.queried(2)
        assert server._timers
    assert not server._timers
    assert not server._connections
    for task in asking:
        task.cancel()
    await asyncio.wait(asking)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET, kind) as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", port))


@pytest.mark.parametrize("turns", range(6))
async def test_a_connection_that_arrives_while_it_stops_is_closed(turns: int) -> None:
    async with FakeDnsServer() as server:
        client = socket.create_connection(("127.0.0.1", server.port))
        for _ in range(turns):
            await asyncio.sleep(0)
    client.setblocking(False)
    with client, contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(5):
            assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
    assert not server._connections


async def test_it_can_run_again_with_its_scripts() -> None:
    server = FakeDnsServer()
    server.answer("api.test", "10.0.0.1")
    for _ in range(2):
        async with server:
            assert texts(await ask(server)) == ["10.0.0.1"]
    assert len(server.queries) == 2


async def test_it_has_no_port_before_and_after_it_runs() -> None:
    server = FakeDnsServer()
    with pytest.raises(RuntimeError, match="no port"):
        server.port  # noqa: B018 - the property is the call
    async with server:
        assert server.address == f"127.0.0.1:{server.port}"
    with pytest.raises(RuntimeError, match="no port"):
        server.address  # noqa: B018 - the property is the call


async def test_a_port_that_tcp_cannot_have_is_given_back_and_another_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create_server = socket.create_server
    tried: list[int] = []

    def taken_twice(address: tuple[str, int]) -> socket.socket:
        tried.append(address[1])
        if len(tried) <= 2:
            raise OSError(errno.EADDRINUSE, "taken")
        return create_server(address)

    monkeypatch.setattr(socket, "create_server", taken_twice)
    async with FakeDnsServer() as server:
        server.answer("api.test", "10.0.0.1")
        assert texts(await ask(server, tcp=True)) == ["10.0.0.1"]
        assert server.port == tried[-1]
        assert len(tried) == 3


@pytest.mark.parametrize(("number", "tries"), [(errno.EADDRINUSE, 32), (errno.EACCES, 1)])
async def test_it_raises_when_no_port_can_be_had(
    monkeypatch: pytest.MonkeyPatch, number: int, tries: int
) -> None:
    tried: list[int] = []

    def refuses(address: tuple[str, int]) -> socket.socket:
        tried.append(address[1])
        raise OSError(number, "no")

    monkeypatch.setattr(socket, "create_server", refuses)
    with pytest.raises(OSError, match="no"):
        await FakeDnsServer().__aenter__()
    assert len(tried) == tries
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(("127.0.0.1", tried[-1]))


def test_without_dnspython_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real_import = builtins.__import__

    def without_dnspython(name: str, *args: Any) -> ModuleType:
        if name.split(".")[0] == "dns":
            raise ModuleNotFoundError("No module named 'dns'", name="dns")
        return real_import(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_dnspython)
    for name in ("dns_server", "dns_steps"):
        monkeypatch.delitem(sys.modules, f"backendpool_async.testing.{name}")
    with pytest.raises(ModuleNotFoundError, match=r"backendpool-async\[testing\]") as caught:
        importlib.import_module(dns_server.__name__)
    assert caught.value.name == "dns"
