import numpy as np
import pytest
import soundfile
import torch

from auffusion_cli.training.clip_store import ClipStore, load_waveform
from auffusion_cli.training.data import Clip
from small_data import RATE_HZ, write_sound


def test_load_waveform_takes_the_part_and_keeps_the_level(tmp_path):
    stereo = np.stack([np.arange(800) / 8000, np.zeros(800)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, RATE_HZ, subtype="FLOAT")
    clip = Clip(tmp_path / "a.wav", ("x",), start_s=0.05, duration_s=0.01)
    waveform = load_waveform(clip, RATE_HZ)
    assert waveform.dtype == torch.float32
    assert torch.allclose(waveform, torch.arange(400, 480) / 16000, atol=1e-6)
    assert load_waveform(Clip(clip.path, ("x",)), 16000).shape == (1600,)


def test_memory_is_bounded_and_preload_reports(tmp_path):
    clips = [Clip(write_sound(tmp_path / f"{n}.wav", seed=n), ("x",)) for n in range(6)]
    store = ClipStore(clips, RATE_HZ, memory_bytes=10_000)
    calls = []
    store.preload(lambda *counts: calls.append(counts))
    assert calls == [(n, 6) for n in range(1, len(calls) + 1)]
    held = sum(pcm.numel() * 2 for pcm in store._pcm.values())
    assert 0 < held <= 10_000
    assert float(store[0].abs().max()) == pytest.approx(1, abs=1e-4)
    ClipStore(clips, RATE_HZ).preload(lambda *counts: calls.append(counts))
    assert calls[-1] == (6, 6)
    calls.clear()
    ClipStore(clips, RATE_HZ, memory_bytes=1).preload(lambda *counts: calls.append(counts))
    assert calls == [(1, 6)]  # no more is read when one finds no room
