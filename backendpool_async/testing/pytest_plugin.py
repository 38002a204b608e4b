"""The marker `virtual_time` for pytest, through pytest-asyncio.

One line in the top ``conftest.py``::

    pytest_plugins = ["backendpool_async.testing.pytest_plugin"]

Then a test, with the async fixtures of function scope that it uses, runs on a `VirtualTimeLoop`::

    @pytest.mark.virtual_time
    async def test_an_outage_of_three_days() -> None:
        await asyncio.sleep(3 * 24 * 3600)

The marker implies ``asyncio``, also in strict mode; ``virtual_time(horizon=3600)`` sets the
`horizon`. Other tests keep the event loop and the test id that they have without the plugin.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Generator, Mapping
from typing import Any

from backendpool_async.extras import missing
from backendpool_async.testing.virtual_time import VirtualTimeLoop

try:
    import pytest
except ModuleNotFoundError as _error:
    raise missing(__name__, "pytest 'pytest-asyncio>=1.5'", _error) from _error

_LoopFactories = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]


def pytest_configure(config: pytest.Config) -> None:
    if not config.hook.pytest_asyncio_loop_factories.has_spec():
        raise pytest.UsageError(
            "backendpool_async.testing.pytest_plugin needs pytest-asyncio with loop factories"
            " (1.5 has them)"
        )
    config.addinivalue_line(
        "markers",
        "virtual_time(horizon=seconds): run the test on an event loop whose clock jumps to the"
        " next timer; never with sockets",
    )


# A wrapper, so that a project's own loop factories stay in force for the tests without the marker.
@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Generator[None, _LoopFactories | None, _LoopFactories]:
    others = yield
    marker = item.get_closest_marker("virtual_time")
    if marker is not None:
        return {"virtual_time": functools.partial(VirtualTimeLoop, **marker.kwargs)}
    # pytest-asyncio takes no "none" from a hook that exists; this is what it does by itself. A
    # single factory does not show in the test's id.
    return others or {"asyncio": asyncio.new_event_loop}


# pytest-asyncio looks for its marker twice, on the definition and on the item made of it. Both
# of these come before its own hooks: one as a wrapper, the other as the innermost wrapper.
@pytest.hookimpl(wrapper=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Generator[None]:
    _imply_asyncio(metafunc.definition)
    return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_pycollect_makeitem() -> Generator[None, object, object]:
    made = yield
    if isinstance(made, list):
        for item in made:
            if isinstance(item, pytest.Function):
                _imply_asyncio(item)
    return made


def _imply_asyncio(item: pytest.Function) -> None:
    if (
        item.get_closest_marker("virtual_time") is not None
        and item.get_closest_marker("asyncio") is None
        and _is_async(item.obj)
    ):
        item.add_marker("asyncio")


def _is_async(function: Any) -> bool:
    hypothesis = getattr(function, "hypothesis", None)
    return inspect.iscoroutinefunction(getattr(hypothesis, "inner_test", function))
