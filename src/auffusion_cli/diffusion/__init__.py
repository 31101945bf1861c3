"""Latent diffusion: text conditioning, denoiser, samplers, windows, attention."""
