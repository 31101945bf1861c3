"""Log-mel <-> image <-> latent, log-mel -> waveform, and their composition."""
