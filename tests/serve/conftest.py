"""A server of the demonstration model for all tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from serving import Running, running


@pytest.fixture(scope="module")
def demo() -> Iterator[Running]:
    with running(max_body=300_000, max_pixels=1_000_000, body_timeout=5) as server:
        yield server


@pytest.fixture
def client(demo: Running) -> Iterator[httpx.Client]:
    with demo.client() as one:
        yield one
