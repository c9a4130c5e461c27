"""Rockchip's RKNNLite as far as it is used: the same names, arguments and answers.

A "compiled" file is an ONNX one, which onnxruntime computes.  Inputs are taken by their places; pictures are taken
for (1, H, W, C) where nobody says ``nchw``, as the real one does.
"""

from __future__ import annotations

import onnxruntime

compiled_order = None
"""Names of the inputs as the "compiler" put them; None for the file's own order."""
answers_flat = False
"""The outputs come with one dimension."""
fails = {}
"""Names of methods, and the number that they answer."""
made = []
"""Every RKNNLite there was."""


class RKNNLite:
    NPU_CORE_AUTO = 0
    NPU_CORE_0 = 1
    NPU_CORE_1 = 2
    NPU_CORE_2 = 4
    NPU_CORE_0_1 = 3
    NPU_CORE_0_1_2 = 7
    NPU_CORE_ALL = 0xFFFF

    def __init__(self, verbose=False, verbose_file=None):
        self.core_mask, self.released, self._session = None, False, None
        made.append(self)

    def load_rknn(self, path):
        if "load_rknn" in fails:
            return fails["load_rknn"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception:  # noqa: BLE001  whatever it is, the real one answers a number
            return -1
        return 0

    def init_runtime(self, target=None, core_mask=NPU_CORE_AUTO):
        self.core_mask = core_mask
        return fails.get("init_runtime", 0)

    def inference(self, inputs, data_format=None, inputs_pass_through=None):
        if "inference" in fails:
            return fails["inference"]
        formats = data_format or ["nhwc"] * len(inputs)
        values = {value.name: value for value in self._session.get_inputs()}
        order = compiled_order or list(values)
        if len(inputs) != len(order):
            raise ValueError(f"The input num should be {len(order)}, but {len(inputs)} are given")
        feeds = {}
        for name, given, layout in zip(order, inputs, formats, strict=True):
            picture = given.transpose(0, 3, 1, 2) if given.ndim == 4 and layout == "nhwc" else given
            if list(picture.shape) != list(values[name].shape):
                raise ValueError(
                    f"The input {name} need shape {values[name].shape}, but {list(given.shape)} is given"
                )
            feeds[name] = picture
        answers = self._session.run(None, feeds)
        return [answer.ravel() for answer in answers] if answers_flat else answers

    def release(self):
        self.released = True
