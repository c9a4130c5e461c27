"""How many robots so many replicas carry: on paper, and as a simulation of the queue.

Every robot asks once in a period, with a frame; its answer has to be there before its plan runs out.  A replica
answers what waits in one call, up to `most` requests: it takes `call_s` and `each_s` for each.  Before replicas
stands a process that speaks to its robots and takes `front_s` of its core for a request; another one has robots and
replicas of its own.  All of them are as far away as `way_s` there and back.

On paper: in a call of n requests n = rate * (call_s + n * each_s) come for the next one, so that

    n = rate * call_s / (1 - rate * each_s),    between 1 and `most`,

with the rate of one replica.  A request waits for the call that runs, half of one on average and all of it at worst,
and then for its own.  It breaks where a replica, the process in front, or the network is asked for more than it has.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, replace

import numpy as np

FRONT_BUSY = 0.7
"""The part of its core that a process in front may be asked for."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What a request costs.

    Attributes:
        call_s: of a call of the policy, however many requests it answers.
        each_s: for each of them besides.
        most: requests in one call.
        front_s: of a core of the process in front.
        way_s: there and back, without waiting.
        request_bytes: of a frame.
    """

    call_s: float
    each_s: float
    most: int
    front_s: float
    way_s: float
    request_bytes: int


@dataclass(frozen=True, slots=True)
class Fleet:
    """Who asks whom.

    Attributes:
        robots: how many.
        period_s: between two requests of one.
        bound_s: an answer that comes later is too late.
        replicas: of the policy; as many behind each process in front.
        fronts: processes in front of them.
        network_bytes_s: what their network carries, each way.
    """

    robots: int
    period_s: float
    bound_s: float
    replicas: int
    fronts: int = 1
    network_bytes_s: float = 1.25e9


@dataclass(frozen=True, slots=True)
class Expected:
    """What the paper says of a fleet.

    Attributes:
        batch: requests in a call.
        replica, front, network: the part that is used of what it can do at most.
        latency_s, worst_s: of a request, on average and at worst; infinite where it breaks.
        breaks: what is asked for more than it has, or that answers are late; empty where all is well.
    """

    batch: float
    replica: float
    front: float
    network: float
    latency_s: float
    worst_s: float
    breaks: str


def expected(costs: Costs, fleet: Fleet) -> Expected:
    """The fleet on paper."""
    rate = fleet.robots / fleet.period_s
    each = rate / fleet.replicas
    rest = 1.0 - each * costs.each_s
    batch = math.inf if rest <= 0 else each * costs.call_s / rest
    capped = min(max(batch, 1.0), costs.most)
    served = costs.call_s + capped * costs.each_s
    busy = min(each * (costs.call_s + costs.each_s), 1.0)
    used = each * (costs.call_s / costs.most + costs.each_s)
    front = rate * costs.front_s / fleet.fronts
    network = rate * costs.request_bytes / fleet.network_bytes_s
    full = {"replicas": batch > costs.most, "the process in front": front >= 1.0, "the network": network >= 1.0}
    breaks = ", ".join(name for name, is_full in full.items() if is_full)
    if breaks:
        return Expected(capped, used, front, network, math.inf, math.inf, breaks)
    queue_s = costs.front_s * (1.0 + 0.5 * front / (1.0 - front))  # one server, requests of one length
    latency_s = costs.way_s + queue_s + busy * served / 2 + served
    worst_s = costs.way_s + queue_s + 2 * served
    late = "answers come late" if worst_s > fleet.bound_s else ""
    return Expected(capped, used, front, network, latency_s, worst_s, late)


def fronts_for(costs: Costs, fleet: Fleet) -> int:
    """As many processes in front as leave each some of its core."""
    return max(math.ceil(fleet.robots / fleet.period_s * costs.front_s / FRONT_BUSY), 1)


def replicas_for(costs: Costs, fleet: Fleet, most: int = 10_000) -> int:
    """The least number of replicas behind the fleet's processes in front; 0 where no number will do.

    The network is taken to carry them.
    """
    wide = replace(fleet, network_bytes_s=math.inf)
    found = (
        replicas
        for replicas in range(fleet.fronts, most, fleet.fronts)
        if not expected(costs, replace(wide, replicas=replicas)).breaks
    )
    return next(found, 0)


def simulated(costs: Costs, fleet: Fleet, *, seconds: float, seed: int = 0) -> tuple[np.ndarray, float]:
    """The same, request by request: robots that began at random times, and the shortest queue behind their process.

    Returns:
        Latencies in seconds, and the mean number of requests in a call.
    """
    random = np.random.default_rng(seed)
    begun = random.uniform(0.0, fleet.period_s, fleet.robots)
    times = (begun[None] + fleet.period_s * np.arange(round(seconds / fleet.period_s))[:, None]).ravel()
    behind = fleet.replicas // fleet.fronts
    fronts = [0.0] * fleet.fronts
    waiting: list[list[float]] = [[] for _ in range(fleet.replicas)]
    free_s = [0.0] * fleet.replicas
    events: list[
        tuple[float, int, int, float]
    ] = []  # time, order, replica that is done or ~front, when it was asked
    for order, index in enumerate(np.argsort(times)):
        when, front = float(times[index]), int(index) % fleet.robots % fleet.fronts
        fronts[front] = max(fronts[front], when) + costs.front_s
        events.append((fronts[front], order, ~front, when))
    heapq.heapify(events)
    latencies: list[float] = []
    calls, order = 0, len(events)
    while events:
        now, _, replica, when = heapq.heappop(events)
        if replica < 0:
            there = range(behind * ~replica, behind * (~replica + 1))
            replica = min(there, key=lambda index: (len(waiting[index]), free_s[index]))
            waiting[replica].append(when)
        if free_s[replica] > now or not waiting[replica]:
            continue
        together, waiting[replica] = waiting[replica][: costs.most], waiting[replica][costs.most :]
        free_s[replica] = now + costs.call_s + costs.each_s * len(together)
        latencies += [free_s[replica] + costs.way_s - when for when in together]
        calls, order = calls + 1, order + 1
        heapq.heappush(events, (free_s[replica], order, replica, 0.0))
    return np.array(latencies), len(latencies) / max(calls, 1)
