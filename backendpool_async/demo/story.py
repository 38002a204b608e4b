"""What happens in the demo, act by act."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

from backendpool_async import BackendPool
from backendpool_async.demo.director import Deed, Director
from backendpool_async.demo.follower import Follower
from backendpool_async.demo.pace import FOR_A_READER, Pace
from backendpool_async.demo.places import ListFile, ServedName, Variables
from backendpool_async.demo.screen import Screen
from backendpool_async.testing.dns_server import FakeDnsServer

_F1, _F2, _F3, _F4 = (f"10.1.0.{number}:80" for number in range(1, 5))
_D1, _D2, _D3, _D4 = (f"10.2.0.{number}:80" for number in range(1, 5))
_E1, _E2, _E3, _E4 = (f"10.3.0.{number}:80" for number in range(1, 5))

# A file is watched where the extra can; elsewhere it is polled.
_WATCHED: Final = sys.platform == "linux"
_FILE_INTERVAL: Final = 30.0 if _WATCHED else 0.5


async def play(directory: str, pace: Pace = FOR_A_READER) -> int:
    """Tell the story, with the file in `directory`; return 0 when all went as it should, else 1."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(FakeDnsServer())
        story = Story(
            ListFile(directory),
            ServedName(server, pace.dns_ttl),
            stack.enter_context(Variables()),
            pace,
        )
        await story.introduce()
        for follower in story.followers:
            await stack.enter_async_context(follower.pool)
        await stack.enter_async_context(_followed(story.followers))
        await story.tell()
        return story.end()


class Story:
    """The three places, the pools that follow them, and what happens to both."""

    def __init__(self, file: ListFile, name: ServedName, variables: Variables, pace: Pace) -> None:
        self._places = (file, name, variables)
        self._pace = pace
        self._screen = Screen()
        self._director = Director(self._screen, pace.patience)
        self.followers: tuple[Follower, ...] = (
            Follower(
                "file",
                BackendPool.file(file.path, watch=_WATCHED, poll_interval=_FILE_INTERVAL),
            ),
            Follower(
                "dns",
                BackendPool.dns(
                    name.name,
                    name.port,
                    nameservers=[name.address],
                    poll_interval=pace.dns_interval,
                    timeout=pace.dns_timeout,
                    min_ttl=pace.dns_min_ttl,
                ),
            ),
            Follower(
                "env", BackendPool.env_prefix(variables.prefix, poll_interval=pace.env_interval)
            ),
        )

    async def introduce(self) -> None:
        """Say where the lists are, and fill them."""
        file, name, variables = self._places
        interval = self._pace.env_interval
        self._screen.introduce(
            [
                ("file", f"{file.path}, {'watched' if _WATCHED else 'polled'}"),
                ("dns", f"{name.name}, served on {name.address} with a TTL of {name.ttl} s"),
                ("env", f"{variables.prefix}_0, _1, ..., read every {interval:g} s"),
            ]
        )
        await file.publish([_F1, _F2])
        await name.publish([_D1, _D2])
        await variables.publish([_E1, _E2])

    async def tell(self) -> None:
        """Let everything happen, with time to read it."""
        self._screen.chapter("The pools start")
        for follower in self.followers:
            self._screen.shows(follower, follower.pool.backends(), "")
        await self._rest()
        self._screen.chapter("The lists change")
        await self._lists_change()
        self._screen.chapter("Everything breaks at once")
        await self._everything_breaks()
        self._screen.chapter("Everything is mended, and has changed meanwhile")
        await self._everything_is_mended()
        self._screen.chapter("One wrong answer")
        await self._the_name_vanishes()

    def end(self) -> int:
        """Sum up; return the exit status."""
        self._screen.chapter("What was counted")
        self._director.judge(self.followers)
        self._screen.summarize(self.followers)
        self._screen.end(self._director.unmet)
        return 1 if self._director.unmet else 0

    async def _lists_change(self) -> None:
        (file, name, variables), (of_file, of_name, of_variables) = self._places, self.followers
        for follower, text, publish, backends in (
            (of_file, f"the file gets the line {_F3}", file.publish, [_F1, _F2, _F3]),
            (of_file, f"the file loses the line {_F1}", file.publish, [_F2, _F3]),
            (of_name, "the name gets one address more", name.publish, [_D1, _D2, _D3]),
            (of_variables, f"{variables.prefix}_1 is set anew", variables.publish, [_E1, _E3]),
        ):
            await self._director.change(Deed(follower, text, partial(publish, backends), backends))
            await self._rest()

    async def _everything_breaks(self) -> None:
        (file, name, variables), (of_file, of_name, of_variables) = self._places, self.followers
        await self._director.break_(
            Deed(
                of_file,
                "a writer dies in the middle of a line of the file",
                partial(file.publish_half, [_F2, _F3]),
                [_F2, _F3],
            ),
            Deed(of_name, "the DNS server falls silent", name.fall_silent, [_D1, _D2, _D3]),
            Deed(
                of_variables,
                f"{variables.prefix}_1 is set to 'oops'",
                partial(variables.publish, [_E1, "oops"]),
                [_E1, _E3],
            ),
        )
        await asyncio.sleep(self._pace.outage)
        self._screen.deed("what the pools have served since all broke")
        self._director.hold(self.followers)
        await self._rest()

    async def _everything_is_mended(self) -> None:
        (file, name, variables), (of_file, of_name, of_variables) = self._places, self.followers
        await self._director.change(
            *(
                Deed(follower, text, partial(publish, backends), backends)
                for follower, text, publish, backends in (
                    (of_file, "the file is complete", file.publish, [_F2, _F3, _F4]),
                    (of_name, "the DNS server answers", name.publish, [_D2, _D3, _D4]),
                    (of_variables, "the variables are right", variables.publish, [_E1, _E4]),
                )
            )
        )
        await self._rest()

    async def _the_name_vanishes(self) -> None:
        _, name, _ = self._places
        held = [_D2, _D3, _D4]
        await self._director.break_for_a_moment(
            Deed(
                self.followers[1],
                "the DNS server says NXDOMAIN once",
                partial(name.vanish_once, held),
                held,
            )
        )
        await self._rest()

    async def _rest(self) -> None:
        await asyncio.sleep(self._pace.reading)


@asynccontextmanager
async def _followed(followers: Sequence[Follower]) -> AsyncIterator[None]:
    tasks = {asyncio.create_task(follower.follow()) for follower in followers}
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
