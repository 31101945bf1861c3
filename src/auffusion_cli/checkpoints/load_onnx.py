"""The networks of a checkpoint folder in ONNX Runtime. No torch."""

from __future__ import annotations

from pathlib import Path

from auffusion_cli.checkpoints.layout import part_folders, read_json
from auffusion_cli.config import SpectrogramConfig
from auffusion_cli.cores import usable_cores
from auffusion_cli.engines.choose import check_onnx_dtype
from auffusion_cli.engines.onnx_networks import OnnxNetworks, choose_provider
from auffusion_cli.errors import CheckpointError


class OnnxLoader:
    """`load.EngineLoader` of ONNX Runtime.

    Its methods raise a CheckpointError where a graph is missing, damaged, or does not fit its
    weights or the others.
    """

    def __init__(self, device: str = "auto", dtype: str = "auto") -> None:
        """Raises a UsageError where there is no such device or precision."""
        self.device = choose_provider(device)
        check_onnx_dtype(dtype)

    def text(self, folder: Path, *, is_brief: bool = False, n_rows: int = 0) -> OnnxNetworks:
        """All networks but the vocoder: none is read, or takes memory, before it is called, but for
        the UNet where it will be called with `n_rows` rows."""
        parts = part_folders(folder, "griffin-lim")
        networks = OnnxNetworks(
            parts, self.device, n_threads=usable_cores(), optimised=not is_brief
        )
        if n_rows:
            networks.begin_unet(n_rows)
        return networks

    def whole(self, folder: Path, text: OnnxNetworks | None, *, vocoder: bool) -> OnnxNetworks:
        networks = text or self.text(folder)
        if vocoder:
            _check_vocoder(folder / "vocoder" / "config.json")
            networks.add_vocoder(folder / "vocoder")
        networks.read_all()
        _check_fit(folder, networks)
        return networks


def _check_fit(folder: Path, networks: OnnxNetworks) -> None:
    """Raise a CheckpointError unless the graphs agree on the sizes they share."""
    sizes = networks.sizes
    unet = networks.unet.graph
    if unet.inputs["latents"][1:3] != networks.encoder.graph.output[1:3]:
        raise CheckpointError(
            f"{folder}: the autoencoder's latents are {networks.encoder.graph.output[1:3]}, but "
            f"the UNet takes {unet.inputs['latents'][1:3]}"
        )
    for i, width in enumerate(sizes.text_widths):
        adapter = networks.adapters[i].graph if networks.adapters else None
        takes = adapter.inputs["hidden_states"][-1] if adapter else sizes.cross_attention_dim
        gives = adapter.output[-1] if adapter else sizes.cross_attention_dim
        if (width, gives) != (takes, sizes.cross_attention_dim):
            raise CheckpointError(
                f"{folder}: text encoder {i} gives {width} channels and what follows takes "
                f"{takes} and gives {gives}, but the UNet takes {sizes.cross_attention_dim}"
            )


def _check_vocoder(config_path: Path) -> None:
    config, spectrogram = read_json(config_path), SpectrogramConfig()
    for name, needed in (
        ("num_mels", spectrogram.n_mels),
        ("hop_size", spectrogram.hop_length_samples),
        ("sampling_rate", spectrogram.sample_rate_hz),
    ):
        if config.get(name, needed) != needed:
            raise CheckpointError(
                f"{config_path}: {name} is {str(config[name])[:20]}, but the spectrogram of this "
                f"model has {needed}"
            )
