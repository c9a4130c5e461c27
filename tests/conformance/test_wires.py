"""Every wire there is keeps the contract of a wire."""

from __future__ import annotations

from typing import Any

import pytest

from chunkwise.testing import WireConformance
from chunkwise.wires import Wire


@pytest.mark.usefixtures("adapter")
class TestWires(WireConformance):
    kind = "wires"
    adapter: Any

    def make_wire(self) -> Wire:
        return self.adapter()
