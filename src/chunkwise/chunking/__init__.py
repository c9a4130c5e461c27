"""Which row of which chunk runs at which control step: a scheduler without a clock, and its strategies.

The contract, after etcd's raft and the sans-I/O protocols:

* time is the integer in :class:`Tick`, and nothing else; after a missed deadline it jumps, and rows whose
  time has passed are skipped, never queued up and replayed;
* everything the caller must do stands in the :class:`Decision` that a tick returns;
* what goes wrong outside (a chunk lost, late, stale, malformed, not finite) is a :class:`Fault` in the
  decision, and the robot still gets its row; what goes wrong inside the program is an exception.

The loop around it::

    for step in pacer:
        decision = scheduler.tick(Tick(step, worker.arrivals()))
        robot.act(gate.check(decision.row))
        if decision.request:
            worker.submit(robot.observe(), decision.request)

Pure: numpy and the standard library; no clock, thread, process, socket, file or log.
"""

from chunkwise.chunking.delay import DelayEstimate
from chunkwise.chunking.plan import Plan
from chunkwise.chunking.scheduler import (
    NO_SOURCE,
    Answer,
    Decision,
    Fault,
    FaultKind,
    Scheduler,
    Source,
    SourceKind,
    Tick,
)
from chunkwise.chunking.strategy import Ask, Strategy, Timing
from chunkwise.chunking.weights import prefix_weights

__all__ = [
    "NO_SOURCE",
    "Answer",
    "Ask",
    "Decision",
    "DelayEstimate",
    "Fault",
    "FaultKind",
    "Plan",
    "Scheduler",
    "Source",
    "SourceKind",
    "Strategy",
    "Tick",
    "Timing",
    "prefix_weights",
]
