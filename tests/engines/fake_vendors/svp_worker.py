"""A worker of an SD3403: the protocol on stdin and stdout, a network of one matrix, and faults on request.

The network is the file that SVP_MODEL_PATH names, of numpy's ``.npz`` format: ``action = tanh(inputs @ weights)``,
``stride`` numbers from row to row.  ``faults.json`` beside it says in which request what is to go wrong.
"""

import json
import os
import signal
import struct
import sys
import time
from pathlib import Path

import numpy as np

MAGIC, VERSION = 0x53565031, 1


def read(size):
    data = b""
    while len(data) < size:
        some = sys.stdin.buffer.read(size - len(data))
        if not some:
            sys.exit(0)
        data += some
    return data


def write(data):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def answer(request_id, rows, stride, fault):
    if fault == "hang":
        print("thinking", file=sys.stderr, flush=True)
        signal.pause()
    if fault == "trickle":
        while True:
            write(b"x")
            time.sleep(0.02)
    if fault == "die":
        print("out of memory", file=sys.stderr, flush=True)
        sys.exit(3)
    if fault == "close":
        os.close(1)
        signal.pause()
    if fault == "garbage":
        write(b"x" * (2 << 20))
        signal.pause()
    if fault == "stray line":
        write(b"loading 1PV 1P something ...\n")
    padded = np.full((len(rows), stride), 7.0, np.float32)
    padded[:, : rows.shape[1]] = rows
    outputs = [
        (0, 6, np.arange(3, dtype=np.int64)),
        (1, 2, np.ones((2, 2), np.float16)),
        (2, 1, padded),
    ]
    count, latency_us, status, code, text = len(outputs), 1500, 0, 0, b""
    if fault == "wrong id":
        request_id += 1
    if fault == "status":
        outputs, count, status, code, text = [], 0, 1, -3, b"accelerator is busy"
    if fault == "silent status":
        outputs, count, status, code = [], 0, 1, -4
    if fault == "no action":
        outputs, count = outputs[:2], 2
    if fault == "many outputs":
        count = 1 << 31
    if fault == "long text":
        status, text = 1, b"x" * (1 << 20)
    version = 9 if fault == "version" else VERSION
    write(struct.pack("<IHHIIIiI", MAGIC, version, status, request_id, count, latency_us, code, len(text)))
    for index, kind, array in outputs:
        size, numbers, dims = array.nbytes, array.size, array.shape
        if index == 2:
            if fault == "huge":
                size, numbers, dims = 0xFFFFFFF0, 0x3FFFFFFC, (1 << 62, 4)
            if fault == "disagree":
                numbers += 1
            if fault == "overflow":
                dims = (1 << 63, 2, *dims)
            if fault == "type":
                kind = 77
            if fault == "dimensions":
                dims = (1,) * 9 + dims
        write(struct.pack("<IIIIII", index, kind, numbers, size, len(dims), 0))
        write(struct.pack(f"<{len(dims)}Q", *dims))
        if fault == "die halfway" and index == 2:
            write(array.tobytes()[:10])
            sys.exit(4)
        if fault == "stray line inside" and index == 2:
            write(b"hello\n" + array.tobytes())
            continue
        write(array.tobytes())
    write(text)


def main():
    path = Path(os.environ["SVP_MODEL_PATH"])
    network = np.load(path)
    weights, stride = network["weights"], int(network["stride"])
    dim = int(network["dim"])
    beside = path.with_name("faults.json")
    print("model_load_ms=12.5", file=sys.stderr, flush=True)
    while True:
        magic, version, inputs, request_id, zero = struct.unpack("<IHHII", read(16))
        assert (magic, version, zero) == (MAGIC, VERSION, 0), "no request"
        arrays = []
        for place in range(inputs):
            index, size, zero = struct.unpack("<III", read(12))
            assert (index, zero) == (place, 0), "no input"
            arrays.append(np.frombuffer(read(size), "<f4"))
        rows = np.tanh(np.concatenate(arrays) @ weights).reshape(-1, dim)
        faults = json.loads(beside.read_text()) if beside.exists() else {}
        answer(request_id, rows, stride, faults.get(str(request_id)))


main()
