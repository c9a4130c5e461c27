"""Every transcript of this folder says what the scheduler really does; `pytest --rewrite` records them again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from chunkwise.chunking import Decision, Scheduler, Tick
from chunkwise.testing import transcripts

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_transcript(path: Path, request: pytest.FixtureRequest) -> None:
    recorded = path.read_text(encoding="utf-8")
    played = transcripts.play(recorded)
    if request.config.getoption("--rewrite"):
        path.write_text(played, encoding="utf-8")
    else:
        assert played == recorded


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_transcript_opens_with_what_it_shows(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_the_command_line_finds_and_mends_a_transcript_that_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / FILES[0].name
    shutil.copy(FILES[0], copy)
    assert transcripts.main([str(tmp_path)]) == 0
    copy.write_text(copy.read_text(encoding="utf-8").replace("sends", "sent"), encoding="utf-8")
    assert transcripts.main([str(tmp_path)]) == 1
    assert "differs" in capsys.readouterr().out
    assert transcripts.main(["--rewrite", str(tmp_path)]) == 0
    assert copy.read_text(encoding="utf-8") == FILES[0].read_text(encoding="utf-8")


class Broken(Scheduler):
    """Sends what nobody planned, once."""

    def tick(self, tick: Tick) -> Decision:
        decision = super().tick(tick)
        return decision if tick.step != 6 else decision._replace(row=decision.row + 0.5)  # type: ignore[operator]


class Sulks(Scheduler):
    """Does not ask again after a fault."""

    def tick(self, tick: Tick) -> Decision:
        decision = super().tick(tick)
        return decision._replace(request=None) if decision.faults else decision


@pytest.mark.parametrize(
    ("broken", "complaint"), [(Broken, "neither the running plan's"), (Sulks, "not asked again")]
)
def test_the_rules_stand_above_every_recording(
    broken: type[Scheduler], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcripts, "Scheduler", broken)
    with pytest.raises(AssertionError, match=complaint):
        transcripts.play("scheduler rows=12\nnetwork ok+1, nan+2, ok+2\nrun 20\n")


@pytest.mark.parametrize(("line", "hint"), [("rum 3", "run"), ("network okay+2", "ok")])
def test_a_mistyped_command_names_the_nearest(line: str, hint: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean '{hint}'"):
        transcripts.play(f"scheduler\n{line}\n")
