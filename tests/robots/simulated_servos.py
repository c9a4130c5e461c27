"""Servos and cameras without hardware, below all of LeRobot's own code.

`scservo_sdk` (Feetech) and `dynamixel_sdk` are replaced: their packets read and write the registers of servos in
memory, which obey at once. LeRobot's buses, calibrations and robots run as they are.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from chunkwise.engines._lerobot import import_lerobot

OK, LOST = 0, -6
ARM = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")


@dataclass(frozen=True)
class Family:
    """Where a family of servos keeps what the tests care for: address and length in bytes."""

    sdk: str
    prefix: str
    goal: int
    present: int
    speed_goal: int
    speed: int
    torque: int
    offset: tuple[int, int]
    lower: tuple[int, int]
    upper: tuple[int, int]
    models: Mapping[int, int]
    """Number of the model by the servo's id; 0 for any other."""


FEETECH = Family("scservo_sdk", "SCS", 42, 56, 46, 58, 40, (31, 2), (9, 2), (11, 2), {0: 777})
DYNAMIXEL = Family(
    "dynamixel_sdk", "DXL", 116, 132, 104, 128, 64, (20, 4), (52, 4), (48, 4), {0: 1200, 1: 1060, 2: 1060}
)


@dataclass
class Servos:
    """The servos of every port.

    Attributes:
        memory: (port, id) -> registers.
        open: ports that are.
        lose: how many of the next packets that ask several servos at once are lost.
        gone: ports whose cable was pulled: nothing answers.
        written: how often each register was, by (port, id, address).
    """

    family: Family
    memory: dict[tuple[str, int], bytearray] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    lose: int = 0
    gone: set[str] = field(default_factory=set)
    written: Counter[tuple[str, int, int]] = field(default_factory=Counter)

    def add(self, port: str, id: int, lower: int, upper: int, offset: int = 0) -> None:
        """A calibrated servo in the middle of its range."""
        servo = self.memory[port, id] = bytearray(256)
        width = 2 if self.family is FEETECH else 4
        for (address, length), value in zip(
            (self.family.lower, self.family.upper, self.family.offset), (lower, upper, offset), strict=True
        ):
            servo[address : address + length] = value.to_bytes(length, "little")
        servo[self.family.present : self.family.present + width] = ((lower + upper) // 2).to_bytes(width, "little")

    def read(self, port: str, id: int, address: int, length: int) -> int:
        return int.from_bytes(self.memory[port, id][address : address + length], "little")

    def write(self, port: str, id: int, address: int, data: list[int]) -> None:
        """Write a register; a goal is reached at once where there is torque."""
        servo = self.memory[port, id]
        self.written[port, id, address] += 1
        servo[address : address + len(data)] = bytes(data)
        reached = {self.family.goal: self.family.present, self.family.speed_goal: self.family.speed}.get(address)
        if reached is not None and servo[self.family.torque]:
            servo[reached : reached + len(data)] = bytes(data)

    def torque(self, port: str, id: int) -> bool:
        return bool(self.memory[port, id][self.family.torque])

    def modules(self) -> dict[str, ModuleType]:
        """The family's software, to be put into `sys.modules`."""
        sdk: Any = ModuleType(self.family.sdk)
        sdk.COMM_SUCCESS = OK
        sdk.PortHandler = lambda name: _Port(self, name)
        sdk.PacketHandler = lambda protocol: _Packets(self)
        sdk.GroupSyncRead = sdk.GroupSyncWrite = lambda port, packets, address, length: _Group(self, port)
        for name, shift in (("LOBYTE", 0), ("HIBYTE", 8)):
            setattr(sdk, f"{self.family.prefix}_{name}", lambda value, shift=shift: value >> shift & 0xFF)
        for name, shift in (("LOWORD", 0), ("HIWORD", 16)):
            setattr(sdk, f"{self.family.prefix}_{name}", lambda value, shift=shift: value >> shift & 0xFFFF)
        return {self.family.sdk: sdk}


@dataclass
class _Port:
    servos: Servos
    name: str
    is_open: bool = False
    is_using: bool = False

    def openPort(self) -> bool:
        self.is_open = any(port == self.name for port, _ in self.servos.memory)
        self.servos.open |= {self.name} if self.is_open else set()
        return self.is_open

    def closePort(self) -> None:
        self.is_open = False
        self.servos.open.discard(self.name)

    def clearPort(self) -> None:
        """Nothing is waiting."""

    def setPacketTimeoutMillis(self, timeout_ms: float) -> None:
        """Servos in memory answer in time."""


@dataclass
class _Packets:
    servos: Servos

    def getTxRxResult(self, result: int) -> str:
        return "There is no status packet!"

    def getRxPacketError(self, error: int) -> str:
        return ""

    def ping(self, port: _Port, id: int) -> tuple[int, int, int]:
        if (port.name, id) not in self.servos.memory or port.name in self.servos.gone:
            return 0, LOST, 0
        models = self.servos.family.models
        return models.get(id, models[0]), OK, 0

    def _read(self, port: _Port, id: int, address: int, length: int) -> tuple[int, int, int]:
        if port.name in self.servos.gone:
            return 0, LOST, 0
        return self.servos.read(port.name, id, address, length), OK, 0

    def read1ByteTxRx(self, port: _Port, id: int, address: int) -> tuple[int, int, int]:
        return self._read(port, id, address, 1)

    def read2ByteTxRx(self, port: _Port, id: int, address: int) -> tuple[int, int, int]:
        return self._read(port, id, address, 2)

    def read4ByteTxRx(self, port: _Port, id: int, address: int) -> tuple[int, int, int]:
        return self._read(port, id, address, 4)

    def writeTxRx(self, port: _Port, id: int, address: int, length: int, data: list[int]) -> tuple[int, int]:
        if port.name in self.servos.gone:
            return LOST, 0
        self.servos.write(port.name, id, address, data)
        return OK, 0


@dataclass
class _Group:
    """Several servos in one packet; `start_address` and `data_length` are set from outside."""

    servos: Servos
    port: _Port
    start_address: int = 0
    data_length: int = 0
    data: dict[int, list[int]] = field(default_factory=dict)

    def clearParam(self) -> None:
        self.data = {}

    def addParam(self, id: int, data: list[int] | None = None) -> None:
        self.data[id] = data or []

    def txRxPacket(self) -> int:
        if self.servos.lose or self.port.name in self.servos.gone:
            self.servos.lose = max(self.servos.lose - 1, 0)
            return LOST
        return OK

    def getData(self, id: int, address: int, length: int) -> int:
        return self.servos.read(self.port.name, id, address, length)

    def txPacket(self) -> int:
        if self.port.name in self.servos.gone:
            return LOST
        for id, data in self.data.items():
            self.servos.write(self.port.name, id, self.start_address, data)
        return OK


def calibrated(
    servos: Servos, folder: Path, name: str, port: str, motors: Mapping[str, int], offset: int = 0
) -> dict[str, tuple[int, int]]:
    """Add the servos of one bus and write their calibration file, `name`.json; a range of its own for each."""
    limits = {
        motor: (0, 4095) if "roll" in motor or "wheel" in motor else (1000 - id, 3000 + 10 * id)
        for motor, id in motors.items()
    }
    for motor, id in motors.items():
        servos.add(port, id, *limits[motor], offset)
    written = {
        motor: {
            "id": id,
            "drive_mode": 0,
            "homing_offset": offset,
            "range_min": limits[motor][0],
            "range_max": limits[motor][1],
        }
        for motor, id in motors.items()
    }
    (folder / f"{name}.json").write_text(json.dumps(written), encoding="utf-8")
    return limits


def synthetic_camera() -> None:
    """Let LeRobot know a camera type `synthetic`, whose every picture is brighter than the one before."""
    configs, cameras = import_lerobot("lerobot.cameras.configs"), import_lerobot("lerobot.cameras.camera")
    if "synthetic" in configs.CameraConfig.get_known_choices():
        return

    class SyntheticCamera(cameras.Camera):  # type: ignore[misc, name-defined]
        """Grey, one brighter with every look."""

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.config, self.connected, self.looks = config, False, 0

        @property
        def is_connected(self) -> bool:
            return self.connected

        @staticmethod
        def find_cameras() -> list[dict[str, Any]]:
            return []

        def connect(self, warmup: bool = True) -> None:
            if self.config.broken:
                raise ConnectionError("no such device")
            self.connected = True

        def read(self) -> Any:
            self.looks += 1
            return np.full((self.height, self.width, 3), self.looks % 256, dtype=np.uint8)

        def async_read(self, timeout_ms: float = 200) -> Any:
            return self.read()

        def read_latest(self, max_age_ms: int = 500) -> Any:
            return self.read()

        def disconnect(self) -> None:
            self.connected = False

    @configs.CameraConfig.register_subclass("synthetic")  # type: ignore[untyped-decorator]
    @dataclass(kw_only=True)
    class SyntheticCameraConfig(configs.CameraConfig):  # type: ignore[misc, name-defined]
        broken: bool = False

    plugin: Any = ModuleType("lerobot_camera_synthetic")  # LeRobot looks the camera up beside its configuration
    plugin.SyntheticCamera, plugin.SyntheticCameraConfig = SyntheticCamera, SyntheticCameraConfig
    SyntheticCameraConfig.__module__ = plugin.__name__
    sys.modules[plugin.__name__] = plugin


@contextmanager
def so101(folder: Path) -> Iterator[dict[str, Any]]:
    """Arguments of `Lerobot` for an SO-101 with a camera, calibrated in that folder."""
    servos = Servos(FEETECH)
    calibrated(servos, folder, "me", "/dev/a", {name: index + 1 for index, name in enumerate(ARM)})
    synthetic_camera()
    sys.modules.update(servos.modules())
    try:
        yield {
            "type": "so101_follower",
            "port": "/dev/a",
            "id": "me",
            "cameras": {"front": {"type": "synthetic", "width": 8, "height": 6, "fps": 30}},
            "config": {"calibration_dir": str(folder)},
        }
    finally:
        del sys.modules[FEETECH.sdk]
