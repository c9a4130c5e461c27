"""Which columns of a policy's state and rows are which part of the robot: an explicit list, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from chunkwise.contract import InterfaceValidationError
from chunkwise.contract.errors import nearest


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring columns.

    Attributes:
        name: the robot's component, or state.
        columns: how many; 0 where it is not known yet.
        kind: the command kind; empty for the component's first.
    """

    name: str
    columns: int = 0
    kind: str = ""

    def of_kind(self, kind: str) -> Part:
        """The same, of this kind where it says none."""
        return self if self.kind else replace(self, kind=kind)


def parse_parts(items: Sequence[str], option: str) -> tuple[Part, ...]:
    """``NAME``, ``NAME:COLUMNS``, ``NAME:KIND`` or ``NAME:COLUMNS:KIND``, each; a kind in ``action_keys`` only.

    Raises:
        InterfaceValidationError: one is none of these, or a name stands twice.

    >>> parse_parts(["left_arm:6", "left_hand:6:hand_joint_position", "lift:custom:lift"], "action_keys")[2]
    Part(name='lift', columns=0, kind='custom:lift')
    """
    parts = []
    for item in items:
        name, _, rest = item.partition(":")
        number, _, kind = rest.partition(":")
        if not number.isdecimal():
            number, kind = "", rest
        parts.append(Part(name.strip(), int(number or 0), kind))
        if not name.strip() or number == "0" or (kind and option != "action_keys"):
            raise InterfaceValidationError(f"{option}: {item!r} must be NAME or NAME:COLUMNS")
    names = [part.name for part in parts]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InterfaceValidationError(f"{option}: {twice[0]!r} twice")
    return tuple(parts)


def parts_of(
    parts: Sequence[Part], widths: Mapping[str, int], option: str, offered: Sequence[str]
) -> tuple[Part, ...]:
    """The parts with the robot's widths.

    Args:
        parts: as asked for.
        widths: component -> number of joints.
        option: which list it is, for messages.
        offered: the names that the robot has.

    Raises:
        InterfaceValidationError: a name is not the robot's, or a width is not known.
    """
    known = []
    for part in parts:
        if part.name not in offered:
            raise InterfaceValidationError(
                f"{option}: the robot has no {part.name!r}{nearest(part.name, offered)}; there are: "
                f"{', '.join(offered) or 'none'}"
            )
        columns = part.columns or widths.get(part.name, 0)
        if not columns:
            raise InterfaceValidationError(
                f"{option}: {part.name!r} is no component, so say how many columns it has: {part.name}:N"
            )
        known.append(replace(part, columns=columns))
    return tuple(known)


def require_width(parts: Sequence[Part], width: int, option: str, key: str) -> None:
    """Raise InterfaceValidationError where the parts are not `width` columns together."""
    total = sum(part.columns for part in parts)
    if total != width:
        listed = ", ".join(f"{part.name} {part.columns}" for part in parts) or "nothing"
        raise InterfaceValidationError(
            f"the runtime parameters say {key} = {width}, and {option} are {total} columns ({listed}): list them "
            f"in the policy's order, as in {option} left_arm,right_arm"
        )
