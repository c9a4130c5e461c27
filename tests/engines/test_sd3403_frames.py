"""The frames of an SD3403 worker: their bytes, and that nothing a worker writes is believed beyond its bounds."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.engines._sd3403_frames import (
    MAGIC,
    MOST_BYTES,
    MOST_SKIPPED,
    FrameError,
    WorkerFailed,
    request,
    response,
)


def header(*, magic=MAGIC, version=1, status=0, request_id=7, outputs=1, latency_us=1500, code=0, error=0):
    return struct.pack("<IHHIIIiI", magic, version, status, request_id, outputs, latency_us, code, error)


def output(index, kind, array, dims=None, count=None, size=None):
    dims = array.shape if dims is None else dims
    count = array.size if count is None else count
    size = array.nbytes if size is None else size
    head = struct.pack("<IIIIII", index, kind, count, size, len(dims), 0)
    return head + struct.pack(f"<{len(dims)}Q", *dims) + array.tobytes()


ROWS = np.arange(16, dtype=np.float32).reshape(2, 8)
GOOD = header() + output(2, 1, ROWS)


def feed(data, request_id=7):
    """The response that bytes are, and how many of them are left; None where more are wanted."""
    reading = response(request_id)
    wanted, at = next(reading), 0
    while True:
        assert 0 <= wanted <= MOST_BYTES
        if at + wanted > len(data):
            return None, wanted
        try:
            piece = data[at : at + wanted]
            at += wanted
            wanted = reading.send(piece)
        except StopIteration as done:
            return done.value, len(data) - at


def test_a_request_byte_by_byte():
    state = np.array([[1.0, -2.0]], np.float64)
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)[:, :, ::-1]
    data = b"".join(request(0x01020304, [state, image]))
    assert data[:16] == b"1PVS" + bytes([1, 0, 2, 0, 4, 3, 2, 1, 0, 0, 0, 0])
    assert data[16:28] == struct.pack("<III", 0, 8, 0)
    assert data[28:36] == np.array([1, -2], "<f4").tobytes()
    assert data[36:48] == struct.pack("<III", 1, 48, 0)
    assert data[48:] == np.ascontiguousarray(image).tobytes()


def test_a_response():
    answer, left = feed(GOOD + b"rest")
    assert left == 4
    np.testing.assert_array_equal(answer.chosen(), ROWS)
    assert (answer.error, answer.latency_us, answer.skipped) == ("", 1500, b"")


@pytest.mark.parametrize(("kind", "dtype"), [(1, "f4"), (2, "f2"), (3, "i1"), (4, "u1"), (5, "i4"), (6, "i8")])
def test_every_type_of_numbers(kind, dtype):
    numbers = np.arange(6).astype(f"<{dtype}").reshape(2, 3)
    answer, _ = feed(header() + output(2, kind, numbers))
    assert answer.chosen().dtype == np.dtype(dtype)
    np.testing.assert_array_equal(answer.chosen(), numbers)


def test_only_the_action_is_taken_of_several_outputs():
    others = [output(0, 6, np.ones((1, 2), np.int64)), output(5, 2, np.ones(3, np.float16))]
    answer, left = feed(header(outputs=3) + others[0] + output(2, 1, ROWS) + others[1])
    np.testing.assert_array_equal(answer.chosen(), ROWS)
    assert left == 0


def test_an_output_without_dimensions_is_flat():
    answer, _ = feed(header() + output(2, 1, ROWS, dims=()))
    np.testing.assert_array_equal(answer.chosen(), ROWS.ravel())


@pytest.mark.parametrize("dims", [(0,), (0, 8), (0, 1 << 63), (0, (1 << 64) - 1), (0, 1 << 62, 1 << 62)])
def test_an_output_of_no_numbers_is_one_whatever_its_other_sides(dims):
    answer, left = feed(header() + output(2, 1, ROWS[:0], dims=dims))
    assert (answer.chosen().size, left) == (0, 0)


def test_a_worker_that_fails_says_why_and_stays_in_step():
    text = "busy \N{WHITE SMILING FACE}".encode()
    answer, left = feed(header(status=1, code=-3, outputs=0, error=len(text)) + text + b"next")
    assert left == 4
    with pytest.raises(WorkerFailed, match=r"^worker inference failed \(error_code=-3\): busy ☺$"):
        answer.chosen()
    answer, _ = feed(header(status=9, code=-4, outputs=0))
    with pytest.raises(WorkerFailed, match=r"^worker inference failed \(error_code=-4\): unknown error$"):
        answer.chosen()


def test_a_response_without_the_action():
    answer, _ = feed(header() + output(1, 1, ROWS))
    with pytest.raises(WorkerFailed, match=r"^worker response does not contain output index 2$"):
        answer.chosen()


@pytest.mark.parametrize(
    "stray", [b"\n", b"hello\n", b"1", b"1P", b"1PV", b"1P1PV1PVX", b"x" * 27, b"x" * 28, b"x" * 29, b"y" * 1000]
)
def test_what_stands_before_a_response_is_skipped(stray):
    answer, left = feed(stray + GOOD)
    assert (answer.skipped, left) == (stray, 0)
    np.testing.assert_array_equal(answer.chosen(), ROWS)


def test_no_more_is_skipped_than_a_megabyte():
    with pytest.raises(FrameError, match=r"^unexpected response header: no magic=0x53565031 in 1048576 bytes"):
        feed(b"x" * (MOST_SKIPPED + 100))


REFUSED = {
    "another version": (header(version=9), r"unexpected response header: magic=0x53565031, version=9"),
    "another request's": (header(request_id=6), "mismatched response id: expected 7, got 6"),
    "too many outputs": (header(outputs=1 << 31), "2147483648 outputs, at most 32 are read"),
    "too long a text": (header(error=1 << 20), "1048576 bytes of error text, at most 65536"),
    "another type": (header() + output(2, 77, ROWS), "unsupported worker element type: 77"),
    "too many dimensions": (header() + output(2, 1, ROWS, dims=(1,) * 7 + (2, 8)), "9 dimensions, at most 8"),
    "too large": (header() + output(2, 1, ROWS, size=MOST_BYTES + 4), "268435460 bytes, at most 268435456"),
    "too few numbers": (header() + output(2, 1, ROWS, count=15), "do not agree"),
    "another shape": (header() + output(2, 1, ROWS, dims=(2, 9)), "do not agree"),
    "a shape that overflows": (header() + output(2, 1, ROWS, dims=(1 << 63, 2, 2, 8)), "do not agree"),
    "half a number": (header() + output(2, 1, ROWS, size=63), "do not agree"),
    "no number and some bytes": (header() + output(2, 1, ROWS, dims=(0,), count=0), "do not agree"),
    "the action twice": (
        header(outputs=2) + output(2, 1, ROWS) * 2,
        "worker response contains output index 2 twice",
    ),
}


@pytest.mark.parametrize("case", REFUSED, ids=REFUSED)
def test_what_is_absurd_is_refused_before_it_is_read(case):
    data, message = REFUSED[case]
    with pytest.raises(FrameError, match=message):
        feed(data)


@pytest.mark.slow
def test_all_outputs_together_are_bounded():
    half = np.zeros(MOST_BYTES // 2 + 4, np.uint8)
    with pytest.raises(FrameError, match="at most 134217724 are read"):
        feed(header(outputs=2) + output(0, 4, half) + output(2, 4, half))


@given(st.binary(max_size=400), st.integers(0, len(GOOD)), st.integers(0, len(GOOD)))
def test_whatever_a_worker_writes_is_an_answer_an_error_or_too_short(noise, start, end):
    for data in (noise, GOOD[:start] + noise, GOOD[:start] + noise + GOOD[end:], header(outputs=2) + noise):
        try:
            answer, _ = feed(data)
        except FrameError:
            continue
        assert answer is None or answer.action is None or answer.action.nbytes <= len(data)
