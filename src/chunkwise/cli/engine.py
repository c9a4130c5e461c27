"""``chunkwise engine``: a policy's network alone, for robots that do what stands before and after it."""

from __future__ import annotations

from collections.abc import Sequence

from chunkwise.cli import engine_topics, serve
from chunkwise.cli.parser import Parser
from chunkwise.cli.settings import DEVICE_HELP
from chunkwise.options import UsageError

EXAMPLES = """\
  chunkwise engine --policy path/to/pretrained_model --device cuda
  chunkwise engine --policy path/to/model --device rknn --listen native=tcp://0.0.0.0:7777 --token-file FILE
  chunkwise run --policy path/to/pretrained_model --execution-mode distributed --network native://gpu:7777
  chunkwise engine --policy path/to/pretrained_model --ros2
"""
ABOUT = """\
Serve a policy's network. The robot has its own copy of the directory, without the weights, and does what stands
before and after the network; pictures travel as uint8. All but --policy and --device is as for `chunkwise serve`.
"""


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM or Ctrl-C; what is under way is answered first."""
    words = list(argv)
    if any(word.partition("=")[0] == "--ros2" for word in words):
        return engine_topics.main(words)
    if any(word in ("-h", "--help") for word in words):
        parser = Parser("engine", ABOUT, EXAMPLES)
        parser.add_argument("--policy", metavar="DIR", help="directory of a LeRobot, exported or compiled policy")
        parser.add_argument("--device", metavar="X", help=DEVICE_HELP)
        parser.add_argument("--listen", metavar="WIRE=ADDRESS", help="native=tcp://127.0.0.1:7777 by default")
        parser.add_argument(
            "--ros2", metavar="ADDRESS", nargs="?", help="at ROS 2 topics; --ros2 --help says more"
        )
        parser.parse(words)
    return serve.main(["--policy", "network", "--policy.path", _taken(words), *words])


def _taken(words: list[str]) -> str:
    """The policy's directory, taken out of the arguments."""
    for at, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag == "--policy" and equals:
            del words[at]
            return value
        if word == "--policy" and at + 1 < len(words):
            _, value = words[at : at + 2]
            del words[at : at + 2]
            return value
    raise UsageError("which policy? --policy DIR, of a LeRobot, exported or compiled policy")
