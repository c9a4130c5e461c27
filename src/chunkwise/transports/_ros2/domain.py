"""A DDS domain of this process: its number, its network, and how long it is needed."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any, Final

from chunkwise.plugins import require
from chunkwise.transports._ros2 import Ros2Error, Settings

MAX_DOMAIN: Final = 232
"""Ports of higher ones are beyond 65535."""
LOOPBACK: Final = (
    "<General><Interfaces><NetworkInterface address='127.0.0.1' multicast='false'/></Interfaces></General>"
    "<Discovery><ParticipantIndex>auto</ParticipantIndex><MaxAutoParticipantIndex>60</MaxAutoParticipantIndex>"
    "<SPDPInterval>1s</SPDPInterval><InitialLocatorPruneDelay>inf</InitialLocatorPruneDelay>"
    "<DiscoveredLocatorPruneDelay>inf</DiscoveredLocatorPruneDelay>"
    "<Peers><Peer address='127.0.0.1'/></Peers></Discovery>"
)
"""One host, without a multicast: participants are asked for by their ports, and again, for one may come late."""
RECEIVE_BUFFER: Final = "10MiB"
"""Of the socket, where the kernel allows it (``net.core.rmem_max``): a picture is many packets at once."""


def domain_of(settings: Settings, environment: Mapping[str, str] = os.environ) -> int:
    """The number of the domain.

    Raises:
        Ros2Error: it is none.
    """
    text: Any = settings.domain if settings.domain is not None else environment.get("ROS_DOMAIN_ID") or 0
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= MAX_DOMAIN:
        raise Ros2Error(f"a ROS domain is 0 to {MAX_DOMAIN}, got {text!r}")
    return number


def loopback_of(settings: Settings, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether only this host is spoken to."""
    if settings.loopback is not None:
        return settings.loopback
    nearby = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper() == "LOCALHOST"
    return nearby or environment.get("ROS_LOCALHOST_ONLY", "0") == "1"


def configuration(loopback: bool, max_bytes: int, environment: Mapping[str, str] = os.environ) -> str:
    """What Cyclone DDS is told: ``CYCLONEDDS_URI`` as the user has it, then ours, which wins.

    Args:
        loopback: whether only this host is spoken to.
        max_bytes: longer messages are dropped before they are put together.
        environment: of the process.
    """
    own = (
        f"<CycloneDDS><Domain>{LOOPBACK if loopback else ''}<Internal><MaxSampleSize>{max_bytes}B</MaxSampleSize>"
        f"<SocketReceiveBufferSize max='{RECEIVE_BUFFER}'/></Internal></Domain></CycloneDDS>"
    )
    user = environment.get("CYCLONEDDS_URI", "")
    return f"{user},{own}" if user and not loopback else own


class _Shared:
    """Domains that nodes of this process are in; DDS configures each once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[int, tuple[Any, str, int]] = {}

    def take(self, number: int, text: str) -> None:
        """Have the domain configured while it is needed.

        Raises:
            Ros2Error: it is configured otherwise already.
            OSError: there is no such network.
        """
        core = require("cyclonedds.core", extra="ros2")
        with self._lock:
            domain, known, count = self._held.get(number, (None, text, 0))
            if known != text:
                raise Ros2Error(
                    f"domain {number} is open in this process with another loopback, max_bytes or CYCLONEDDS_URI; "
                    "all of its nodes share one configuration"
                )
            if domain is None:
                try:
                    domain = require("cyclonedds.domain", extra="ros2").Domain(number, text)
                except core.DDSException as error:
                    raise OSError(
                        f"DDS domain {number} cannot be opened ({error}); configured by {text}"
                    ) from error
            self._held[number] = (domain, known, count + 1)

    def release(self, number: int) -> None:
        """One node less."""
        with self._lock:
            domain, text, count = self._held.pop(number)
            if count > 1:
                self._held[number] = (domain, text, count - 1)


shared: Final = _Shared()
