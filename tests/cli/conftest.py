import pytest


@pytest.fixture(autouse=True)
def no_faults(monkeypatch):
    """The tiny models make plain tones, which the guards of `generate` would have made again."""
    monkeypatch.setattr("auffusion_cli.signal.guards._fault_of", lambda waveform: None)
