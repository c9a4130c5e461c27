"""What is kept of a run, and what is written of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.chunking import Answer, Scheduler, Tick
from chunkwise.contract import Action, ActionChunk, ChunkRequest, Command, Frame, connect, robot_layout
from chunkwise.plugins import load
from chunkwise.policies import BoundPolicy
from chunkwise.runtime.events import Turn
from chunkwise.runtime.inference import InferenceRuntime
from chunkwise.runtime.records import RequestRecord
from chunkwise.runtime.timeline import LiveProfile, Timeline, timeline_of, write_html
from chunkwise.safety import CLEAR
from chunkwise.testing.world import CountingPolicy, SimulatedClock, StepWorker, arm_robot

PERIOD_S = 0.02


def turns_of(
    steps: int = 60,
    *,
    strategy: str = "switch",
    rows: int = 8,
    delay: int | Callable[[int], int | None] = 3,
    fails: Callable[[int], str] = lambda index: "",
    missed: tuple[int, ...] = (),
) -> list[Turn]:
    """Turns of a run in simulated steps of 20 ms."""
    now = 0
    robot = arm_robot()
    policy = CountingPolicy(robot_layout(robot), rows)
    bound = BoundPolicy(policy, connect(robot, policy.spec))

    def infer(frame: Frame, request: ChunkRequest) -> ActionChunk:
        if fails(request.id):
            raise RuntimeError(fails(request.id))
        return bound(frame, request)

    worker = StepWorker(infer, lambda: now, delay)
    scheduler = Scheduler(robot_layout(robot), load("strategies", strategy)(), hold=np.zeros(3), timeout_steps=20)
    made = []
    for now in (step for step in range(steps) if step not in missed):
        decision = scheduler.tick(Tick(now, worker.arrivals()))
        if decision.request is not None:
            worker.submit(Frame(), decision.request)
        made.append(Turn(now, 100 + now * PERIOD_S, 0.001, decision, decision.row, CLEAR))
    return made


def runs_of(timeline: Timeline, request: int) -> list[tuple[str, int, int]]:
    runs = [run for run in timeline.chunk_actions() if run["request"] == request]
    return [(run["status"], run["first_step"], run["rows"]) for run in runs]


def test_a_run_as_records() -> None:
    timeline = timeline_of(turns_of(), control_hz=50.0, mode="switch")
    first, second = timeline.requests[0], timeline.requests[1]
    assert (first.request_step, first.accept_step, first.first_step) == (0, 3, 3), (
        "the robot stood still until then"
    )
    assert (first.returned_rows, first.stale_rows) == (8, 0)
    assert (second.request_step, second.accept_step, second.first_step) == (4, 7, 4)
    assert (second.waited_steps, second.returned_rows, second.stale_rows, second.accepted_rows) == (3, 8, 3, 5)
    assert second.usable_latency_s == pytest.approx(3 * PERIOD_S)
    assert second.request_latency_s is None, "when the policy was done is not known from turns"
    assert runs_of(timeline, 0) == [("accepted", 3, 4), ("unused", 7, 4)]
    assert runs_of(timeline, 1) == [("dropped", 4, 3), ("accepted", 7, 3), ("unused", 10, 2)]
    steps = list(timeline.steps)
    assert [step.source for step in steps[:4]] == ["wait", "wait", "wait", "chunk"]
    assert [(step.chunk, step.row, step.buffered_rows) for step in steps[4:8]] == [
        *[(0, 1, 7), (0, 2, 6), (0, 3, 5)],
        (1, 3, 5),
    ]
    assert steps[4].request == 1
    summary = timeline.summary()
    assert summary["steps"] == 60
    assert summary["underrun_steps"] == 0
    assert summary["waiting_steps"] == 3
    assert summary["delay_steps"] == {"p50": 3.0, "p95": 3.0, "max": 3.0}
    assert summary["control_hz"] == pytest.approx(50.0)


def test_a_plan_that_runs_dry() -> None:
    timeline = timeline_of(turns_of(rows=5, delay=4))
    dry = [step for step in timeline.steps if step.underrun]
    assert timeline.summary()["underrun_steps"] == len(dry) > 10
    assert {step.buffered_rows for step in dry} == {0}
    assert {step.chunk for step in dry} == {-1}
    assert runs_of(timeline, 2) == [("dropped", 9, 4), ("accepted", 13, 1)]


def test_rows_whose_period_was_missed_are_dropped() -> None:
    timeline = timeline_of(turns_of(delay=1, missed=(6,), rows=20, strategy="sync"))
    assert runs_of(timeline, 0) == [("accepted", 1, 5), ("dropped", 6, 1), ("accepted", 7, 4)]


@pytest.mark.parametrize("strategy", ["switch", "blend", "temporal_ensemble", "rtc"])
def test_rows_are_counted_from_the_request_whatever_the_plan_does(strategy: str) -> None:
    timeline = timeline_of(turns_of(strategy=strategy, rows=12))
    for record in list(timeline.requests.values())[1:-2]:
        assert record.first_step == record.request_step
        assert record.stale_rows == 3
        assert record.returned_rows == 12


def test_answers_that_fail_come_too_late_or_never() -> None:
    def delay(index: int) -> int | None:
        return {2: None, 4: 9}.get(index, 3)

    timeline = timeline_of(turns_of(80, delay=delay, fails=lambda index: "no weights" * (index == 1)))
    failed, lost, late = (timeline.requests[index] for index in (1, 2, 4))
    assert failed.error == "policy_failed: RuntimeError: no weights"
    assert failed.waited_steps == 3
    assert lost.error == "lost: no answer after 20 steps"
    assert late.dropped_as_stale
    assert not any(record.accepted for record in (failed, lost, late))
    summary = timeline.summary()
    assert (summary["failed"], summary["dropped_as_stale"]) == (2, 1)
    faults = [fault for step in timeline.steps for fault in step.faults]
    assert "policy_failed: RuntimeError: no weights" in faults


@given(delays=st.lists(st.integers(0, 12), min_size=1, max_size=30), rows=st.integers(1, 16))
def test_every_row_has_one_fate_and_every_step_that_ran_is_in_one(delays: list[int], rows: int) -> None:
    timeline = timeline_of(turns_of(60, rows=rows, delay=lambda index: delays[index % len(delays)]))
    fates: dict[str, set[tuple[int, int]]] = {"accepted": set(), "dropped": set(), "unused": set()}
    total = 0
    for run in timeline.chunk_actions():
        total += run["rows"]
        fates[run["status"]] |= {(run["request"], run["first_row"] + index) for index in range(run["rows"])}
    assert sum(len(rows) for rows in fates.values()) == total
    assert fates["accepted"] == {(step.chunk, step.row) for step in timeline.steps if step.chunk >= 0}
    for record in timeline.requests.values():
        assert record.stale_rows + record.accepted_rows in (0, record.returned_rows)


def test_memory_is_bounded_and_what_is_gone_is_said() -> None:
    timeline = timeline_of(turns_of(200), limit=50)
    assert len(timeline.steps) == 50
    assert timeline.forgotten_steps == 150
    assert len(timeline.requests) <= 50
    assert timeline.summary()["forgotten_steps"] == 150
    oldest = timeline.steps[0].step
    assert min(timeline.requests[run["request"]].request_step for run in timeline.chunk_actions()) >= oldest
    with pytest.raises(ValueError, match="limit"):
        Timeline(limit=0)


def test_a_new_episode_goes_on_counting() -> None:
    timeline = timeline_of([*turns_of(20), *turns_of(20)])
    assert [step.step for step in timeline.steps] == list(range(40))
    again = [record for record in timeline.requests.values() if record.request_step >= 20]
    assert again[0].first_step == 23
    assert len({record.index for record in timeline.requests.values()}) == len(timeline.requests)


def test_json(tmp_path: Path) -> None:
    timeline = timeline_of(turns_of(), mode="switch", config={"rows": 8, "folder": tmp_path})
    written = json.loads(timeline.write_json(tmp_path / "made" / "runtime_profile.json").read_text())
    assert list(written) == ["mode", "config", "summary", "requests", "action_steps", "chunk_actions"]
    assert written["requests"][1]["stale_rows"] == 3
    assert written["requests"][1]["usable_latency_s"] == pytest.approx(0.06)
    assert written["action_steps"][0]["underrun"] is False
    assert {item["status"] for item in written["chunk_actions"]} == {"accepted", "dropped", "unused"}
    assert Timeline().to_dict()["summary"]["requests"] == 0


class Page(HTMLParser):
    """A page's elements, what they refer to, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script" and data.strip():
            self.scripts.append(data)


def test_the_page_is_whole_and_nothing_in_the_data_can_leave_its_place(tmp_path: Path) -> None:
    evil = "</script><script>alert('!')</script><!--"
    turns = turns_of(fails=lambda index: evil * (index == 1))
    path = write_html(tmp_path / "run.html", turns, title="a <run>", control_hz=50.0)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.references, "no other file and no network"
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert page.open.count("script") == 2
    data = json.loads(page.scripts[0])
    assert data["title"] == "a <run>"
    assert data["period_ms"] == 20.0
    assert len(data["steps"]) == 60
    assert evil in data["requests"][1]["error"]
    assert evil in dict(data["faults"])[7]


def test_an_empty_timeline_is_a_page_too(tmp_path: Path) -> None:
    data = json.loads(Page(write_html(tmp_path / "none.html", []).read_text()).scripts[0])
    assert data["steps"] == data["requests"] == data["runs"] == []


def test_chunks_lie_beside_each_other(tmp_path: Path) -> None:
    page = Page(write_html(tmp_path / "run.html", turns_of(rows=16)).read_text())
    requests = json.loads(page.scripts[0])["requests"]
    for one in requests:
        for other in requests:
            if one["index"] < other["index"] and one["lane"] == other["lane"]:
                assert other["step"] >= one["step"] + one["rows"]


def test_a_live_profile_knows_the_times(tmp_path: Path) -> None:
    clock = SimulatedClock(7.0)
    options = {"mode": "async", "steps_before_request": 2, "profile_output_dir": tmp_path, "_worker": object()}
    runtime: Any = SimpleNamespace(**options, realtime_controller=SimpleNamespace(hz=50.0))
    live = LiveProfile(runtime, clock=clock)
    layout = robot_layout(arm_robot())
    scheduler = Scheduler(layout, load("strategies", "switch")(), hold=np.zeros(3))
    answer: Answer | None = None
    for step in range(8):
        arrivals = [answer] if answer is not None and step == 3 else []
        for arrived in arrivals:
            live.arrived(step, arrived, reply_time_s=7.05)
        decision = scheduler.tick(Tick(step, arrivals))
        if decision.request is not None and answer is None:
            decision.request.request_time_s = clock()
            clock.sleep(0.001)
            live.asked(step, decision.request)
            answer = Answer(decision.request.id, ActionChunk(np.zeros((8, 3))))
        live.step(step, decision, SimpleNamespace(plan_length=max(11 - step, 0) if step >= 3 else 0))  # type: ignore[arg-type]
        clock.sleep(PERIOD_S)
    record = live.timeline.requests[0]
    assert record.prepare_s == pytest.approx(0.001)
    assert record.request_latency_s == pytest.approx(0.05)
    assert record.accept_delay_s == pytest.approx(0.011)
    assert record.usable_latency_s == pytest.approx(0.061)
    assert record.returned_rows == 8
    made, page = live.write()
    assert (made.name, page.name) == ("runtime_profile.json", "runtime_profile.html")
    written = json.loads(made.read_text())
    assert written["mode"] == "async"
    assert written["config"]["steps_before_request"] == 2
    assert written["config"]["control_hz"] == 50.0
    assert "_worker" not in written["config"]
    assert [step["buffered_rows"] for step in written["action_steps"]][3:] == [8, 7, 6, 5, 4]


def test_a_runtime_writes_its_profile_when_it_closes(tmp_path: Path) -> None:
    def infer(frame: Frame, request: ChunkRequest) -> list[Action]:
        return [Action({"arm": Command("joint_position", np.full(2, float(i)))}) for i in range(6)]

    runtime = InferenceRuntime(
        mode="async", profile=True, profile_output_dir=tmp_path, worker="inline", warmup_requests=0
    )
    for _ in range(12):
        runtime.run_step(frame=Frame(state={"arm": np.zeros(2)}), act_src_fn=infer, execute_action=False)
    runtime.close()
    written = json.loads((tmp_path / "runtime_profile.json").read_text())
    assert len(written["action_steps"]) == 12
    assert {step["source"] for step in written["action_steps"]} == {"chunk"}
    assert written["summary"]["failed"] == 0
    assert all(request["returned_rows"] == 6 for request in written["requests"] if request["accepted"])
    assert (tmp_path / "runtime_profile.html").exists()


def test_a_record_that_is_not_answered_yet_knows_nothing() -> None:
    record = RequestRecord(0, 5, 1.0)
    assert record.waited_steps is None
    assert record.usable_latency_s is None
    assert record.stale_rows == record.accepted_rows == 0
    assert record.to_dict()["error"] == ""
