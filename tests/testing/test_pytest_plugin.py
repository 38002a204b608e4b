from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

CONFTEST = 'pytest_plugins = ["backendpool_async.testing.pytest_plugin"]\n'
INI = """
    [pytest]
    asyncio_default_fixture_loop_scope = function
    asyncio_mode = {mode}
    filterwarnings = error
    addopts = --strict-markers
"""
MODES = pytest.mark.parametrize("mode", ["auto", "strict"])


def project(pytester: pytest.Pytester, mode: str, tests: str, conftest: str = "") -> None:
    pytester.makeini(INI.format(mode=mode))
    pytester.makeconftest(CONFTEST + conftest)
    pytester.makepyfile(f"import asyncio\nimport pytest\n{tests}")


def outcomes(pytester: pytest.Pytester, *args: str) -> dict[str, int]:
    return pytester.runpytest(*args).parseoutcomes()


@MODES
def test_a_marked_test_runs_in_virtual_time(pytester: pytest.Pytester, mode: str) -> None:
    project(
        pytester,
        mode,
        """
@pytest.mark.virtual_time
async def test_long():
    await asyncio.sleep(3 * 24 * 3600)
    assert asyncio.get_running_loop().time() == 259200.0
""",
    )
    assert outcomes(pytester) == {"passed": 1}


@MODES
def test_classes_modules_parameters_and_hypothesis_can_be_marked(
    pytester: pytest.Pytester, mode: str
) -> None:
    project(
        pytester,
        mode,
        """
from hypothesis import given, strategies
pytestmark = pytest.mark.virtual_time

async def virtual():
    await asyncio.sleep(3600)
    return asyncio.get_running_loop().time() >= 3600

class TestAll:
    async def test_method(self):
        assert await virtual()

    @staticmethod
    async def test_static():
        assert await virtual()

@pytest.mark.parametrize("n", [1, 2])
async def test_parameters(n):
    assert await virtual()

@given(strategies.integers())
async def test_hypothesis(n):
    assert await virtual()

def test_sync():
    pass
""",
    )
    assert outcomes(pytester, "-p", "no:cacheprovider") == {"passed": 6}


@MODES
def test_the_async_fixtures_of_a_marked_test_share_its_clock(
    pytester: pytest.Pytester, mode: str
) -> None:
    project(
        pytester,
        mode,
        """
import pytest_asyncio

@pytest_asyncio.fixture
async def waited():
    await asyncio.sleep(3600)
    yield asyncio.get_running_loop()
    await asyncio.sleep(3600)
    assert asyncio.get_running_loop().time() == 7200

@pytest.mark.virtual_time
async def test_fixture(waited):
    assert waited is asyncio.get_running_loop()
    assert waited.time() == 3600
""",
    )
    assert outcomes(pytester) == {"passed": 1}


def test_the_other_tests_keep_their_loop_and_their_ids(pytester: pytest.Pytester) -> None:
    tests = """
@pytest.mark.asyncio
async def test_plain():
    assert type(asyncio.get_running_loop()) is {loop}

@pytest.mark.asyncio
@pytest.mark.parametrize("n", [1])
async def test_parameter(n):
    assert asyncio.get_running_loop().time() > 0

def test_sync():
    pass
"""
    loop = "asyncio.SelectorEventLoop"
    project(pytester, "strict", tests.format(loop=loop))
    with_plugin = pytester.runpytest("-v")
    pytester.makeconftest("")
    without_plugin = pytester.runpytest("-v")

    def ids(result: pytest.RunResult) -> list[str]:
        return [line.split(" PASSED")[0] for line in result.outlines if " PASSED" in line]

    assert len(ids(with_plugin)) == 3
    assert ids(with_plugin) == ids(without_plugin)


def test_a_marked_test_keeps_its_id(pytester: pytest.Pytester) -> None:
    project(pytester, "auto", "@pytest.mark.virtual_time\nasync def test_long(): pass\n")
    result = pytester.runpytest("--collect-only", "-q")
    assert result.outlines[0].endswith("::test_long")


def test_loop_factories_of_the_project_stay_in_force_for_unmarked_tests(
    pytester: pytest.Pytester,
) -> None:
    project(
        pytester,
        "auto",
        """
from backendpool_async.testing import VirtualTimeLoop

async def test_plain():
    assert type(asyncio.get_running_loop()).__name__ == "Own"

@pytest.mark.virtual_time
async def test_long():
    assert isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
""",
        conftest="""
import asyncio

class Own(asyncio.SelectorEventLoop):
    pass

def pytest_asyncio_loop_factories(config, item):
    return {"own": Own}
""",
    )
    assert outcomes(pytester) == {"passed": 2}


def test_the_horizon_can_be_set_and_a_deadlock_fails_the_test(pytester: pytest.Pytester) -> None:
    project(
        pytester,
        "auto",
        """
@pytest.mark.virtual_time(horizon=60)
async def test_too_far():
    await asyncio.sleep(61)

@pytest.mark.virtual_time
async def test_deadlock():
    await asyncio.Event().wait()

@pytest.mark.virtual_time
async def test_after_it():
    await asyncio.sleep(61)
""",
    )
    result = pytester.runpytest()
    assert result.parseoutcomes() == {"passed": 1, "failed": 2}
    result.stdout.fnmatch_lines(["*DeadlockError: the clock passed the horizon of 60*"])
    result.stdout.fnmatch_lines(["*DeadlockError: nothing is scheduled*"])


def test_what_others_collect_in_their_own_way_is_left_alone(pytester: pytest.Pytester) -> None:
    project(
        pytester,
        "strict",
        """
import unittest
pytestmark = pytest.mark.virtual_time

class TestOld(unittest.TestCase):
    def test_sync(self):
        pass

async def test_own():
    pass
""",
        conftest="""
import pytest

class Own(pytest.Item):
    def runtest(self):
        assert not list(self.iter_markers("asyncio"))

def pytest_pycollect_makeitem(collector, name):
    return [Own.from_parent(collector, name=name)] if name == "test_own" else None
""",
    )
    assert outcomes(pytester) == {"passed": 2}


def test_the_marker_is_documented(pytester: pytest.Pytester) -> None:
    project(pytester, "auto", "")
    pytester.runpytest("--markers").stdout.fnmatch_lines(["@pytest.mark.virtual_time(horizon=*"])


def test_without_pytest_asyncio_it_says_what_it_needs(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    result = pytester.runpytest("-p", "no:asyncio")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*needs pytest-asyncio with loop factories*"])
