"""Pack what the diffusion stage needs, for a GPU machine to which only little can be copied.

    python recipes/embedded/pack.py --data data/embedded-sounds --text-encoder runs/minilm -o pack

`pack/sounds` is the training clips as Opus and their captions, half the FLAC files' size;
`pack/text_encoder` is the text encoder in fp16 safetensors. Both are what `auffusion train` takes.
What Opus costs, the mean difference of the log-mels, is printed: less than Griffin-Lim does.
"""

from __future__ import annotations

import argparse
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
import torch
from transformers import AutoModel, AutoTokenizer

from auffusion_cli.signal.spectrogram import LogMel, mel_error_db

COMPRESSION_LEVEL = 0.87
"""Of Opus in libsndfile, 0 (best) to 1 (smallest)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--text-encoder", type=Path, required=True)
    parser.add_argument("--compression-level", type=float, default=COMPRESSION_LEVEL)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    sounds = pack_sounds(options.data / "train", options.output, options.compression_level)
    text_encoder = options.output / "text_encoder"
    AutoTokenizer.from_pretrained(options.text_encoder).save_pretrained(text_encoder)
    AutoModel.from_pretrained(options.text_encoder, dtype=torch.float16).save_pretrained(
        text_encoder
    )
    for folder in (sounds, text_encoder):
        n_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{folder}: {n_bytes / 2**20:.1f} MiB")


def pack_sounds(train: Path, output: Path, compression_level: float) -> Path:
    """Write `output/sounds/train`; returns `output/sounds`."""
    target = output / "sounds" / "train"
    (target / "clips").mkdir(parents=True)
    rows = [json.loads(line) for line in (train / "metadata.jsonl").read_text().splitlines()]

    def pack(row: dict) -> float | None:
        waveform, rate_hz = soundfile.read(train / row["file_name"], dtype="float32")
        row["file_name"] = str(Path(row["file_name"]).with_suffix(".ogg"))
        packed = io.BytesIO()
        soundfile.write(
            packed,
            waveform,
            rate_hz,
            format="OGG",
            subtype="OPUS",
            compression_level=compression_level,
        )
        (target / row["file_name"]).write_bytes(packed.getvalue())
        packed.seek(0)
        heard = soundfile.read(packed, dtype="float32")[0][: len(waveform)]
        if len(waveform) < rate_hz:  # too short to be worth comparing
            return None
        true, again = (log_mel(x[None]) for x in (waveform[: len(heard)], heard))
        return mel_error_db(true, again)

    log_mel = LogMel()
    with ThreadPoolExecutor() as pool:
        errors_db = [error for error in pool.map(pack, rows) if error is not None]
    with (target / "metadata.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    print(f"{len(rows)} clips; mean log-mel difference {np.mean(errors_db):.2f} dB")
    return output / "sounds"


if __name__ == "__main__":
    main()
