"""Kits that test any adapter, a simulated world to test it in, and the transcript runner.  Public.

A kit is a class of checks: inherit from it in your own repository, say how your adapter is made, and pytest runs
every check.  A failed check says in English which line of the contract was broken::

    from chunkwise.testing import RobotConformance

    class TestMyRobot(RobotConformance):
        def make_robot(self):
            return MyRobot(port="/dev/null")

Nothing in the package imports this; it needs no test framework itself.
"""

from chunkwise.testing.engine import EngineConformance
from chunkwise.testing.policy import PolicyConformance
from chunkwise.testing.robot import RobotConformance
from chunkwise.testing.strategy import StrategyConformance
from chunkwise.testing.transport import TransportConformance
from chunkwise.testing.wire import WireConformance
from chunkwise.testing.worker import WorkerConformance
from chunkwise.testing.world import CountingPolicy, SimulatedClock, StepWorker, World, counting_world

__all__ = [
    "CountingPolicy",
    "EngineConformance",
    "PolicyConformance",
    "RobotConformance",
    "SimulatedClock",
    "StepWorker",
    "StrategyConformance",
    "TransportConformance",
    "WireConformance",
    "WorkerConformance",
    "World",
    "counting_world",
]
