"""What goes wrong, when, and for how long: by default, from YAML, or drawn at random."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from chunkwise.contract import InterfaceValidationError, RobotSpec
from chunkwise.contract.errors import nearest

MAX_PLAN_BYTES = 1 << 20
MAX_FAULTS = 100_000
MAX_TIME_S = 1e6
FIRST_S = 1.0
"""When the first fault of a plan that nobody wrote begins."""


class Harm(StrEnum):
    """The kinds of fault."""

    STALL = "stall"  # the policy blocks
    BUSY = "busy"  # the policy computes without letting go of its interpreter
    RAISE = "raise"  # the policy raises
    CRASH = "crash"  # the policy ends its process
    KILL = "kill"  # SIGKILL to the inference process
    FREEZE_PROCESS = "freeze_process"  # SIGSTOP to the inference process, SIGCONT at the end
    DEAD_CAMERA = "dead_camera"  # a camera shows its last picture, with that picture's time
    FROZEN_STATE = "frozen_state"  # the same with a joint group's state
    NAN = "nan"  # the policy answers a number that is none
    WRONG_SHAPE = "wrong_shape"  # the policy answers rows of another width
    CLOCK_STEP = "clock_step"  # the robot's clock, which stamps its frames, is somewhere else
    CPU_HOG = "cpu_hog"  # other processes want the processor
    REMOVE_SHARED_MEMORY = "remove_shared_memory"  # every file of this run in /dev/shm is unlinked
    HANG = "hang"  # an inference that never ends, until its process is replaced


ONCE = frozenset({Harm.KILL, Harm.REMOVE_SHARED_MEMORY})
"""Faults that happen once and have no duration."""
IN_POLICY = frozenset({Harm.STALL, Harm.BUSY, Harm.RAISE, Harm.CRASH, Harm.NAN, Harm.WRONG_SHAPE, Harm.HANG})
"""Faults that the policy commits, in every inference whose frame was seen while they last."""
OF_A_PROCESS = frozenset({Harm.CRASH, Harm.KILL, Harm.FREEZE_PROCESS, Harm.HANG})
"""Faults that need an inference process: in the control loop's own they would end the loop, or block it."""

_LAST_S = {
    Harm.STALL: 2.0,
    Harm.FREEZE_PROCESS: 2.0,
    Harm.DEAD_CAMERA: 3.0,
    Harm.FROZEN_STATE: 3.0,
    Harm.CPU_HOG: 2.0,
    Harm.HANG: 0.1,
}
"""How long each lasts where nothing is said; the others 1 s."""
_NUMBERS = {
    Harm.BUSY: ("hold_s", 0.1, (0.0, 10.0)),
    Harm.CLOCK_STEP: ("by_s", 3600.0, (-MAX_TIME_S, MAX_TIME_S)),
    Harm.CPU_HOG: ("processes", 2, (1, 256)),
}
_NAMES = {Harm.DEAD_CAMERA: "camera", Harm.FROZEN_STATE: "state"}


@dataclass(frozen=True, slots=True, eq=False)
class Injection:
    """One fault of a plan.  Two that say the same are still two.

    Attributes:
        harm: what it is.
        at_s: when it begins, in s since the first chunk ran.
        for_s: how long it lasts, in s, though never less than a control period; 0 for one that happens once.
        options: of its kind: ``camera`` or ``state``, a name; ``hold_s`` of a busy policy, how long each inference
            holds the interpreter; ``by_s`` of a clock; the number of ``processes`` that want the processor.
    """

    harm: Harm
    at_s: float
    for_s: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def end_s(self) -> float:
        """When it ends, in s since the first chunk ran."""
        return self.at_s + self.for_s

    @property
    def label(self) -> str:
        """For people: ``dead_camera head``."""
        return " ".join([str(self.harm), *(value for value in self.options.values() if isinstance(value, str))])

    def plain(self) -> dict[str, Any]:
        """As it stands in a plan."""
        lasts = {} if self.harm in ONCE else {"for_s": self.for_s}
        return {"fault": str(self.harm), "at_s": self.at_s, **lasts, **self.options}


def read_plan(path: Path, robot: RobotSpec) -> list[Injection]:
    """The plan in a YAML file: a list of ``{fault, at_s, for_s, ...}``.

    Args:
        path: of the file.
        robot: whose cameras and states it names.

    Raises:
        InterfaceValidationError: it cannot be read, or an entry is wrong; the message says which and how.
    """
    try:
        if path.stat().st_size > MAX_PLAN_BYTES:
            raise InterfaceValidationError(f"plan {path} is larger than {MAX_PLAN_BYTES} bytes")
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InterfaceValidationError(f"cannot read plan {path}: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, InterfaceValidationError):
            raise
        raise InterfaceValidationError(f"plan {path} is no YAML: {' '.join(str(error).split())}") from error
    return parsed(tree, robot, str(path))


def parsed(tree: object, robot: RobotSpec, where: str = "plan") -> list[Injection]:
    """A plan of plain values, in the order of time.

    Args:
        tree: a list of mappings.
        robot: whose cameras and states it names.
        where: for messages.

    Raises:
        InterfaceValidationError: an entry is wrong; the message says which and how.
    """
    if not isinstance(tree, list) or not tree:
        raise InterfaceValidationError(
            f"{where} must be a list of faults, such as '- {{fault: stall, at_s: 1, for_s: 2}}'"
        )
    if len(tree) > MAX_FAULTS:
        raise InterfaceValidationError(f"{where} has {len(tree)} faults; {MAX_FAULTS} are allowed")
    made = [_injection(item, robot, f"{where}, fault {number}") for number, item in enumerate(tree, 1)]
    return sorted(made, key=lambda item: item.at_s)


def to_yaml(plan: Iterable[Injection]) -> str:
    """The plan as a file that says the same."""
    made = yaml.safe_dump([item.plain() for item in plan], sort_keys=False, default_flow_style=None, width=1000)
    return str(made)


def default_plan(robot: RobotSpec, *, rest_s: float = 2.0) -> list[Injection]:
    """Every fault once, one after another, on the first camera and the first joint group there is.

    Args:
        robot: whose they are; what it does not have cannot fail and is left out.
        rest_s: between the end of one and the beginning of the next.
    """
    plan, at_s = [], FIRST_S
    for harm in Harm:
        there = _sensors(harm, robot)
        if harm in _NAMES and not there:
            continue
        options: dict[str, Any] = {_NAMES[harm]: there[0]} if harm in _NAMES else {}
        plan.append(_filled(harm, at_s, options))
        at_s = plan[-1].end_s + rest_s
    return plan


def random_plan(
    count: int,
    seed: int,
    robot: RobotSpec,
    harms: Sequence[Harm] = tuple(Harm),
    *,
    longest_s: float = 2.0,
    rest_s: float = 2.0,
) -> list[Injection]:
    """Faults at random: of any kind, of any length up to `longest_s`, some of them before the one before is over.

    Args:
        count: how many.
        seed: equal seeds give equal plans.
        robot: whose cameras and states fail.
        harms: kinds to draw from.
        longest_s: of any fault; half of them are shorter than a third of it.
        rest_s: from the beginning of one to that of the next on average, beyond the half of `longest_s`.

    Raises:
        InterfaceValidationError: a number is out of range, or there is no kind to draw from.
    """
    if not 0 < count <= MAX_FAULTS or not 0 < longest_s <= MAX_TIME_S or not 0 <= rest_s <= MAX_TIME_S:
        raise InterfaceValidationError(
            f"count must be 1 to {MAX_FAULTS}, longest_s above zero and rest_s at least zero, "
            f"got {count}, {longest_s}, {rest_s}"
        )
    possible = [harm for harm in harms if harm not in _NAMES or _sensors(harm, robot)]
    if not possible:
        raise InterfaceValidationError("there is no kind of fault to draw from")
    draw = random.Random(seed)
    plan, at_s = [], FIRST_S
    for _ in range(count):
        harm = draw.choice(possible)
        options: dict[str, Any] = {_NAMES[harm]: draw.choice(_sensors(harm, robot))} if harm in _NAMES else {}
        if harm is Harm.CLOCK_STEP:
            options["by_s"] = round(draw.uniform(-3600, 3600), 3)
        for_s = 0.0 if harm in ONCE else round(longest_s * draw.uniform(0.02, 1.0) ** 1.5, 3)
        plan.append(_filled(harm, round(at_s, 3), options, for_s))
        at_s += draw.uniform(0.05, 1.0) * 2 * (rest_s + longest_s / 2) / 1.05
    return plan


def _filled(harm: Harm, at_s: float, options: Mapping[str, Any], for_s: float | None = None) -> Injection:
    """An injection with what was not said."""
    last_s = 0.0 if harm in ONCE else _LAST_S.get(harm, 1.0)
    number = _NUMBERS.get(harm)
    more = {} if number is None or number[0] in options else {number[0]: number[1]}
    return Injection(harm, at_s, last_s if for_s is None else for_s, {**options, **more})


def _injection(item: object, robot: RobotSpec, where: str) -> Injection:
    if not isinstance(item, Mapping):
        raise InterfaceValidationError(f"{where} must be a mapping with fault, at_s and for_s, got {item!r}")
    name, known = item.get("fault"), list(map(str, Harm))
    if name not in known:
        hint = nearest(str(name), known)
        raise InterfaceValidationError(f"{where}: no fault {name!r}{hint}; there are: {', '.join(known)}")
    harm = Harm(name)
    keys = ["fault", "at_s"]
    keys += [] if harm in ONCE else ["for_s"]
    keys += [_NAMES[harm]] if harm in _NAMES else []
    keys += [_NUMBERS[harm][0]] if harm in _NUMBERS else []
    for key in item:
        if key not in keys:
            once = f"; {name} happens once and has no for_s" if key == "for_s" else ""
            hint = nearest(str(key), keys)
            raise InterfaceValidationError(
                f"{where}: {name} has no key {key!r}{hint}{once}; there are: {', '.join(keys)}"
            )
    if "at_s" not in item:
        raise InterfaceValidationError(f"{where}: at_s is missing, the seconds after the first chunk ran")
    at_s = _number(item["at_s"], f"{where}: at_s", 0.0, MAX_TIME_S)
    for_s = _number(item["for_s"], f"{where}: for_s", 0.0, MAX_TIME_S) if "for_s" in item else None
    options: dict[str, Any] = {}
    if harm in _NAMES:
        options[_NAMES[harm]] = _sensor(harm, item.get(_NAMES[harm]), robot, where)
    if harm in _NUMBERS and _NUMBERS[harm][0] in item:
        key, usual, (least, most) = _NUMBERS[harm]
        number = _number(item[key], f"{where}: {key}", least, most)
        if isinstance(usual, int) and number != int(number):
            raise InterfaceValidationError(f"{where}: {key} must be a whole number, got {number:g}")
        options[key] = type(usual)(number)
    return _filled(harm, at_s, options, for_s)


def _sensors(harm: Harm, robot: RobotSpec) -> list[str]:
    if harm is Harm.DEAD_CAMERA:
        return list(robot.image_keys)
    return robot.all_state_keys() if harm is Harm.FROZEN_STATE else []


def _sensor(harm: Harm, name: object, robot: RobotSpec, where: str) -> str:
    key, there = _NAMES[harm], _sensors(harm, robot)
    if name not in there:
        listed = ", ".join(there) or "none"
        wrong = f"no {key} {name!r}{nearest(str(name), there)}" if name is not None else f"which {key}?"
        raise InterfaceValidationError(f"{where}: {wrong}; robot {robot.name!r} has: {listed}")
    return str(name)


def _number(value: object, where: str, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InterfaceValidationError(f"{where} must be a number, got {value!r}")
    if not least <= value <= most:
        raise InterfaceValidationError(f"{where} must be {least:g} to {most:g}, got {value:g}")
    return float(value)
