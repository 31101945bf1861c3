"""Signal path: files, waveforms, log-mels, overlap-add, loudness, background noise."""
