"""The last gate before the robot: finite, limits, slew, age; the states of a run; the watchdog over the loop.

Pure: numpy and the standard library; no clock, thread, process, socket, file or log.
"""

from chunkwise.safety.gate import CLEAR, Gate, Rule, Verdict
from chunkwise.safety.modes import Change, Limits, Mode, Modes, Sight
from chunkwise.safety.motion import Brake, Ramp, initial_row
from chunkwise.safety.watchdog import Watchdog

__all__ = [
    "CLEAR",
    "Brake",
    "Change",
    "Gate",
    "Limits",
    "Mode",
    "Modes",
    "Ramp",
    "Rule",
    "Sight",
    "Verdict",
    "Watchdog",
    "initial_row",
]
