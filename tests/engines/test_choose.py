"""Which engine computes, and what is said about it."""

from pathlib import Path

import pytest

from auffusion_cli.engines import choose
from auffusion_cli.engines.choose import Choice, choose_engine
from auffusion_cli.errors import CheckpointError, UsageError

GRAPH = Path("unet/model.onnx")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(choose, "_may_have_gpu", lambda: False)


def test_on_a_processor_onnx_computes():
    assert choose_engine("auto") == Choice("onnx") == choose_engine("auto", device="cpu")
    assert choose_engine("auto", dtype="fp32") == Choice("onnx")


@pytest.mark.parametrize(
    ("place", "reason", "is_forced"),
    [
        ({"needs_torch": "edit"}, "edit needs it", True),
        ({"dtype": "bf16"}, "--dtype bf16 needs it", True),
        ({"device": "mps"}, "for --device mps", False),
        ({"missing_graph": GRAPH}, "the model has no graphs", False),
    ],
)
def test_what_onnx_cannot_do_is_done_by_torch(place, reason, is_forced):
    choice = choose_engine("auto", **place)
    assert choice.engine == "torch" and reason in choice.reason and choice.is_forced == is_forced
    assert choose_engine("torch", **place) == Choice("torch")


def test_a_gpu_is_torchs(monkeypatch):
    monkeypatch.setattr(choose, "has_gpu", lambda: True)
    assert choose_engine("auto") == Choice("torch", "there is a GPU")
    assert choose_engine("auto", device="cpu") == choose_engine("onnx") == Choice("onnx")


@pytest.mark.parametrize(
    ("place", "error", "message"),
    [
        ({"needs_torch": "edit"}, UsageError, "--engine onnx: edit needs torch"),
        ({"dtype": "fp16"}, UsageError, "--engine onnx computes in fp32, not fp16"),
        ({"missing_graph": GRAPH}, CheckpointError, "unet/model.onnx: missing"),
    ],
)
def test_onnx_asked_for_in_vain_is_refused(place, error, message):
    with pytest.raises(error, match=message) as caught:
        choose_engine("onnx", **place)
    assert caught.value.hint
    with pytest.raises(UsageError, match="--engine 'tf' is not known"):
        choose_engine("tf", **place)


@pytest.mark.parametrize(("visible", "files", "found"), [("", True, False), ("0", True, True)])
def test_a_gpu_is_looked_for_without_torch(monkeypatch, visible, files, found):
    monkeypatch.undo()
    monkeypatch.setattr(choose.sys, "platform", "linux")
    monkeypatch.setattr(choose.metadata, "version", lambda name: "2.14.1")
    monkeypatch.setattr(choose.os.path, "exists", lambda path: files)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert choose._may_have_gpu() == found
