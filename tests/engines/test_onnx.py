"""The ONNX engine's refusals; that it computes rightly is shown with the demo policy's training."""

import pytest

from chunkwise import plugins

pytest.importorskip("onnxruntime")


def test_a_device_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"'abacus'.*CPUExecutionProvider"):
        plugins.load("engines", "onnx")().load("any.onnx", "abacus")


def test_running_without_a_model_is_refused():
    engine = plugins.load("engines", "onnx")()
    engine.close()
    with pytest.raises(RuntimeError, match="no model"):
        engine.run({})
