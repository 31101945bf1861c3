"""Nodes that ask the studio's HTTP API. They need nothing but what ComfyUI has: torch and NumPy."""

from __future__ import annotations

import io
import json
import os
import urllib.error
import urllib.request
import wave
from typing import Any

import numpy as np
import torch

SERVER = "http://127.0.0.1:8420"
TIMEOUT_S = 3600
FULL_SCALE = 32768
WORDS = ("STRING", {"default": "", "multiline": True})
SEED = ("INT", {"default": 0, "min": 0, "max": 2**63 - 1})
ADDRESS = ("STRING", {"default": SERVER})

Audio = dict[str, Any]
"""ComfyUI's AUDIO: `waveform` (batch, channels, samples) in -1..1, and `sample_rate` in Hz."""


class AuffusionGenerate:
    """A sound from words."""

    CATEGORY, FUNCTION, RETURN_TYPES = "audio/auffusion", "generate", ("AUDIO",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        seconds = ("FLOAT", {"default": 4.0, "min": 0.1, "max": 600.0, "step": 0.1})
        required = {"words": WORDS, "seed": SEED, "duration_s": seconds}
        return {"required": required, "optional": {"not_like": WORDS, "server": ADDRESS}}

    def generate(
        self, words: str, seed: int, duration_s: float, not_like: str = "", server: str = SERVER
    ) -> tuple[Audio]:
        body = {"prompt": words, "seed": seed, "duration_s": duration_s}
        return (ask(server, "generate", body | {"negative_prompt": not_like}),)


class AuffusionInpaint:
    """New sound for a part of a recording: a span of time, a band of frequencies, or both."""

    CATEGORY, FUNCTION, RETURN_TYPES = "audio/auffusion", "inpaint", ("AUDIO",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        span = {"default": "2-4s", "placeholder": "2-4s, 500-900ms; empty is all of it"}
        band = {"default": "", "placeholder": "4k-8k; empty is all frequencies"}
        required = {"audio": ("AUDIO",), "words": WORDS, "seed": SEED, "time": ("STRING", span)}
        return {"required": required, "optional": {"band": ("STRING", band), "server": ADDRESS}}

    def inpaint(
        self,
        audio: Audio,
        words: str,
        seed: int,
        time: str,
        band: str = "",
        server: str = SERVER,
    ) -> tuple[Audio]:
        place = f"{server}/v1/sounds?name=ComfyUI.wav"
        answer = send(place, to_wav(audio), "application/octet-stream")
        body = {"source": json.loads(answer)["id"], "prompt": words, "seed": seed}
        spans = {"masks": [time] if time.strip() else [], "bands": [band] if band.strip() else []}
        return (ask(server, "inpaint", body | spans),)


def ask(server: str, task: str, body: dict[str, Any]) -> Audio:
    """The sound that the studio makes of `body`."""
    content = json.dumps(body).encode()
    return from_wav(send(f"{server}/v1/{task}", content, "application/json", "audio/wav"))


def send(address: str, content: bytes, kind: str, accept: str = "application/json") -> bytes:
    """What the studio answers; its own words where it refuses."""
    headers = {"Content-Type": kind, "Accept": accept}
    if token := os.environ.get("AUFFUSION_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(address, content, headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        told = json.loads(error.read())
        raise RuntimeError(f"auffusion: {told['error']} {told.get('hint') or ''}") from None
    except urllib.error.URLError as error:
        raise RuntimeError(
            f"no studio answers at {address}: start `auffusion studio` ({error.reason})"
        ) from None


def to_wav(audio: Audio) -> bytes:
    """The first sound of the batch, in 16 bits."""
    waveform = audio["waveform"][0].cpu().numpy()
    samples = np.clip(np.round(waveform * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(len(waveform))
        file.setsampwidth(2)
        file.setframerate(int(audio["sample_rate"]))
        file.writeframes(samples.T.astype("<i2").tobytes())
    return content.getvalue()


def from_wav(content: bytes) -> Audio:
    """Of a wav in 16 bits."""
    with wave.open(io.BytesIO(content)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        samples = samples.reshape(-1, file.getnchannels()).T.astype(np.float32) / FULL_SCALE
        rate_hz = file.getframerate()
    return {"waveform": torch.from_numpy(samples)[None], "sample_rate": rate_hz}


NODE_CLASS_MAPPINGS = {
    "AuffusionGenerate": AuffusionGenerate,
    "AuffusionInpaint": AuffusionInpaint,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "AuffusionGenerate": "Sound from words (auffusion)",
    "AuffusionInpaint": "Fill a part of a sound (auffusion)",
}
