"""Load on the studio's server: 50 clients at once, nothing lost, memory flat.

Each client asks for sounds, brings in recordings, edits them, follows the progress, and fetches
what was made. A stand-in for the model answers at once, so that the server itself is what is
loaded. In the end every sound that was promised has to be in the history, whole, and the memory of
the second half must not have grown over that of the first by more than 10 MB.

    python benchmarks/studio_load.py [--clients 50] [--rounds 8]
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx2
import numpy as np
import psutil
import soundfile

from auffusion_cli.config import GenerationDefaults
from auffusion_cli.studio.app import Studio
from auffusion_cli.studio.history import History
from auffusion_cli.studio.making import Maker
from auffusion_cli.studio.server import listen, serve

RATE_HZ = 16_000
MAX_GROWTH_BYTES = 10_000_000
STEPS = 4


class QuickMaker(Maker):
    """Writes noise in place of what a model would make."""

    def load(self) -> None:
        pass

    def work(self, job, report) -> None:
        n = getattr(job.ask, "n", 1)
        for i in range(n):
            for step in range(STEPS):
                report(i * STEPS + step + 1, n * STEPS)
            samples = np.random.default_rng(job.ask.seed + i).normal(0, 0.1, 2 * RATE_HZ)
            sound = self.history.add(
                lambda path, samples=samples: soundfile.write(path, samples, RATE_HZ),
                title=job.ask.title or "a version",
                task=job.ask.task,
                parent=getattr(job.ask, "source", None),
            )
            job.sounds.append(sound.id)


async def post(client: httpx2.AsyncClient, path: str, **options) -> dict:
    """The answer's JSON; a full queue (503) is waited for, as the server asks."""
    while True:
        answer = await client.post(path, **options)
        if answer.status_code != 503:
            answer.raise_for_status()
            return answer.json()
        await asyncio.sleep(0.2)


async def follow(client: httpx2.AsyncClient, job: dict) -> list[str]:
    """The sounds of a job, once its events say that it is done."""
    async with client.stream("GET", f"/v1/jobs/{job['id']}/events") as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                state = json.loads(line.removeprefix("data: "))
                if state["status"] == "done":
                    return state["sounds"]
                if state["status"] in ("failed", "cancelled"):
                    raise RuntimeError(f"a job {state['status']}: {state['error']}")
    raise RuntimeError("the events ended before the job did")


async def one_round(client: httpx2.AsyncClient, number: int, recording: bytes) -> list[str]:
    """Make, bring in, edit and fetch. Returns the ids of all that was promised."""
    generated = await follow(
        client, await post(client, "/v1/generate", json={"prompt": f"rain {number}", "n": 2})
    )
    brought = await post(client, "/v1/sounds?name=clip.wav", content=recording)
    edit = {"source": brought["id"], "masks": ["0.5-1s"], "prompt": "a dog"}
    edited = await follow(client, await post(client, "/v1/inpaint", json=edit))
    for sound in (*generated, *edited):
        answer = await client.get(f"/v1/sounds/{sound}/audio?format=flac")
        samples, _ = soundfile.read(io.BytesIO(answer.content))
        assert len(samples) == 2 * RATE_HZ
    found = (await client.get("/v1/sounds", params={"q": f"rain {number}"})).json()
    assert found["n"] >= 2
    return [*generated, brought["id"], *edited]


async def load(base_url: str, n_clients: int, n_rounds: int) -> tuple[list[str], list[int]]:
    """All ids that were promised, and the memory in bytes after each round."""
    recording = io.BytesIO()
    soundfile.write(recording, np.zeros((2 * RATE_HZ, 2)), RATE_HZ, format="WAV")
    process, promised, memory = psutil.Process(), [], []
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=base_url, timeout=300, limits=limits) as client:
        for turn in range(n_rounds):
            numbers = range(turn * n_clients, (turn + 1) * n_clients)
            rounds = [one_round(client, number, recording.getvalue()) for number in numbers]
            for ids in await asyncio.gather(*rounds):
                promised += ids
            memory.append(process.memory_info().rss)
            print(f"round {turn + 1}: {len(promised)} sounds, {memory[-1] / 1e6:.0f} MB")
    return promised, memory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="auffusion-") as folder, listen("127.0.0.1", 0) as door:
        maker = QuickMaker(lambda: None, GenerationDefaults(), History(Path(folder)))
        ready = threading.Event()
        app = Studio(maker, "stand-in").app
        threading.Thread(target=serve, args=(app, door, ready.set), daemon=True).start()
        ready.wait()
        begin = time.perf_counter()
        base_url = f"http://127.0.0.1:{door.getsockname()[1]}"
        promised, memory = asyncio.run(load(base_url, options.clients, options.rounds))
        seconds = time.perf_counter() - begin
        kept = {sound.id for sound in History(Path(folder)).search()}
    half = len(memory) // 2
    growth = max(memory[half:]) - max(memory[:half])
    lost = len(set(promised) - kept)
    print(f"{options.clients} clients, {len(promised)} sounds in {seconds:.0f} s")
    print(f"lost: {lost}; memory grew by {growth / 1e6:.1f} MB over the second half")
    return 0 if lost == 0 and growth < MAX_GROWTH_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
