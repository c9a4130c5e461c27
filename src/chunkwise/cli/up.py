"""``chunkwise up FILE``: a fleet, or a robot of IB-Robot's, driven as its ``robot_config`` says, without ROS."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from chunkwise import plugins
from chunkwise.chunking import SourceKind
from chunkwise.cli import fleet, run
from chunkwise.cli import settings as settings_of
from chunkwise.cli.parser import Parser, dotted
from chunkwise.cli.placement import backed, placed
from chunkwise.cli.robot_config import STATE, RobotConfig, read_robot_config
from chunkwise.cli.settings import Choice, Settings
from chunkwise.options import UsageError, convert, options_of
from chunkwise.runtime.events import Turn
from chunkwise.transports._ros2.inference_topics import SCHEME

EXAMPLES = """\
  chunkwise up fleet.yaml
  chunkwise up fleet.yaml --ray --json reports.json
  chunkwise up so101.yaml
  chunkwise up so101.yaml --execution-mode distributed --domain 3
  chunkwise up so101.yaml --cloud-local --seconds 20
  chunkwise up so101.yaml --control-mode model_inference --strategy rtc --print-config
"""
ABOUT = """\
Drive what a file says. One with `robots` is a fleet: every robot on its own node of a Ray cluster, policies where
there is room for them; Ctrl-C brings all of them to a standstill. One with `robot` is a robot_config of IB-Robot's
for one robot, without ROS; there all flags of `chunkwise run` work too, and win over the file.
"""
UNITS = "chunkwise.policies._joint_units:JointUnits"
STATS_S = 5.0
STOP_S = 15.0
MAX_ASKED = 256
"""Requests whose answer is waited for, for the line of the dispatcher."""


def main(argv: Sequence[str]) -> int:
    """Run until the time is over or Ctrl-C; 0 when the run completed."""
    parser = Parser("up", ABOUT, EXAMPLES)
    parser.add_argument("file", metavar="FILE", nargs="?", help="a fleet's, or a robot_config")
    parser.add_argument("--ray", action="store_true", help="a fleet joins the Ray cluster of this computer")
    parser.add_argument("--address", metavar="HOST:PORT", help="or that one")
    parser.add_argument("--control-mode", metavar="NAME", help="one of its control modes; its default by default")
    parser.add_argument(
        "--cloud-local", action="store_true", help="start the engine here too, and join it by the topics: to debug"
    )
    parser.add_argument("--domain", metavar="N", help="ROS domain; ROS_DOMAIN_ID without")
    parser.add_argument(
        "--loopback", action="store_true", default=None, help="this host only; ROS_LOCALHOST_ONLY without"
    )
    parser.add_argument("--print-config", action="store_true", help="print the settings as YAML and exit")
    settings_of.add_flags(parser)
    words, options = dotted(argv, settings_of.ADAPTERS)
    named = parser.parse(words)
    if named.file is None:
        raise UsageError("which robots? chunkwise up FLEET.yaml, or a robot_config")
    tree = settings_of.read_mapping(Path(named.file))
    if "robots" in tree:
        given = [name for name, value in vars(named).items() if value != parser.get_default(name)]
        given += [kind for kind, said in options.items() if said]
        return fleet.drive(tree, named, given)
    if named.ray or named.address:
        raise UsageError(f"{named.file} is no fleet: --ray and --address are for a file with `robots`")
    config = read_robot_config(Path(named.file), named.control_mode or "")
    domain = None if named.domain is None else convert(named.domain, int, "domain")
    defaults = settings_for(config, Path(named.file), domain, named.loopback)
    settings, _ = settings_of.read(parser, argv, defaults)
    if named.cloud_local:
        settings.execution_mode = "distributed"
    if named.print_config:
        print(settings.to_yaml(), end="")
        return 0
    if settings.json is not None:
        run.writable(Path(settings.json))
    for note in config.notes:
        print(f"note: {note}", flush=True)
    smoothing = "OFF" if config.smoothing is None else "ON"
    print(
        f"Execution mode: {settings.execution_mode}\nDispatcher ready [NORMAL]. Hz: {settings.control_hz:g}, "
        f"Watermark: {config.watermark}, Smoothing: {smoothing}",
        flush=True,
    )
    engine = _engine(settings) if named.cloud_local else []
    settings = in_place(settings, config)
    with _beside(engine):
        return run.outcome(run.drive(settings, Stats(settings.control_hz or config.control_hz)))


def settings_for(
    config: RobotConfig, path: Path, domain: int | None = None, loopback: bool | None = None
) -> Settings:
    """The settings of ``chunkwise run`` that say the same as a file.

    Args:
        config: the file.
        path: where it is, for the robot reads its contract.
        domain, loopback: how ROS 2 is joined; None as the environment says.
    """
    graph = {key: value for key, value in (("domain", domain), ("loopback", loopback)) if value is not None}
    options: dict[str, object] = {"state": (STATE,)} if config.whole_state else {}
    options |= {"device": config.device} if config.device else {}
    options |= {"task": config.task} if config.task else {}
    strategy = Choice("watermark", {"watermark": config.watermark, "queue_size": config.queue_size})
    if config.smoothing is not None:
        once = {"execution_horizon": config.queue_size, "margin": config.watermark}
        strategy = Choice("temporal_ensemble", {"decay": config.smoothing, **once})
    topics = {"input": config.input, "output": config.output}
    topics |= {key: str(value).lower() for key, value in graph.items()}
    return Settings(
        robot=Choice("ros2", {"config": str(path), **graph}),
        policy=Choice(config.path, options),
        execution_mode=config.execution_mode,
        network=f"ros2://?{urlencode(topics, safe='/')}",
        strategy=strategy,
        control_hz=config.control_hz,
        inference_timeout_s=config.request_timeout_s,
    )


def in_place(settings: Settings, config: RobotConfig) -> Settings:
    """The settings with the policy where it runs, the other one behind it, and both in the units of the file."""
    assert settings.policy is not None
    policy = placed(_as_the_file_has_it(settings.policy, config), settings.execution_mode, settings.network)
    if settings.execution_mode == "distributed":  # what the loop gives up, the connection does not wait for either
        policy = Choice(policy.name, {"timeout_s": settings.inference_timeout_s, **policy.options})
    if settings.fallback:
        policy = backed(policy, _as_the_file_has_it(Choice(settings.fallback), config).plain())
    if config.units is not None:
        options = {**config.units, "state_names": config.state_names if config.whole_state else ()}
        policy = Choice(UNITS, {"policy": policy.plain(), **options})
    settings.policy, settings.execution_mode, settings.fallback = policy, "monolithic", None
    return settings


def _as_the_file_has_it(policy: Choice, config: RobotConfig) -> Choice:
    """A policy that reads the joints in the file's order, and its task, unless its options say otherwise."""
    if not Path(policy.name).is_dir():
        return policy
    said: dict[str, object] = {"state": (STATE,)} if config.whole_state else {}
    said |= {"task": config.task} if config.task else {}
    return Choice(policy.name, said | policy.options)


class Stats:
    """The dispatcher's line, every five seconds of the run: how often it asked, waited and held.

    Args:
        control_hz: of the loop.
    """

    def __init__(self, control_hz: float) -> None:
        self._period_s, self._next_s = 1 / control_hz, STATS_S
        self._step = self._chunk = -1
        self._asked: dict[int, float] = {}
        self._chunks = self._held = self._left = 0
        self._took_s = 0.0

    def __call__(self, turns: Sequence[Turn]) -> None:
        """Look at the turns that are new."""
        fresh = list(itertools.takewhile(lambda turn: turn.step > self._step, reversed(turns)))
        for turn in reversed(fresh):
            self._step = turn.step
            self._count(turn)
        if self._step * self._period_s >= self._next_s:
            self._next_s += STATS_S
            print(self.line(), flush=True)
            self._held = 0

    def line(self) -> str:
        """What is said now; ``hold`` counts since it was said last."""
        average_ms = 1e3 * self._took_s / max(self._chunks, 1)
        return (
            f"[stats] inferences={self._chunks}, avg_latency={average_ms:.1f}ms, queue={self._left}, "
            f"hold={self._held}"
        )

    def _count(self, turn: Turn) -> None:
        decision = turn.decision
        if decision.request is not None:
            self._asked[decision.request.id] = turn.time_s
            if len(self._asked) > MAX_ASKED:
                del self._asked[next(iter(self._asked))]
            self._left = decision.request.remaining_steps
        self._held += decision.source.kind is SourceKind.STARVED
        if decision.source.kind is SourceKind.CHUNK and decision.source.chunk > self._chunk:
            self._chunk = decision.source.chunk
            self._chunks += 1
            took_s = turn.time_s - self._asked.get(self._chunk, turn.time_s)
            self._took_s += took_s
            if self._chunks == 1:
                print(f"✓ First inference received: latency={1e3 * took_s:.1f}ms", flush=True)
            self._asked = {id: time_s for id, time_s in self._asked.items() if id > self._chunk}


def _engine(settings: Settings) -> list[str]:
    """The command of the engine that answers at the settings' network.

    Raises:
        UsageError: that is no network of topics.
    """
    assert settings.policy is not None and settings.network is not None
    if not settings.network.startswith(f"{SCHEME}:"):
        raise UsageError(f"--cloud-local joins by topics, and --network is {settings.network}; leave one out")
    here, there = (options_of(plugins.load("policies", name)) for name in ("distributed", "network"))
    given = settings.policy.options.items()
    chosen = [f"--policy.{key}={value}" for key, value in given if key in there and key not in here]
    command = [sys.executable, "-m", "chunkwise", "engine", "--policy", settings.policy.name, *chosen]
    return [*command, "--until-stdin-ends", f"--ros2={settings.network}"]


@contextmanager
def _beside(command: list[str]) -> Iterator[None]:
    """Another program of ours while the context lasts; it ends by itself when this process is killed."""
    if not command:
        yield
        return
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
