"""Huawei's pyACL as far as it is used: the same names, arguments and answers, and the faults of careless callers.

A "compiled" file is an ONNX one, which onnxruntime computes; so a wrong order, shape or type of what goes in shows
in what comes out.  Device memory is memory here; it can be read and written by `rt.memcpy` alone, in the right
direction and within its bounds.  A thread without a context gets 107002, as from the real one.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import threading
from types import SimpleNamespace

import numpy as np
import onnxruntime

OK, INVALID_PARAMETER, REPEAT_INITIALISE, INVALID_FILE, CONTEXT_NULL = 0, 100000, 100002, 100003, 107002
TYPES = {
    "tensor(float)": (0, "float32"),
    "tensor(float16)": (1, "float16"),
    "tensor(int32)": (3, "int32"),
    "tensor(uint8)": (4, "uint8"),
    "tensor(int64)": (9, "int64"),
    "tensor(double)": (11, "float64"),
    "tensor(bool)": (12, "bool"),
}
hides_names = False
"""Give inputs names of the compiler's own, as some versions of it do."""
fails = set()
"""Names of functions that answer an error."""
calls = []
"""What was asked for, by name."""

_initialised = False
_thread = threading.local()
_numbers = itertools.count(1)
_contexts, _memory, _models, _descs, _datasets, _buffers = {}, {}, {}, {}, {}, {}
_kinds = {
    "contexts": _contexts,
    "memory": _memory,
    "models": _models,
    "descriptions": _descs,
    "datasets": _datasets,
    "buffers": _buffers,
}


def leaks():
    """What was not given back, by kind."""
    return {name: len(kind) for name, kind in _kinds.items() if kind}


def forget():
    """Let everything go."""
    for kind in _kinds.values():
        kind.clear()


def _code(name, *, context=True):
    calls.append(name)
    if name in fails:
        return 507899
    return CONTEXT_NULL if context and getattr(_thread, "context", None) not in _contexts else OK


def init(config=None):
    global _initialised
    before, _initialised = _initialised, True
    return _code("init", context=False) or (REPEAT_INITIALISE if before else OK)


def _set_device(number):
    return _code("set_device", context=False) or (OK if number in (0, 1) else 107001)


def _create_context(number):
    code = _code("create_context", context=False)
    context = next(_numbers)
    if code == OK:
        _contexts[context] = number
        _thread.context = context
    return context, code


def _set_context(context):
    if context not in _contexts:
        return INVALID_PARAMETER
    _thread.context = context
    return _code("set_context")


def _destroy_context(context):
    return OK if _contexts.pop(context, None) is not None else INVALID_PARAMETER


def _malloc(size, policy):
    code = _code("malloc")
    if code or policy not in (0, 1, 2) or size < 1:
        return 0, code or INVALID_PARAMETER
    block = ctypes.create_string_buffer(size)
    _memory[ctypes.addressof(block)] = block
    return ctypes.addressof(block), OK


def _free(pointer):
    code = _code("free")
    return code if code or _memory.pop(pointer, None) is not None else INVALID_PARAMETER


def _memcpy(to, most, start, count, kind):
    device = {0: (), 1: (to,), 2: (start,), 3: (to, start)}.get(kind)
    if device is None or count > most:
        return INVALID_PARAMETER
    for pointer in (to, start):
        there = _memory.get(pointer)
        if (pointer in device) != (there is not None) or (there is not None and len(there) < count):
            return INVALID_PARAMETER
    code = _code("memcpy")
    if code == OK:
        ctypes.memmove(to, start, count)
    return code


def _load_from_file(path):
    code = _code("load_from_file")
    if code:
        return 0, code
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        with open(path, "rb") as file:
            session = onnxruntime.InferenceSession(file.read(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001  whatever it is, the real one answers a number
        return 0, INVALID_FILE
    number = next(_numbers)
    _models[number] = session
    return number, OK


def _create_desc():
    desc = next(_numbers)
    _descs[desc] = None
    return desc


def _get_desc(desc, model):
    if desc not in _descs or model not in _models:
        return INVALID_PARAMETER
    _descs[desc] = _models[model]
    return _code("get_desc")


def _destroy_desc(desc):
    return OK if _descs.pop(desc, False) is not False else INVALID_PARAMETER


def _values(desc, kind):
    session = _descs[desc]
    return session.get_inputs() if kind == "input" else session.get_outputs()


def _name(desc, place, kind):
    return f"{kind}_{place}" if hides_names else _values(desc, kind)[place].name


def _dims(desc, place, kind):
    dims = [side if isinstance(side, int) else -1 for side in _values(desc, kind)[place].shape]
    return {"name": _name(desc, place, kind), "dimCount": len(dims), "dims": dims}, OK


def _type(desc, place, kind):
    return TYPES[_values(desc, kind)[place].type][0]


def _size(desc, place, kind):
    item = np.dtype(TYPES[_values(desc, kind)[place].type][1]).itemsize
    dims = _dims(desc, place, kind)[0]["dims"]
    return 0 if -1 in dims else item * math.prod(dims)


def _create_dataset():
    dataset = next(_numbers)
    _datasets[dataset] = []
    return dataset


def _destroy_dataset(dataset):
    return OK if _datasets.pop(dataset, None) is not None else INVALID_PARAMETER


def create_data_buffer(pointer, size):
    buffer = next(_numbers)
    _buffers[buffer] = (pointer, size)
    return buffer


def destroy_data_buffer(buffer):
    return OK if _buffers.pop(buffer, None) is not None else INVALID_PARAMETER


def _add_dataset_buffer(dataset, buffer):
    if dataset not in _datasets or buffer not in _buffers:
        return dataset, INVALID_PARAMETER
    _datasets[dataset].append(buffer)
    return dataset, _code("add_dataset_buffer")


def _execute(model, given, wanted):
    code = _code("execute")
    if code:
        return code
    session = _models[model]
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(_datasets[given]) != len(inputs) or len(_datasets[wanted]) != len(outputs):
        return 161002
    feeds = {}
    for value, buffer in zip(inputs, _datasets[given], strict=True):
        pointer, size = _buffers[buffer]
        dtype = np.dtype(TYPES[value.type][1])
        if size != dtype.itemsize * math.prod(value.shape):
            return 161002
        feeds[value.name] = np.frombuffer(ctypes.string_at(_checked(pointer, size), size), dtype).reshape(
            value.shape
        )
    for answer, buffer in zip(session.run(None, feeds), _datasets[wanted], strict=True):
        pointer, size = _buffers[buffer]
        if answer.nbytes != size:
            return 161002
        ctypes.memmove(_checked(pointer, size), np.ascontiguousarray(answer).ctypes.data, size)
    return OK


def _checked(pointer, size):
    assert len(_memory[pointer]) >= size, "memory of the card that was given back, or is too small"
    return pointer


def _unload(model):
    return OK if _models.pop(model, None) is not None else INVALID_PARAMETER


rt = SimpleNamespace(
    set_device=_set_device,
    create_context=_create_context,
    set_context=_set_context,
    destroy_context=_destroy_context,
    malloc=_malloc,
    free=_free,
    memcpy=_memcpy,
)
mdl = SimpleNamespace(
    load_from_file=_load_from_file,
    unload=_unload,
    create_desc=_create_desc,
    get_desc=_get_desc,
    destroy_desc=_destroy_desc,
    create_dataset=_create_dataset,
    destroy_dataset=_destroy_dataset,
    add_dataset_buffer=_add_dataset_buffer,
    execute=_execute,
    get_num_inputs=lambda desc: len(_values(desc, "input")),
    get_num_outputs=lambda desc: len(_values(desc, "output")),
    get_input_dims=lambda desc, place: _dims(desc, place, "input"),
    get_output_dims=lambda desc, place: _dims(desc, place, "output"),
    get_input_data_type=lambda desc, place: _type(desc, place, "input"),
    get_output_data_type=lambda desc, place: _type(desc, place, "output"),
    get_input_size_by_index=lambda desc, place: _size(desc, place, "input"),
    get_output_size_by_index=lambda desc, place: _size(desc, place, "output"),
    get_input_name_by_index=lambda desc, place: _name(desc, place, "input"),
    get_output_name_by_index=lambda desc, place: _name(desc, place, "output"),
)
