"""Waveforms and log-mels: files, spectrograms, loudness and what is laid under a recording."""
