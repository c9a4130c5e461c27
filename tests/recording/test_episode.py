"""An episode into a file and out again: whole, cut off, damaged, too fast, and hostile."""

from __future__ import annotations

import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise import plugins
from chunkwise.chunking import Decision, Fault, FaultKind, Source, SourceKind
from chunkwise.contract import Action, ActionChunk, ChunkRequest, Command, Frame
from chunkwise.recording import (
    ActionRecord,
    ChunkRecord,
    EndRecord,
    EpisodeReader,
    EpisodeWriter,
    FrameRecord,
    RecordedRobot,
    Recorder,
    RecordingError,
    TurnRecord,
    recorded,
    writer,
)
from chunkwise.runtime.events import EventRing, Turn
from chunkwise.safety import Rule, Verdict


def frame(k: int, **images: np.ndarray) -> Frame:
    state = {"arm": np.array([k, 1 / 3, np.nan, -0.0]), "touch": np.array([k], dtype=np.uint16)}
    return Frame(dict(images), state, {"prompt": "fold"}, {"n": k}, timestamp_ns=10**18 + k, sequence_id=k)


def action(k: float) -> Action:
    return Action({"arm": Command("cartesian_pose", np.array([k / 3, np.pi, 5e-324]), "base", {"why": "test"})})


def episode(path: Path, count: int = 20) -> Path:
    rng = np.random.default_rng(1)
    with EpisodeWriter(path, meta={"operator": "nobody"}) as made:
        for k in range(count):
            made.frame(frame(k, head=rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)), step=k)
            made.action(action(k), action(k + 0.5), step=k)
            while k % 5 == 4 and made.written["action"] <= k:  # so that the file has several chunks
                made._wake.set()
    return path


def turn(k: int, **changes: Any) -> Turn:
    row = np.arange(3.0) + k
    decision = Decision(k, row, Source(SourceKind.CHUNK, 4, k), ChunkRequest(k, id=7), age=2)
    made = Turn(k, 1.5 * k, 1e-4, decision, row, Verdict())
    return made._replace(**changes)


def test_everything_comes_back_to_the_last_bit_and_in_order(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 2**16, (5, 7), dtype=np.uint16)
    shown, told, applied = frame(3, depth=image), action(1), action(2)
    fault = Fault(FaultKind.LOST, 7, "no answer")
    with EpisodeWriter(tmp_path / "a.mcap") as made:
        made.frame(shown, step=3)
        made.action(told, applied, step=3)
        made.action(told)
        made.action(told, told)
        made.chunk(ActionChunk(np.full((2, 3), np.nan), first_step=9), request=1, request_step=8)
        verdict = Verdict((("arm", Rule.SLEW),))
        made.write(turn(5, verdict=verdict, decision=turn(5).decision._replace(faults=(fault,))))
    seen, both, alone, same, chunk, turned, end = EpisodeReader(tmp_path / "a.mcap")

    assert isinstance(seen, FrameRecord) and seen.step == 3 and not seen.dropped
    for name, value in {**shown.state, **shown.images}.items():
        back = {**seen.frame.state, **seen.frame.images}[name]
        assert back.dtype == value.dtype and back.shape == value.shape and back.tobytes() == value.tobytes()
    assert (seen.frame.timestamp_ns, seen.frame.sequence_id) == (10**18 + 3, 3)
    assert (seen.frame.task, seen.frame.meta) == ({"prompt": "fold"}, {"n": 3})

    assert isinstance(both, ActionRecord) and both.step == 3 and both.applied is not None
    for back, sent in ((both.commanded, told), (both.applied, applied)):
        command, like = back.commands["arm"], sent.commands["arm"]
        assert command.value.tobytes() == like.value.tobytes()
        assert (command.command, command.ref_frame, command.meta) == ("cartesian_pose", "base", {"why": "test"})
    assert isinstance(alone, ActionRecord) and alone.applied is None and alone.step is None
    assert isinstance(same, ActionRecord) and same.applied is same.commanded

    assert isinstance(chunk, ChunkRecord) and (chunk.first_step, chunk.request, chunk.request_step) == (9, 1, 8)
    assert np.isnan(chunk.rows).all() and chunk.rows.shape == (2, 3)
    assert isinstance(turned, TurnRecord) and turned.source == ("chunk", 4, 5)
    assert (turned.step, turned.time_s, turned.age, turned.request) == (5, 7.5, 2, 7)
    assert (turned.faults, turned.broken) == ([("lost", 7, "no answer")], [("arm", "slew")])
    assert turned.row is not None and turned.sent is not None and turned.sent.tolist() == [5, 6, 7]
    assert isinstance(end, EndRecord) and end.written["action"] == 3 and not end.dropped


def test_the_header_holds_specs_rate_versions_and_both_clocks(tmp_path: Path) -> None:
    robot = plugins.load("robots", "mock")(cameras=("head",))
    policy = plugins.load("policies", "wave")()
    meta = {"table": np.eye(2), "note": "first try"}
    with EpisodeWriter(tmp_path / "a.mcap", robot=robot.spec, policy=policy.spec, meta=meta):
        pass
    header = EpisodeReader(tmp_path / "a.mcap").header
    assert header.robot == robot.spec and header.policy == policy.spec and header.control_hz == 50.0
    assert header.meta["note"] == "first try" and header.meta["table"].tolist() == [[1, 0], [0, 1]]
    assert set(header.versions) == {"chunkwise", "python", "numpy"}
    assert header.wall_ns > 10**18 and header.monotonic_ns > 0


def test_later_changes_do_not_reach_what_was_recorded(tmp_path: Path) -> None:
    image, seen, told = np.zeros((2, 2), dtype=np.uint8), frame(0), action(1)
    seen.images["head"] = image
    with EpisodeWriter(tmp_path / "a.mcap", copy_images=True) as made:
        made.frame(seen)
        made.action(told, told)
        for array in (image, seen.state["touch"], told.commands["arm"].value):
            array += 1
        seen.meta["n"] = -1
        told.commands["arm"] = action(9).commands["arm"]
    first, second, _ = EpisodeReader(tmp_path / "a.mcap")
    assert isinstance(first, FrameRecord) and isinstance(second, ActionRecord)
    assert not first.frame.images["head"].any() and not first.frame.state["touch"].any()
    assert first.frame.meta == {"n": 0}
    assert second.commanded.commands["arm"].value[0] == 1 / 3


def test_an_image_seen_again_is_written_once_and_one_written_into_is_written_again(tmp_path: Path) -> None:
    image = np.zeros((100, 100), dtype=np.uint8)
    made = EpisodeWriter(tmp_path / "a.mcap")
    made.open()
    for k in range(5):
        made.frame(frame(k, head=image, wrist=image))
        while made.written["frame"] <= k:
            made._wake.set()
        if k == 2:
            image += 1
    made.close()
    assert made.path.stat().st_size < 4 * image.nbytes + 5000
    seen = [record.frame.images for record in EpisodeReader(made.path).frames()]
    assert [int(images["head"][0, 0]) for images in seen] == [0, 0, 0, 1, 1]
    assert all(images["wrist"].tobytes() == images["head"].tobytes() for images in seen)


def test_when_the_disk_is_slow_images_are_dropped_first_and_counted(tmp_path: Path) -> None:
    made = EpisodeWriter(tmp_path / "a.mcap", queue_bytes=2500)
    disk = threading.Event()
    write = made._write

    def slow(batch: Any) -> None:
        if batch[0].topic != "episode":
            assert disk.wait(10)
        write(batch)

    made._write = slow  # type: ignore[method-assign]
    made.open()
    for k in range(5):
        made.frame(frame(k, head=np.full(1000, k, dtype=np.uint8), wrist=np.full(10, k, dtype=np.uint8)), step=k)
        made.action(action(k), step=k)
    assert made.dropped == {"images": 6}
    disk.set()
    made.close()
    reader = EpisodeReader(tmp_path / "a.mcap")
    frames = list(reader.frames())
    assert [record.step for record in frames] == [0, 1, 2, 3, 4]
    assert [record.dropped for record in frames] == [[], []] + 3 * [["head", "wrist"]]
    assert [record.step for record in reader.actions()] == [0, 1, 2, 3, 4]
    end = list(reader)[-1]
    assert isinstance(end, EndRecord) and end.dropped == {"images": 6}


def test_a_patient_writer_waits_instead(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "a.mcap", queue_bytes=2500, patient=True) as made:
        for k in range(50):
            made.frame(frame(k, head=np.full(1000, k, dtype=np.uint8)))
    assert not made.dropped
    assert [int(record.frame.images["head"][0]) for record in EpisodeReader(made.path).frames()] == list(range(50))


def test_with_no_room_for_records_they_are_counted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_RECORDS", 3)
    made = EpisodeWriter(tmp_path / "a.mcap")
    made.action(action(0))
    assert made.dropped == {"action": 1}, "it is not open"
    monkeypatch.setattr(made, "_drain", lambda: None)
    made.open()
    for k in range(5):
        made.action(action(k))
    assert made.dropped == {"action": 3}
    made.close()
    assert made.dropped == {"action": 6}, "three were taken and never written"


def test_a_disk_that_fails_stops_the_recording_and_not_the_loop(tmp_path: Path) -> None:
    made = EpisodeWriter(tmp_path / "a.mcap")
    made.open()
    made.action(action(0))
    while not made.written["action"]:
        made._wake.set()

    def full(batch: Any) -> None:
        raise OSError(28, "No space left on device")

    made._write = full  # type: ignore[method-assign]
    made.action(action(1))
    while made.error is None:
        made._wake.set()
    made.action(action(2))
    with pytest.raises(RecordingError, match="No space left"):
        made.close()
    made.close()
    reader = EpisodeReader(tmp_path / "a.mcap")
    assert len(reader) == 1 and reader.truncated
    assert made.dropped["action"] >= 1


def test_a_file_that_cannot_be_begun_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = EpisodeWriter(tmp_path / "a.mcap")

    def full(batch: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(made, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        made.open()
    made.close()
    with pytest.raises(FileNotFoundError):
        EpisodeWriter(tmp_path / "none" / "a.mcap").open()


def test_a_driver_that_writes_while_the_file_is_written_does_not_damage_it(tmp_path: Path) -> None:
    image = np.zeros(1 << 20, dtype=np.uint8)
    stop = threading.Event()

    def scribble() -> None:
        while not stop.is_set():
            np.add(image, 1, out=image)

    driver = threading.Thread(target=scribble)
    driver.start()
    try:
        with EpisodeWriter(tmp_path / "a.mcap", patient=True) as made:
            for k in range(30):
                made.frame(frame(k, head=image))
    finally:
        stop.set()
        driver.join()
    assert len(EpisodeReader(made.path)) == 31 and not EpisodeReader(made.path).truncated


def test_a_failure_in_the_block_is_not_hidden_by_one_of_the_disk(tmp_path: Path) -> None:
    made = EpisodeWriter(tmp_path / "a.mcap")
    with pytest.raises(ZeroDivisionError), made:
        made.error = OSError("disk")
        raise ZeroDivisionError


def test_what_json_cannot_write_costs_its_own_record_only(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "a.mcap") as made:
        made.frame(Frame(meta={"n": 10**5000}))
        made.frame(Frame(meta={"n": object()}))
        made.frame(frame(2))
    assert made.dropped == {"frame": 1}
    first, second = EpisodeReader(tmp_path / "a.mcap").frames()
    assert first.left_out == ["meta.n"] and second.frame.meta == {"n": 2}


def test_recordings_are_not_written_over(tmp_path: Path) -> None:
    episode(tmp_path / "a.mcap")
    with pytest.raises(FileExistsError), EpisodeWriter(tmp_path / "a.mcap"):
        pass
    assert len(EpisodeReader(tmp_path / "a.mcap")) == 41


def test_it_reads_the_event_stream_of_the_loop(tmp_path: Path) -> None:
    ring = EventRing(capacity=8)
    with EpisodeWriter(tmp_path / "a.mcap") as made:
        assert isinstance(made, Recorder)
        made.follow(ring.reader())
        for k in range(4):
            ring.emit(turn(k))
    assert [record.step for record in EpisodeReader(made.path).turns()] == [0, 1, 2, 3]


def test_a_robot_and_a_policy_are_recorded_on_their_way(tmp_path: Path) -> None:
    robot = plugins.load("robots", "mock")(arms=1)
    with EpisodeWriter(tmp_path / "a.mcap", robot=robot.spec) as made:
        tapped = RecordedRobot(robot, made, step=lambda: 5)
        tapped.connect()
        seen = tapped.observe()
        told = Action({"arm": Command("joint_position", np.ones(7))})
        assert tapped.act(told) is told and tapped.spec is robot.spec
        infer = recorded(lambda frame, request: ActionChunk(np.ones((2, 8))), made)
        infer(seen, ChunkRequest(4, id=1))
        tapped.close()
    shown, acted, chunk, _ = EpisodeReader(made.path)
    assert isinstance(shown, FrameRecord) and shown.step == 5 and shown.frame.state["arm"].tolist() == [0] * 7
    assert isinstance(acted, ActionRecord) and acted.applied is acted.commanded
    assert isinstance(chunk, ChunkRecord) and (chunk.request, chunk.request_step) == (1, 4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return episode(tmp_path_factory.mktemp("whole") / "a.mcap").read_bytes()


def chunk_ends(data: bytes) -> list[tuple[int, int]]:
    """Where each chunk ends, and how many records lie before."""
    found, at, count = [], 8, -1
    while at < len(data) - 8:
        opcode, length = struct.unpack_from("<BQ", data, at)
        if opcode == 6:
            inner, end = at + 9 + 40, at + 9 + length
            while inner < end:
                inner += 9 + struct.unpack_from("<BQ", data, inner)[1]
                count += 1
            found.append((end, count))
        at += 9 + length
    return found


def test_a_file_cut_off_anywhere_reads_up_to_the_cut(whole: bytes, tmp_path: Path) -> None:
    path, full = tmp_path / "cut.mcap", [str(record) for record in episode_of(whole, tmp_path)]
    ends = chunk_ends(whole)
    assert len(ends) >= 4
    for cut in [*range(0, len(whole), 397), len(whole) - 1]:
        path.write_bytes(whole[:cut])
        left = max((count for end, count in ends if end <= cut), default=None)
        if left is None:
            with pytest.raises(RecordingError, match="no recording"):
                EpisodeReader(path)
            continue
        reader = EpisodeReader(path)
        assert [str(record) for record in reader] == full[:left] and len(reader) == left
        data_ends = ends[-1][0] + 9 + 4  # what says that the data is complete
        assert reader.truncated == (cut < data_ends) and bool(reader.damage) == reader.truncated


def episode_of(data: bytes, folder: Path) -> EpisodeReader:
    path = folder / "of.mcap"
    path.write_bytes(data)
    return EpisodeReader(path)


def test_a_tail_of_zeros_is_a_cut(whole: bytes, tmp_path: Path) -> None:
    end, count = chunk_ends(whole)[-2]
    reader = episode_of(whole[:end] + bytes(4096), tmp_path)
    assert len(list(reader)) == count and reader.truncated


def test_a_flipped_bit_ends_the_reading_before_it(whole: bytes, tmp_path: Path) -> None:
    (start, before), (end, total) = chunk_ends(whole)[-3:-1]
    for at in [*range(start, start + 80), *range(start + 80, end, 31)]:
        for bit in (0x01, 0x80):
            damaged = bytearray(whole)
            damaged[at] ^= bit
            reader = episode_of(bytes(damaged), tmp_path)
            found = len(list(reader))
            if start + 9 <= at < start + 9 + 16:  # when the chunk began and ended, which nobody reads
                assert not reader.truncated
            else:
                assert found == before and reader.truncated
    assert total > before


@given(st.binary(max_size=300))
def test_garbage_is_a_recording_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.mcap"
    for content in (data, b"\x89MCAP0\r\n" + data):
        path.write_bytes(content)
        with pytest.raises(RecordingError):
            EpisodeReader(path)


def test_a_length_that_lies_allocates_nothing(whole: bytes, tmp_path: Path) -> None:
    end, count = chunk_ends(whole)[0]
    reader = episode_of(whole[:end] + struct.pack("<BQ", 6, 2**60) + b"x", tmp_path)
    assert len(reader) == count and "cut off or damaged" in reader.damage


def test_a_compressed_file_says_what_cures_it(whole: bytes, tmp_path: Path) -> None:
    end, _ = chunk_ends(whole)[0]
    chunk = struct.pack("<QQQII", 0, 0, 10**12, 0, 4) + b"zstd" + struct.pack("<Q", 3) + b"abc"
    reader = episode_of(whole[:end] + struct.pack("<BQ", 6, len(chunk)) + chunk, tmp_path)
    with pytest.raises(RecordingError, match="mcap decompress"):
        list(reader)


def test_an_image_of_a_frame_that_could_not_be_written_does_not_count_as_shown(tmp_path: Path) -> None:
    first, second = (np.full((2, 2, 3), k, dtype=np.uint8) for k in (1, 2))
    with EpisodeWriter(tmp_path / "a.mcap") as made:
        made.frame(frame(0, head=first))
        made.frame(Frame({"head": second}, meta={"note": "x" * (5 << 20)}))  # too large
        made.frame(frame(2))
        made.frame(frame(3, head=second))
    images = [record.frame.images.get("head") for record in EpisodeReader(made.path).frames()]
    assert made.dropped == {"frame": 1} and images[1] is None
    assert (images[0] == 1).all() and (images[2] == 2).all()


def test_a_value_that_changes_while_it_is_written_costs_its_record_and_no_other(tmp_path: Path) -> None:
    class Changing(dict[str, int]):
        def items(self) -> Any:
            raise RuntimeError("dictionary changed size during iteration")

    with EpisodeWriter(tmp_path / "a.mcap") as made:
        made.frame(Frame(meta={"nested": Changing(a=1)}))
        made.frame(frame(1))
    assert made.dropped == {"frame": 1}
    assert [record.frame.meta for record in EpisodeReader(made.path).frames()] == [{"n": 1}]


def test_metadata_of_a_command_that_changes_later_is_recorded_as_it_was(tmp_path: Path) -> None:
    sent = action(0)
    with EpisodeWriter(tmp_path / "a.mcap") as made:
        made.action(sent)
        sent.commands["arm"].meta["why"] = "later"
    assert next(EpisodeReader(made.path).actions()).commanded.commands["arm"].meta == {"why": "test"}


def test_keys_that_are_no_names_are_left_out_and_the_rest_reads_back(tmp_path: Path) -> None:
    seen, sent = frame(0), action(0)
    seen.meta[1] = seen.task[2] = sent.meta[3] = sent.commands["arm"].meta[4] = "x"  # type: ignore[index]
    with EpisodeWriter(tmp_path / "a.mcap") as made:
        made.frame(seen)
        made.action(sent)
    shown, told, _ = EpisodeReader(made.path)
    assert isinstance(shown, FrameRecord) and isinstance(told, ActionRecord)
    assert shown.frame.meta == {"n": 0} and shown.left_out == ["task.2", "meta.1"]
    assert told.left_out == ["commanded.commands.arm.meta.4", "commanded.meta.3"]


def test_a_record_that_is_none_says_where(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "a.mcap") as made:
        made._put("turn", {"step": 1, "time_s": 10**400, "late_s": 0, "source": ["chunk", 1, 2]})
    with pytest.raises(RecordingError, match=r"a\.mcap, message 1: .*OverflowError"):
        list(EpisodeReader(made.path))


def test_a_record_of_a_topic_that_is_not_known_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = (*writer.TOPICS, "smell")
    monkeypatch.setattr(writer, "TOPICS", topics)
    monkeypatch.setattr(writer, "NUMBERS", {topic: number for number, topic in enumerate(topics, start=1)})
    with EpisodeWriter(tmp_path / "a.mcap") as made:
        made._put("smell", {"of": "smoke"})
        made.action(action(0))
    assert [type(record) for record in EpisodeReader(made.path)] == [ActionRecord, EndRecord]


@pytest.mark.parametrize("tree", [{}, {"format": 1, "robot": 3}, {"format": 99}, {"format": 1, "control_hz": "x"}])
def test_a_header_that_is_none_is_a_recording_error(tree: dict[str, Any], tmp_path: Path) -> None:
    made = EpisodeWriter(tmp_path / "a.mcap")
    header = writer.header_tree
    try:
        writer.header_tree = lambda known: tree  # type: ignore[assignment]
        made.open()
    finally:
        writer.header_tree = header
    made.close()
    with pytest.raises(RecordingError):
        EpisodeReader(made.path)


def test_mcap_s_own_library_reads_it(whole: bytes, tmp_path: Path) -> None:
    reader = pytest.importorskip("mcap.reader")
    path = tmp_path / "a.mcap"
    path.write_bytes(whole)
    with path.open("rb") as file:
        topics = [channel.topic for _, channel, _ in reader.make_reader(file, validate_crcs=True).iter_messages()]
    assert topics.count("frame") == 20 and topics.count("action") == 20
