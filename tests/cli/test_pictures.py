"""The table, the progress line and the pictures, from made-up turns."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise.chunking import Decision, Fault, FaultKind, Source, SourceKind
from chunkwise.cli import pictures
from chunkwise.cli.film import Filmed
from chunkwise.cli.progress import Progress
from chunkwise.cli.table import table
from chunkwise.contract import Action, ChunkRequest, Frame, Layout, robot_layout
from chunkwise.plugins import load
from chunkwise.runtime.events import Turn
from chunkwise.runtime.pacing import Pacer
from chunkwise.runtime.report import report
from chunkwise.safety import CLEAR, Gate


@pytest.fixture
def layout() -> Layout:
    return robot_layout(load("robots", "mock")(arms=1).spec)


def made_up(layout: Layout, steps: int = 100, period: int = 8, holds: int = 2) -> list[Turn]:
    """Chunks of `period` rows, `holds` steps of holding before each, one request per chunk."""
    turns = []
    for step in range(steps):
        row = np.zeros(layout.width)
        row[3] = np.sin(step / 9) + 0.1 * (step // period)
        held = step % period < holds
        chunk = -1 if held else step // period
        source = Source(SourceKind.STARVED if held else SourceKind.CHUNK, chunk, step % period)
        request = ChunkRequest(step, id=step // period) if step % period == 0 else None
        turns.append(Turn(step, 5.0 + step / 50, 0.0, Decision(step, row, source, request), row, CLEAR))
    return turns


def test_the_table_has_a_column_per_report_and_the_score_below(layout: Layout) -> None:
    pacer, gate = Pacer(50.0), Gate(layout, 0.02)
    good, bad = (report(made_up(layout, holds=holds), pacer, gate) for holds in (0, 2))
    good.score, bad.score = {"passed": 12, "failed": False}, {"passed": 7, "failed": True, "extra": 1.25}
    bad.gate = {"arm.slew": 3, "gripper.slew": 2, "arm.limit": 1}
    lines = table({"rtc": good, "switch": bad}).splitlines()
    assert lines[0].split() == ["rtc", "switch"]
    found = {line[:37].strip(): line[37:].split() for line in lines[1:]}
    assert found["steps starved"] == ["0", "26"]
    assert found["score: passed"] == ["12", "7"]
    assert found["score: failed"] == ["no", "yes"]
    assert found["score: extra"] == ["1.2"]
    assert found["gate stepped in"] == ["never", "slew", "5,", "limit", "1"]
    assert "events lost" not in found


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_progress_is_sparse_where_lines_cannot_be_written_over(layout: Layout) -> None:
    out = io.StringIO()
    progress = Progress(out, 30.0, 0.02)
    turns = made_up(layout, 1500)
    for count in range(100, 1501, 100):
        progress(turns[:count])
    progress.finish(turns)
    lines = out.getvalue().splitlines()
    assert len(lines) == 7  # at 0, 5, 10, 15, 20 and 25 s, and at the end
    assert "30.0 of 30 s" in lines[-1]
    assert "50.00 Hz" in lines[-1]
    assert "starved 376" in lines[-1]


def test_progress_is_one_line_in_place_on_a_terminal(layout: Layout) -> None:
    out = Terminal()
    progress = Progress(out, None, 0.02)
    turns = made_up(layout)
    progress(turns[:50])
    progress(turns)
    progress.finish(turns)
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().count("\r") == 3


def test_every_kind_of_fault_is_said_once_in_words(layout: Layout) -> None:
    out = io.StringIO()
    progress = Progress(out, 1.0, 0.02)
    turns = made_up(layout)
    fault = Fault(FaultKind.TOO_SHORT, 3, "a chunk of H=4 rows is too short")
    turns = [turn._replace(decision=turn.decision._replace(faults=(fault,))) for turn in turns]
    progress(turns)
    assert out.getvalue().count("warning: too_short: a chunk of H=4 rows is too short") == 1


def test_a_reader_that_leaves_does_not_stop_the_run(layout: Layout) -> None:
    progress = Progress(Gone(), 1.0, 0.02)
    progress(made_up(layout, 50))
    progress.finish(made_up(layout))


def test_flights_go_from_the_request_to_the_first_row(layout: Layout) -> None:
    found = pictures.flights(made_up(layout, 20))
    assert [flight.chunk for flight in found] == [0, 1, 2]
    assert found[1].asked_s == pytest.approx(5.16)
    assert found[1].ran_s == pytest.approx(5.20)


def test_the_joint_that_is_shown_is_the_one_that_moves_most(layout: Layout) -> None:
    assert pictures.most_moved({"a": made_up(layout)}, layout) == 3
    assert pictures.most_moved({"a": []}, layout) == 0


def test_the_window_is_the_middle_of_the_run(layout: Layout) -> None:
    shown = pictures.middle(made_up(layout, 500), 2.0)
    assert len(shown) in (100, 101)
    assert shown[0].step == pytest.approx(200, abs=1)
    assert pictures.middle([], 2.0) == []
    assert len(pictures.middle(made_up(layout, 10), 2.0)) == 10


def test_the_timeline_is_drawn_even_of_an_empty_run(layout: Layout, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "timeline.png"
    runs = {"good": made_up(layout, holds=0), "starved": made_up(layout), "empty": []}
    pictures.timeline(path, runs, layout)
    pixels = np.asarray(image.open(path).convert("RGB"))
    assert pixels.shape[1] > 1000
    assert (pixels.std(axis=(0, 1)) > 5).all()


def test_the_moving_picture_has_every_scene(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "moving.gif"
    black, white = (np.full((40, 60, 3), value, dtype=np.uint8) for value in (0, 255))
    scenes = [pictures.Scene([black, white], ["a", "b"]), pictures.Scene([white, black], ["a", "b"])]
    pictures.animate(path, iter(scenes), 0.08)
    with image.open(path) as made:
        assert (made.n_frames, made.size) == (2, (120, 40 + pictures.CAPTION_PX))


class Actor:
    """A robot that counts its snapshots."""

    spec = None
    shots = 0

    def connect(self) -> None: ...

    def close(self) -> None: ...

    def observe(self) -> Frame:
        return Frame()

    def act(self, action: Action) -> Action:
        return action

    def snapshot(self) -> dict[str, Any]:
        self.shots += 1
        return {"number": self.shots}

    def score(self) -> dict[str, Any]:
        return {"passed": self.shots}


def test_a_film_takes_a_snapshot_every_period_and_none_between() -> None:
    now = [0.0]
    film = Filmed(Actor(), period_s=0.08, clock=lambda: now[0])  # type: ignore[arg-type]
    for step in range(100):
        now[0] = 3.0 + step * 0.02
        film.act(Action({}))
    assert len(film.shots) == 25
    assert [round(elapsed, 2) for elapsed, _, _ in film.shots[:3]] == [0.0, 0.08, 0.16]
    assert film.score() == {"passed": 25}
