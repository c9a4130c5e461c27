"""The last gate before the robot: finite, limits, slew, age; and the watchdog over the loop itself.

Pure: numpy and the standard library; no clock, thread, process, socket, file or log.
"""

from chunkwise.safety.gate import CLEAR, Gate, Rule, Verdict
from chunkwise.safety.watchdog import Watchdog

__all__ = ["CLEAR", "Gate", "Rule", "Verdict", "Watchdog"]
