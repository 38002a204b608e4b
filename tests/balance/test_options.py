"""A mistake in what a balancer is made with is named where it is made."""

from __future__ import annotations

from typing import Any

import pytest

from backendpool_async import BackendPool, Balancer, LeastRequest, TcpCheck


@pytest.mark.parametrize(
    ("keyword", "wrong", "message"),
    [
        ("policy", LeastRequest, r"^policy= takes an instance: pass LeastRequest\(\)"),
        ("policy", "round", r"^policy=.*round.* has no 'prepare'"),
        ("checks", TcpCheck(), r"^checks=.*TcpCheck.* is neither HealthChecks\(...\)"),
        ("zone", 3, "^zone=.*3.* is neither a string nor None"),
        ("subset", 3, r"^subset=.*3.* is neither a Subset\(client=..., size=...\) nor None"),
        ("ejection", 5, r"^ejection=.*5.* is neither an OutlierEjection\(...\) nor None"),
        ("clock", 1.0, "^clock=.*1.0.* is no function"),
        ("classify", OSError("x"), "^classify=.*OSError.* is no function"),
    ],
)
def test_what_is_of_the_wrong_kind_is_refused_by_name(
    keyword: str, wrong: object, message: str
) -> None:
    pool = BackendPool.static(["10.0.0.1:80"])
    keywords: dict[str, Any] = {keyword: wrong}
    with pytest.raises(TypeError, match=message):
        Balancer(pool, **keywords)
    assert not pool._wakers, "nothing of it is left"
