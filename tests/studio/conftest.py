"""A studio over the tiny model, asked by Starlette's test client."""

import time

import numpy as np
import pytest
from starlette.testclient import TestClient

from auffusion_cli.signal.recording import Recording, write_recording
from auffusion_cli.studio.app import Studio
from auffusion_cli.studio.history import History
from auffusion_cli.studio.making import Maker


@pytest.fixture
def history(tmp_path):
    return History(tmp_path / "sounds")


@pytest.fixture
def studio(tiny_model, history):
    return Studio(Maker(lambda: tiny_model, tiny_model.defaults, history), "tiny")


@pytest.fixture
def client(studio):
    with TestClient(studio.app, base_url="http://127.0.0.1:8420") as client:
        yield client


@pytest.fixture
def finished(client, wait_for_job):
    """Ask for something and wait: the finished job."""

    def finished(task, **body):
        answer = client.post(f"/v1/{task}", json=body)
        assert answer.status_code == 202, answer.text
        return wait_for_job(client, answer.json()["id"])

    return finished


@pytest.fixture
def wait_for_job():
    """The job with this id, once it is finished."""

    def wait_for_job(client, job_id):
        deadline_s = time.monotonic() + 60
        while True:
            job = client.get(f"/v1/jobs/{job_id}").json()
            if job["status"] not in ("waiting", "running"):
                return job
            assert time.monotonic() < deadline_s, job
            time.sleep(0.02)

    return wait_for_job


@pytest.fixture
def recording_file(tmp_path):
    """A recording of 1.2 s of noise at 8 kHz, in stereo."""
    samples = np.random.default_rng(0).normal(0, 2**27, (9600, 2)).astype(np.int32) >> 16 << 16
    path = tmp_path / "a clip.wav"
    write_recording(path, Recording(samples, 8000, "PCM_16", ""))
    return path
