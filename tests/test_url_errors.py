"""What is wrong with a URL's arguments is said with the URL, whoever finds it."""

from __future__ import annotations

import pytest

from backendpool_async import BackendPool, InvalidBackend, sync
from backendpool_async.cli import main

WRONG = [
    ("dns://api.internal:8080?timeout=-1", "timeout=-1.0"),
    ("dns://api.internal:8080?family=ipv5", "family"),
    ("dns://api.internal:8080?nameservers=nowhere!", "nowhere!"),
    ("dns://api.internal:8080?min_ttl=-1", "min_ttl"),
    ("env:A?poll_interval=0", "poll_interval=0.0"),
    ("env:A=B", "no environment variable begins with 'A=B'"),
    ("file:a%00b", "no file can have the name"),
    ("static:a:1,b", "invalid backend 'b' (entry 2): no port"),
    ("env:A?initial=b", "invalid backend 'b' (entry 1): no port"),
]


@pytest.mark.parametrize(("url", "what"), WRONG)
def test_an_error_of_the_constructor_begins_with_the_url(url: str, what: str) -> None:
    for pool in (BackendPool, sync.BackendPool):
        with pytest.raises(ValueError, match=r"^'") as caught:
            pool.from_url(url)
        assert str(caught.value).startswith(f"{url!r}: ")
        assert str(caught.value).count(url) == 1
        assert what in str(caught.value)
        assert isinstance(caught.value.__cause__, ValueError)


def test_an_invalid_backend_stays_one() -> None:
    with pytest.raises(InvalidBackend) as caught:
        BackendPool.from_url("static:a:1,b")
    assert (caught.value.entry, caught.value.place) == ("b", "entry 2")


@pytest.mark.parametrize(("url", "what"), WRONG)
def test_the_command_line_says_it_on_one_line_and_exits_with_2(
    url: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["resolve", url])
    assert exit_.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"error: argument URL: {url!r}: " in line
    assert what in line
