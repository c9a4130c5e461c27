"""Every wire on one server at once, several clients of each: sessions are never mixed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import options, plugins
from chunkwise.contract import (
    Action,
    ChunkRequest,
    Command,
    Frame,
    PolicyFailed,
    PolicyOutputSpec,
    PolicySpec,
)
from chunkwise.server import Listen, Server, Settings
from chunkwise.transports import Address

PATIENCE_S = 20.0
"""For what must happen; only a failing test uses it up."""
ALOHA = {"left_arm": 6, "left_gripper": 1, "right_arm": 6, "right_gripper": 1}
JOINTS = [f"joint{number}" for number in range(1, 7)]
OPENARM = {"right_arm": 7, "right_gripper": 1, "left_arm": 7, "left_gripper": 1}
ROWS = 8
CALLS = 12
"""Of each client; who begins a new episode does so in the middle."""
STAND, MARK, COUNT = 1 / 8, 1 / 64, 1 / 1024
"""What a client's number, its task's, and the count of its session's inferences add: exact in float32."""


class Conversation:
    """One client's state of the policy: its rows are the state, the number in the task, and a count.

    Args:
        spec: what it declares; None for nothing.
    """

    def __init__(self, spec: PolicySpec | None) -> None:
        self.spec = spec
        self._count = 0

    def reset(self) -> None:
        self._count = 0

    def infer(self, frame: Frame, request: ChunkRequest) -> list[Action]:
        self._count += 1
        more = int(frame.task["prompt"].rpartition(" ")[2]) * MARK + self._count * COUNT
        commands = {
            name: Command("gripper_position" if name.endswith("gripper") else "joint_position", value + more)
            for name, value in frame.state.items()
            if name.endswith(("arm", "gripper"))
        }
        return [Action(commands)] * ROWS


class Marks(Conversation):
    """The loaded policy.

    The OpenArm has two joints more than what is declared, so its sessions are begun while nothing is.

    Attributes:
        declares: whether a session that begins now says what it needs.
    """

    def __init__(self) -> None:
        names = {part: JOINTS if dim > 1 else ["gripper"] for part, dim in ALOHA.items()}
        outputs = [
            PolicyOutputSpec(
                part, "joint_position" if dim > 1 else "gripper_position", dim, names=list(names[part])
            )
            for part, dim in ALOHA.items()
        ]
        super().__init__(
            PolicySpec(
                "marks",
                [],
                list(ALOHA),
                outputs=outputs,
                state_names=names,
                action_horizon=ROWS,
                control_hz=50.0,
            )
        )
        self.declares = True

    def session(self) -> Conversation:
        return Conversation(self.spec if self.declares else None)


LISTENS = {
    "native": "native=tcp://127.0.0.1:0",
    "native+unix": "native=unix:FOLDER/native.socket",
    "openarm+unix": "openarm=unix:FOLDER/openarm.socket?limits=none&stale_ms=0&hold_after_reset_ms=0"
    "&patience_ms=5000&reset_patience_ms=5000&control_hz=50",
    "ark+http": "ark=http://127.0.0.1:0?idle_s=3600",
    "openpi": "openpi=ws://127.0.0.1:0",
    "lerobot+grpc": "lerobot=grpc://127.0.0.1:0",
    "gr00t": "gr00t=zmq://127.0.0.1:0",
}
SAID = "outputs=" + ",".join(
    f"{name}:{'joint' if dim > 1 else 'gripper'}_position:{dim}" for name, dim in ALOHA.items()
)
CLIENTS = {
    "openarm+unix": "limits=none",
    "ark+http": "cameras=cam_high:,cam_left_wrist:,cam_right_wrist:&send_reset=true&session=NAME",
    "lerobot+grpc": f"{SAID}&actions_per_chunk={ROWS}",
    "gr00t": SAID,
}
"""What clients of protocols that do not say it are told of the policy."""


class Everything:
    """A server that speaks every wire, on a loop of its own.

    Args:
        folder: of its sockets.
        token: that it asks for; empty for none.
    """

    def __init__(self, folder: Path, token: str = "") -> None:
        self.policy = Marks()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        listens = [_listen(text.replace("FOLDER", str(folder))) for text in LISTENS.values()]
        settings = Settings(strategy=plugins.load("strategies", "switch")(), token=token)
        self.server = Server(lambda: self.policy, listens, settings)

        async def begin() -> None:
            await self.server.start()
            await self.server.service.loaded

        self._run(begin())

    def url(self, scheme: str, name: str) -> str:
        """Where a client of that name connects."""
        address = self.server.addresses[list(LISTENS).index(scheme)]
        where = address.path if scheme.endswith("unix") else f"127.0.0.1:{address.port}"
        return f"{scheme}://{where}?{CLIENTS.get(scheme, '').replace('NAME', name)}"

    def close(self) -> None:
        self._run(self.server.stop(1.0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, doing: Any) -> None:
        asyncio.run_coroutine_threadsafe(doing, self._loop).result(PATIENCE_S)


def _listen(text: str) -> Listen:
    name, _, where = text.partition("=")
    address = Address.parse(where)
    wire = plugins.load("wires", name)
    return Listen(name, wire(**options.chosen(wire, address.options, name)), address)


class Robot(threading.Thread):
    """One client: it stands where nobody else does, has a task of its own, and asks again and again.

    Args:
        scheme: how it connects.
        number: its own.
        everything: the server.
        resets: whether it begins a new episode in the middle.
    """

    def __init__(self, scheme: str, number: int, everything: Everything, resets: bool) -> None:
        super().__init__(name=f"{scheme} {number}")
        parts = OPENARM if scheme.startswith("openarm") else ALOHA
        self._played = scheme.startswith(("openarm", "ark"))
        self._number, self._resets = number, resets
        stands = number * STAND + np.arange(sum(parts.values())) * COUNT
        starts = np.cumsum([0, *parts.values()])
        state = {name: stands[starts[i] : starts[i + 1]] for i, name in enumerate(parts)}
        self._frame, self._stands = Frame({}, state, {"prompt": f"task {number}"}), stands
        self._remote = plugins.load("policies", "remote")(
            url=everything.url(scheme, f"robot{number}"), timeout_s=PATIENCE_S
        )
        self.episodes: list[list[int]] = [[]]
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for step in range(CALLS):
                if self._resets and step == CALLS // 2:
                    self._remote.reset()
                    self.episodes.append([])
                self._ask(step)
        except BaseException as error:  # noqa: BLE001  told by the test
            self.error = error

    def begin(self) -> None:
        """The first call, alone: the session is made."""
        self._ask(0)

    def close(self) -> None:
        """Twice is fine."""
        self._remote.close()

    def _ask(self, step: int) -> None:
        try:
            chunk = self._remote.infer(self._frame, ChunkRequest(step))
        except PolicyFailed as error:
            if self._played and "no new chunk" in str(error):  # the plan goes on
                return
            raise
        if not chunk.meta.get("hold"):
            self.episodes[-1].append(self._count(chunk.rows))

    def _count(self, rows: Any) -> int:
        """Which inference of its session the rows are of, once it is known that they are for this robot."""
        more = rows - self._stands - self._number * MARK
        assert (more == more[0, 0]).all(), f"{self.name}: rows of somebody else: {more[:2]}"
        count = more[0, 0] / COUNT
        assert count == int(count) and 1 <= count <= CALLS + 1, f"{self.name}: {count}"
        return int(count)

    def check(self) -> None:
        """Every episode counts from one, whatever others did."""
        if self.error is not None:
            raise AssertionError(self.name) from self.error
        assert len(self.episodes) == 1 + self._resets
        for counts in self.episodes:
            if self._played:  # the server asks the policy when it wants to, and plays the rows that it has
                assert counts and counts == sorted(counts) and counts[0] <= 2, (self.name, self.episodes)
            else:
                first = counts[0]
                assert counts == list(range(first, first + len(counts))), (self.name, self.episodes)
        if not self._played:
            assert [counts[0] for counts in self.episodes][1:] == [1] * self._resets, (self.name, self.episodes)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Everything]]:
    with ExitStack() as stack:

        def start(**given: Any) -> Everything:
            made = Everything(tmp_path, **given)
            stack.callback(made.close)
            return made

        yield start


def test_every_wire_at_once_and_no_session_is_mixed(serve: Callable[..., Everything]) -> None:
    everything = serve()
    robots: list[Robot] = []
    with ExitStack() as stack:
        for number, scheme in enumerate([scheme for scheme in LISTENS for _ in range(2)]):
            everything.policy.declares = not scheme.startswith("openarm")
            robots.append(Robot(scheme, number, everything, resets=number % 2 == 1))
            stack.callback(robots[-1].close)
            robots[-1].begin()
        for robot in robots:
            robot.start()
        for robot in robots:
            robot.join()
    for robot in robots:
        robot.check()


@pytest.mark.parametrize("scheme", [scheme for scheme in LISTENS if not scheme.endswith("unix")])
def test_no_wire_answers_who_shows_no_token(serve: Callable[..., Everything], scheme: str) -> None:
    everything = serve(token="a secret")
    with pytest.raises(PolicyFailed, match=r"(?i)token|unauthori"), ExitStack() as stack:
        robot = Robot(scheme, 1, everything, resets=False)
        stack.callback(robot.close)
        robot.begin()
