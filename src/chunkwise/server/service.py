"""A policy, loaded once, and everybody's sessions with it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from chunkwise.chunking import Strategy
from chunkwise.contract import InterfaceValidationError, PolicySpec, RobotSpec, connect, policy_differences
from chunkwise.policies import Policy
from chunkwise.server.inference import Inference, Job, Refused
from chunkwise.server.player import Player, Rules
from chunkwise.server.session import Session, batch_of
from chunkwise.wires import Offer, Problem, Readiness, Trouble

EVICTABLE_S = 5.0
"""A session without a connection that was silent for so long makes room for another one."""


@dataclass(slots=True, frozen=True)
class Settings:
    """How a policy is served.

    Attributes:
        strategy: how chunks are run for robots that the server schedules for.
        max_sessions: clients at once.
        inference_timeout_s: a request that is not answered within it is told so.
        stall_s: an inference that runs for longer makes the server not ready.
        session_idle_s: a session that nobody uses is forgotten after it.
        token: the secret that clients must show; empty for none.
    """

    strategy: Strategy = field(default_factory=Strategy)
    max_sessions: int = 256
    inference_timeout_s: float = 60.0
    stall_s: float = 10.0
    session_idle_s: float = 60.0
    token: str = ""


class Service:
    """A policy, loaded once on the inference thread, and its sessions; lives on one event loop.

    Args:
        make: makes the policy; called on the inference thread.
        settings: how it is served.
        version: of the server, for its clients.
        clock: monotonic, seconds.
        on_event: told what happened, for logs: a name and details.
    """

    def __init__(
        self,
        make: Callable[[], Policy],
        settings: Settings | None = None,
        *,
        version: str = "",
        clock: Callable[[], float] = time.monotonic,
        on_event: Callable[..., None] = lambda name, **details: None,
    ) -> None:
        self.settings = settings or Settings()
        self._make, self._version, self.clock, self.say = make, version, clock, on_event
        self.loop = asyncio.get_running_loop()
        self.inference = Inference(self.loop, clock)
        self.sessions: dict[tuple[str, str], Session] = {}
        self.loaded: asyncio.Future[Readiness] = self.loop.create_future()
        self._parked: dict[tuple[str, str], list[Callable[[], None]]] = {}
        self._policy: Policy | None = None
        self._failure = ""
        self._draining = False
        self._begun_s = clock()
        self.inference.submit_first(Job(self._load, self._told_loaded, counted=False))

    # The policy -----------------------------------------------------------------------------------------------

    def _load(self) -> Policy:
        """On the inference thread."""
        policy = self._make()
        warmup = getattr(policy, "warmup", None)
        if warmup is not None:
            warmup()
        return policy

    def _told_loaded(self, result: Any) -> None:
        took_s = round(self.clock() - self._begun_s, 3)
        if isinstance(result, Problem):
            self._failure = result.text
            self.say("policy_failed_to_load", error=result.text, seconds=took_s)
        else:
            self._policy = result
            self._batch = batch_of(result)
            if hasattr(result, "calls_at_once"):
                self.inference.call_at_once(lambda: result.calls_at_once, getattr(result, "calls_ahead", 0))
            self.say("policy_loaded", policy=type(result).__name__, seconds=took_s)
        if not self.loaded.done():
            self.loaded.set_result(self.readiness)

    @property
    def readiness(self) -> Readiness:
        """Whether requests are answered."""
        if self._draining:
            return Readiness.DRAINING
        if self._failure:
            return Readiness.FAILED
        if self._policy is None:
            return Readiness.LOADING
        since = self.inference.running_since_s
        if since is not None and self.clock() - since > self.settings.stall_s:
            return Readiness.STALLED
        return Readiness.READY

    @property
    def calls_at_once(self) -> int:
        """Calls of the policy that may run at the same time; 0 while there is none."""
        return 0 if self._policy is None else getattr(self._policy, "calls_at_once", 1)

    def offer(self, session: Session | None = None) -> Offer:
        """What there is, and how it is."""
        readiness = self.readiness
        detail = ""
        if readiness is Readiness.FAILED:
            detail = self._failure
        elif readiness is Readiness.LOADING:
            detail = f"loading for {self.clock() - self._begun_s:.1f} s"
        elif readiness is Readiness.STALLED:
            detail = f"an inference runs for {self.clock() - (self.inference.running_since_s or 0.0):.1f} s"
        # Of a policy without a spec there is none to tell, not even later: this end binds it, and answers in the
        # robot's order.
        spec = getattr(self._policy if session is None else session.policy, "spec", None)
        policy = spec if isinstance(spec, PolicySpec) else None
        return Offer(readiness, detail, policy, "" if session is None else session.name, self._version)

    # Sessions -------------------------------------------------------------------------------------------------

    def session(
        self,
        wire: str,
        name: str = "",
        robot: RobotSpec | None = None,
        expects: PolicySpec | None = None,
    ) -> Session:
        """The session of that name; a new one where there is none.

        Raises:
            Refused: the policy is not ready, does not fit, is another one, or there is no room.
        """
        policy = self._policy
        if policy is None or self._draining:
            readiness = self.readiness
            kind = Trouble.DRAINING if self._draining else Trouble.LOADING
            raise Refused(Problem(kind, self.offer().detail or readiness))
        _require(expects, policy)
        key = wire, name or secrets.token_hex(8)
        found = self.sessions.get(key)
        if found is None:
            found = self._new_session(policy, key[1])
            found.bind(robot)
            _require(expects, found.policy)  # that of one that takes it from a robot
            self.sessions[key] = found
        elif robot is not None:
            found.bind(robot)
            _require(expects, found.policy)
        found.idle_since_s = self.clock()
        return found

    def _new_session(self, policy: Policy, name: str) -> Session:
        another = getattr(policy, "session", None)
        remembers = another is None and getattr(policy, "reset", None) is not None
        room = 1 if remembers else self.settings.max_sessions
        if len(self.sessions) >= room:
            self.sweep(everybody=True)
        if len(self.sessions) >= room:
            why = " (it has reset() and no session(), so it is taken to remember its client)" if remembers else ""
            raise Refused(Problem(Trouble.BUSY, f"the policy serves {room} at once{why}"))
        own = policy if another is None else another()
        shared = own is policy
        batch = self._batch if shared and not remembers else None
        session = Session(name, own, self.inference, batch, alone=not shared)
        if remembers:
            session.reset(lambda result: None)
        return session

    def check(self, robot: RobotSpec) -> bool:
        """Whether the policy says by itself what it needs, and then that it fits the robot.

        Raises:
            Refused: it does not; the text names what is missing.
        """
        spec = getattr(self._policy, "spec", None)
        if not isinstance(spec, PolicySpec):
            return False
        try:
            connect(robot, spec)
        except InterfaceValidationError as error:
            raise Refused(Problem(Trouble.MISMATCH, str(error))) from error
        return True

    def player(self, session: Session) -> Player:
        """What schedules for a session."""
        if session.player is None:
            settings = self.settings
            rules = Rules(settings.strategy, min(settings.inference_timeout_s, 5.0), settings.inference_timeout_s)
            session.player = Player(session, rules, self.loop, self.clock)
        return session.player

    def leave(self, wire: str, session: Session, owner: int, *, forget: bool) -> None:
        """A connection that used a session has gone."""
        session.abandon(owner)
        session.owners -= 1
        session.idle_since_s = self.clock()
        if session.owners <= 0 and forget:
            self._forget((wire, session.name), session)

    def sweep(self, *, everybody: bool = False) -> None:
        """Forget the sessions that nobody uses: after a while, or where room is needed, now."""
        now = self.clock()
        for key, session in list(self.sessions.items()):
            idle_s = now - session.idle_since_s
            if session.owners > 0 or session.waits:
                continue
            if idle_s > self.settings.session_idle_s or (everybody and idle_s > EVICTABLE_S):
                self._forget(key, session)

    def _forget(self, key: tuple[str, str], session: Session) -> None:
        if self.sessions.get(key) is session:
            del self.sessions[key]
        if session.player is not None:
            session.player.stop()
        session.abandon(-1)
        if session.policy is not self._policy:
            session.close()

    # Requests that wait for another connection ---------------------------------------------------------------

    def park(self, key: tuple[str, str], seconds: float, resumed: Callable[[], None]) -> None:
        """Call `resumed` when the key is poked, or the time is over."""
        waiting = self._parked.setdefault(key, [])

        def go_on() -> None:
            if go_on in waiting:
                waiting.remove(go_on)
                timer.cancel()
                if not waiting and self._parked.get(key) is waiting:
                    del self._parked[key]
                resumed()

        waiting.append(go_on)
        timer = self.loop.call_later(seconds, go_on)

    def poke(self, key: tuple[str, str]) -> None:
        """Let everybody go on who is parked at the key."""
        for go_on in list(self._parked.get(key, ())):
            go_on()

    # The end --------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether somebody waits for a result."""
        return self.inference.untold > 0

    def drain(self) -> None:
        """Take no new requests."""
        self._draining = True

    def close(self) -> None:
        """Let the policy go.  Twice is fine."""
        self._draining = True
        policy, self._policy = self._policy, None
        close = getattr(policy, "close", None)
        if close is not None:
            self.inference.submit_first(Job(close, lambda result: None, counted=False))
        self.inference.submit_first(Job(self.inference.close, lambda result: None))
        self.inference.join(1.0)


def _require(expected: PolicySpec | None, policy: Policy) -> None:
    """Refuse a client that counts on another policy than this one, as far as this one says what it is.

    Raises:
        Refused: it does; every difference is named.
    """
    spec = getattr(policy, "spec", None)
    if expected is None or not isinstance(spec, PolicySpec):
        return
    differences = policy_differences(expected, spec)
    if differences:
        listed = "; ".join(differences)
        raise Refused(Problem(Trouble.MISMATCH, f"another policy than expected: {listed}"))
