import pytest
import soundfile
import torch

from auffusion_cli.training.clip_store import ClipStore
from auffusion_cli.training.data import Clip


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> ClipStore:
    """Two short recordings, 1 s of noise that swells and 1.2 s of a falling tone."""
    folder = tmp_path_factory.mktemp("clips")
    time_s = torch.arange(16000) / 16000
    noise = torch.randn(16000, generator=torch.Generator().manual_seed(0)) * time_s
    time_s = torch.arange(19200) / 16000
    tone = torch.sin(2 * torch.pi * (900 - 300 * time_s) * time_s) * torch.exp(-time_s)
    clips = []
    for name, waveform in (("noise", noise), ("tone", tone)):
        path = folder / f"{name}.wav"
        soundfile.write(path, (waveform / waveform.abs().max()).numpy() * 0.9, 16000)
        clips.append(Clip(path, captions=(f"A {name}",)))
    return ClipStore(clips, 16000)
