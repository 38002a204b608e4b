"""What happens in the demo, act by act."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from backendpool_async.demo.director import Deed, Director
from backendpool_async.demo.fleet import Instance
from backendpool_async.demo.follower import Follower
from backendpool_async.demo.pace import FOR_A_READER, Pace
from backendpool_async.demo.screen import Screen
from backendpool_async.demo.stage import NAMES, WATCHED, Stage, staged


async def play(directory: str, pace: Pace = FOR_A_READER) -> int:
    """Tell the story, with the file in `directory`; return 0 when all went as it should, else 1."""
    async with staged(directory, pace) as stage:
        story = Story(stage, pace)
        async with _followed(story.followers), stage.load.going_on():
            await story.tell()
        return story.end()


class Story:
    """What is done to the backends and to their lists, while requests go on."""

    def __init__(self, stage: Stage, pace: Pace) -> None:
        self._stage = stage
        self._pace = pace
        self._screen = Screen()
        self._director = Director(self._screen, pace.patience)
        self._of_file = Follower("file", stage.backends.pool)
        self._of_name = Follower("dns", stage.proxies.pool)
        self._running: list[Instance] = list(stage.first)

    @property
    def followers(self) -> tuple[Follower, ...]:
        """Who watches the two lists."""
        return (self._of_file, self._of_name)

    async def tell(self) -> None:
        """Let everything happen, with time to read it."""
        self._introduce()
        await self._rest()
        self._screen.chapter("One after the other is deployed anew")
        for number in range(len(NAMES)):
            await self._deploy(number)
        self._screen.chapter("One is killed, and nobody is told")
        await self._kill()
        self._screen.chapter("The file and DNS break at once")
        await self._break()
        self._screen.chapter("Both are mended")
        await self._mend()

    def end(self) -> int:
        """Sum up; return the exit status."""
        stage = self._stage
        retries = stage.backends.explain().retries + stage.proxies.explain().retries
        self._screen.chapter("What was counted")
        self._director.judge(self.followers, stage.load)
        self._screen.sum_up_requests(stage.load, retries)
        self._screen.summarize(self.followers)
        self._screen.sum_up_kept(self.followers)
        self._screen.end(self._director.unmet)
        return 1 if self._director.unmet else 0

    def _introduce(self) -> None:
        stage = self._stage
        self._screen.introduce(
            [
                (
                    "load",
                    f"{self._pace.rate:g} requests a second, each at its time; all on loopback",
                ),
                ("dns", f"{stage.name.name}, served on {stage.name.address}"),
                ("proxy", f"http://{stage.proxy}"),
                ("file", f"{stage.file.path}, {'watched' if WATCHED else 'polled'}"),
            ]
        )
        self._screen.chapter("Three backends and the proxy have started")
        for follower in self.followers:
            self._screen.shows(follower, follower.pool.backends(), "")

    async def _deploy(self, number: int) -> None:
        old = self._running[number]
        new = await self._start(f"{NAMES[number]}.v2")
        await self._list(f"{new.name} has started, and is listed", [*self._running, new])
        self._running[number] = new
        await self._list(f"{old.name} is no longer listed", self._running)
        await asyncio.sleep(self._pace.draining)
        await old.stop()
        self._screen.deed(f"{old.name} is drained, and has ended")
        await self._rest()

    async def _kill(self) -> None:
        dead = self._running[0]
        backends = self._stage.backends
        await dead.kill()
        self._screen.deed(f"{dead.name} is killed; the file still lists it")

        def is_ejected() -> bool:
            return any(each.state == "ejected" for each in backends.explain().backends)

        took = await self._director.expect(self._of_file, "its ejection", is_ejected)
        for each in backends.explain().backends:
            if each.ejected_because is not None:
                self._screen.tells("proxy", f"ejects {each.backend}", took)
        await self._rest()
        self._running[0] = await self._start(f"{NAMES[0]}.v3")
        await self._list(
            f"{self._running[0].name} has started, and is listed instead", self._running
        )
        await self._rest()

    async def _break(self) -> None:
        stage, listed = self._stage, [each.address for each in self._running]
        await self._director.break_(
            Deed(
                self._of_file,
                "a writer dies in the middle of a line of the file",
                partial(stage.file.publish_half, listed[:1]),
                listed,
            ),
            Deed(
                self._of_name, "the DNS server falls silent", stage.name.fall_silent, [stage.proxy]
            ),
        )
        await asyncio.sleep(self._pace.outage)
        self._screen.deed("what was served since both broke")
        self._director.hold(self.followers)
        await self._rest()

    async def _mend(self) -> None:
        stage, listed = self._stage, [each.address for each in self._running]
        host = stage.proxy.rpartition(":")[0]
        await self._director.change(
            Deed(self._of_file, "the file is whole", partial(stage.file.publish, listed), listed),
            Deed(
                self._of_name,
                "the DNS server answers",
                partial(stage.name.publish, host),
                [stage.proxy],
            ),
        )
        await self._rest()

    async def _start(self, name: str) -> Instance:
        return await self._stage.fleet.start(name)

    async def _list(self, text: str, instances: Sequence[Instance]) -> None:
        addresses = [each.address for each in instances]
        publish = partial(self._stage.file.publish, addresses)
        await self._director.change(Deed(self._of_file, text, publish, addresses))

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
