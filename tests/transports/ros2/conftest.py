"""Nodes on the loopback, in a domain of this process's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from chunkwise.transports._ros2 import Node, Settings, open_node

DOMAIN = 1 + os.getpid() % 100


@pytest.fixture
def domain() -> int:
    return DOMAIN


@pytest.fixture
def join() -> Iterator[Callable[..., Node]]:
    """Makes nodes, and closes them in the end."""
    with ExitStack() as nodes:

        def made(name: str, **settings: Any) -> Node:
            node = open_node(Settings(name, domain=DOMAIN, loopback=True, **settings))
            nodes.callback(node.close)
            return node

        yield made
