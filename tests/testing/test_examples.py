from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["dns_server", "fed", "scripted", "virtual_time"])
def test_the_examples_in_the_docstrings_run(module: str) -> None:
    results = doctest.testmod(importlib.import_module(f"backendpool_async.testing.{module}"))
    assert results.attempted > 0
    assert results.failed == 0
