"""The port of a robot's cameras."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Seen(NamedTuple):
    """A camera's newest picture.

    Attributes:
        picture: (height, width, 3) uint8 RGB, not written again.
        time_ns: when it was captured, on the loop's clock.
    """

    picture: NDArray[np.uint8]
    time_ns: int


class Eyes(Protocol):
    """Some cameras."""

    def start(self) -> None:
        """Open them; pictures come when they come."""
        ...

    def newest(self) -> dict[str, Seen]:
        """The newest picture of every camera that has had one, without waiting."""
        ...

    def problems(self) -> dict[str, str]:
        """What is wrong with a camera, of those with which something is."""
        ...

    def close(self) -> None:
        """Let them go.  Twice is fine."""
        ...
