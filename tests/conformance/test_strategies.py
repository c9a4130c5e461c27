"""Every strategy there is keeps the laws of a strategy."""

from __future__ import annotations

from typing import Any

import pytest

from chunkwise.chunking import Strategy
from chunkwise.testing import StrategyConformance


@pytest.mark.usefixtures("adapter")
class TestStrategies(StrategyConformance):
    kind = "strategies"
    adapter: Any

    def make_strategy(self) -> Strategy:
        return self.adapter()
