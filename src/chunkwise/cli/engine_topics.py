"""``chunkwise engine --ros2``: a policy's network at two ROS 2 topics, without a ROS installation."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from chunkwise.cli.assembly import recipe_of
from chunkwise.cli.parser import Parser, dotted
from chunkwise.cli.serve import LEVELS, SWITCH_INTERVAL_S, Log
from chunkwise.cli.settings import DEVICE_HELP, Choice, on_device, resolved
from chunkwise.heap import keep_freed_memory
from chunkwise.options import UsageError, convert
from chunkwise.server.topics import DEADLINE_S, MAX_WAITING, TopicEngine
from chunkwise.transports._ros2.inference_topics import InferenceTopics
from chunkwise.wires import Readiness

EXAMPLES = """\
  chunkwise engine --policy path/to/pretrained_model --device cuda --ros2
  chunkwise engine --policy DIR --ros2 'ros2://?domain=3&input=/preprocessed/batch&output=/inference/action'
  chunkwise run --policy DIR --execution-mode distributed --network 'ros2://?domain=3'
"""
ABOUT = """\
A policy's network at two ROS 2 topics, for robots of this project and for IB-Robot's. The robot has its own copy
of the directory, without the weights, and does what stands before and after the network.
"""
STDIN: Final = 0


def add_flags(parser: Parser) -> None:
    """The flags of this way to serve."""
    parser.add_argument("--policy", metavar="DIR", help="directory of a LeRobot, exported or compiled policy")
    parser.add_argument("--device", metavar="X", help=DEVICE_HELP)
    parser.add_argument(
        "--ros2",
        metavar="ADDRESS",
        nargs="?",
        const="ros2://",
        help="at ROS 2 topics: ros2:// (default), or ros2://?OPTION=VALUE&... with input, output, domain, "
        "loopback, node_name, api, distro, package, max_message_mb",
    )
    parser.add_argument(
        "--max-waiting", metavar="N", default=str(MAX_WAITING), help="requests that wait; one more is refused"
    )
    parser.add_argument(
        "--deadline-s", metavar="X", default=str(DEADLINE_S), help="of requests that have none (default 5)"
    )
    parser.add_argument("--drain-s", metavar="X", default="10", help="how long SIGTERM waits for answers")
    parser.add_argument(
        "--until-stdin-ends",
        action="store_true",
        help="end when standard input does: with the program that started this one, however that ends",
    )
    parser.add_argument("--log", choices=("text", "json"), default="text", help="form of the log on stderr")


def main(argv: Sequence[str]) -> int:
    """Answer until SIGTERM or Ctrl-C; what is under way is answered first."""
    parser = Parser("engine --ros2", ABOUT, EXAMPLES)
    add_flags(parser)
    words, dots = dotted(argv, ["policy"])
    parsed = parser.parse(words)
    if parsed.policy is None:
        raise UsageError("which policy? --policy DIR, of a LeRobot, exported or compiled policy")
    topics = InferenceTopics.parse(parsed.ros2 or "ros2://")
    named = Choice("network", {"path": parsed.policy, **dots["policy"]})
    policy = resolved("policy", on_device(named, parsed.device, dots["policy"]))
    waiting = convert(parsed.max_waiting, int, "max-waiting")
    deadline_s, drain_s = (
        convert(text, float, name)
        for text, name in ((parsed.deadline_s, "deadline-s"), (parsed.drain_s, "drain-s"))
    )
    if waiting < 1 or not deadline_s > 0 or drain_s < 0:
        raise UsageError("max-waiting must be at least 1, deadline-s above 0, and drain-s not below it")
    log = Log(parsed.log, LEVELS[1])
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    keep_freed_memory()
    device = policy.options.get("device", "auto")
    log(f"Loading policy from {parsed.policy} with inference_backend={device}...")
    engine = TopicEngine(
        recipe_of(policy).make, topics, max_waiting=waiting, deadline_s=deadline_s, say=_lines(log)
    )
    try:
        return asyncio.run(_serve(engine, drain_s, parsed.until_stdin_ends))
    finally:
        log.close()


def _lines(log: Log) -> Callable[[str], None]:
    def say(text: str) -> None:
        log(text)

    return say


async def _serve(engine: TopicEngine, drain_s: float, until_stdin_ends: bool) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def read() -> None:
        if not os.read(STDIN, 4096):
            loop.remove_reader(STDIN)
            stop.set()

    if until_stdin_ends:
        try:
            loop.add_reader(STDIN, read)
        except OSError as error:
            raise UsageError("--until-stdin-ends needs a pipe as its standard input") from error
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await engine.start()
    stopping = asyncio.create_task(stop.wait())
    waited: list[asyncio.Future[Any]] = [stopping, engine.loaded]
    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    failed = engine.loaded.done() and engine.loaded.result() is Readiness.FAILED
    if not failed:
        await stopping
    stopping.cancel()
    await engine.close(0.0 if failed else drain_s)
    return 1 if failed else 0
