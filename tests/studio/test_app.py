"""The HTTP API, over the tiny model: what comes out is what the command line makes."""

import copy
import io
import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from starlette.testclient import TestClient

from auffusion_cli import generate
from auffusion_cli.requests.request import EditRequest
from auffusion_cli.signal.audio import to_pcm16
from auffusion_cli.signal.recording import read_recording
from auffusion_cli.signal.sound_file import read_provenance, read_record
from auffusion_cli.studio import app as app_module
from auffusion_cli.studio import files
from auffusion_cli.studio.app import Studio
from auffusion_cli.studio.history import History
from auffusion_cli.studio.making import Maker
from auffusion_cli.tasks.edit import edit


def upload(client, path, name="a clip.wav"):
    answer = client.post("/v1/sounds", params={"name": name}, content=path.read_bytes())
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_candidates_are_what_the_library_makes(client, finished, tiny_model, history, tmp_path):
    job = finished("generate", prompt="rain", n=2, seed=5, duration_s=0.8)
    assert job["status"] == "done" and job["n_done"] == job["n_steps"] == 4
    sounds = [client.get(f"/v1/sounds/{one}").json() for one in job["sounds"]]
    assert [sound["record"]["seed"] for sound in sounds] == [5, 6]
    assert all(sound["score"] < 0 for sound in sounds)  # a mean log-probability
    expected = tmp_path / "expected.wav"
    generate(tiny_model, "rain", seed=6, duration_s=0.8).save(expected)
    made = history.path(history.find(job["sounds"][1]))
    assert made.read_bytes() == expected.read_bytes()
    assert sounds[1]["record"] == read_provenance(made)


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_a_script_gets_the_sound_itself(client, kind, history):
    body = {"prompt": "rain", "seed": 1, "duration_s": 0.8}
    answer = client.post("/v1/generate", json=body, headers={"Accept": f"audio/{kind}"})
    assert answer.headers["content-type"] == f"audio/{kind}"
    samples, rate = soundfile.read(io.BytesIO(answer.content), dtype="int16")
    kept = read_recording(history.path(history.find(answer.headers["auffusion-sound"])))
    assert rate == 16000 and np.array_equal(samples, kept.samples[:, 0] >> 16)


def test_edits_are_versions_of_their_source(client, finished, recording_file, history):
    source = upload(client, recording_file)
    assert (source["title"], source["task"], source["n_channels"]) == ("a clip", "recording", 2)
    steps = {"steps": 2, "seed": 3}
    filled = finished("inpaint", source=source["id"], masks=["0.4-0.7s"], prompt="rain", **steps)
    longer = finished("extend", source=filled["sounds"][0], by_s=0.5, **steps)
    turned = finished("style-transfer", source=source["id"], prompt="rain", **steps)
    for job in (filled, longer, turned):
        assert job["status"] == "done", job["error"]
        (made,) = job["sounds"]
        record = read_record(history.path(history.find(made)))
        assert (
            record.request.source_sha256
            == read_recording(history.source_path(history.find(made))).sha256
        )
    before = read_recording(history.path(history.find(source["id"]))).samples
    after = read_recording(history.path(history.find(filled["sounds"][0]))).samples
    assert np.array_equal(before[:3200], after[:3200]) and not np.array_equal(before, after)
    versions = client.get(f"/v1/sounds/{turned['sounds'][0]}/versions").json()["sounds"]
    assert [one["task"] for one in versions] == ["recording", "inpaint", "extend", "style-transfer"]
    assert versions[2]["duration_s"] == pytest.approx(1.7, abs=1e-3)


def test_words_are_changed_as_the_library_changes_them(client, finished, tiny_model, history):
    (source,) = finished("generate", prompt="a dog", seed=5, duration_s=0.8)["sounds"]
    (made,) = finished("edit", source=source, swaps=["dog=cat"])["sounds"]
    sound = client.get(f"/v1/sounds/{made}").json()
    assert sound["remarks"] == [] and sound["title"] == "a cat"  # made again, it was the same
    path = history.path(history.find(source))
    request = EditRequest("a dog", 5, swaps=("dog=cat",), trim=True)
    expected = edit(tiny_model, request, read_record(path).settings).edited
    made_samples = read_recording(history.path(history.find(made))).samples[:, 0] >> 16
    assert np.array_equal(made_samples, to_pcm16(expected.waveform))


def test_an_engine_that_only_changes_of_words_need_is_named(tiny_model, history, wait_for_job):
    networks = copy.copy(tiny_model.networks)
    networks.engine = "onnx"
    loaded = replace(tiny_model, networks=networks)
    maker = Maker(lambda: loaded, loaded.defaults, history, lambda _: tiny_model)
    with TestClient(Studio(maker, "tiny").app, base_url="http://127.0.0.1") as client:
        body = {"prompt": "a dog", "seed": 5, "duration_s": 0.8, "steps": 2}
        job = wait_for_job(client, client.post("/v1/generate", json=body).json()["id"])
        body = {"source": job["sounds"][0], "swaps": ["dog=cat"]}
        job = wait_for_job(client, client.post("/v1/edit", json=body).json()["id"])
        sound = client.get(f"/v1/sounds/{job['sounds'][0]}").json()
    assert sound["remarks"] == ["made with torch, which changes of words need"]


def test_only_words_that_made_the_sound_are_changed(client, finished, recording_file):
    source = upload(client, recording_file)["id"]
    (timeline,) = finished("generate", timeline="0-0.6s a dog; 0.5-1s rain", seed=1)["sounds"]
    sound = client.get(f"/v1/sounds/{timeline}").json()
    assert (sound["task"], sound["duration_s"]) == ("timeline", 1.0)
    for one in (source, timeline):
        answer = client.post("/v1/edit", json={"source": one, "swaps": ["dog=cat"]})
        assert answer.status_code == 400 and "made from one prompt" in answer.json()["error"]


def test_a_sound_is_finished_for_a_project(client, finished, recording_file, history):
    source = upload(client, recording_file)["id"]
    job = finished("finish", source=source, rate_hz=48000, channels=1, peak_db=-1.0)
    made = history.find(job["sounds"][0])
    assert (made.sample_rate_hz, made.n_channels, made.parent) == (48000, 1, source)
    assert made.title == "a clip" and read_record(history.path(made)).finish.peak_db == -1.0
    assert client.post("/v1/finish", json={"source": source}).status_code == 400
    for impossible in ({"rate_hz": 1}, {"rate_hz": 48000, "extend_band": True}):
        asked = {"source": source} | impossible
        assert client.post("/v1/finish", json=asked).status_code == 400


def test_the_history_is_searched_and_sounds_are_kept_and_discarded(client, recording_file):
    first, second = (
        upload(client, recording_file, "rain.wav"),
        upload(client, recording_file, "dog.wav"),
    )
    found = client.get("/v1/sounds", params={"q": "rain"}).json()
    assert found["n"] == 1 and found["sounds"][0]["id"] == first["id"]
    path = f"/v1/sounds/{first['id']}"
    assert client.patch(path, json={"state": "discarded"}).json()["state"] == "discarded"
    assert [one["id"] for one in client.get("/v1/sounds").json()["sounds"]] == [second["id"]]
    assert client.get("/v1/sounds?state=discarded").json()["n"] == 1
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404
    assert client.get("/v1/sounds?limit=0").json() == {"n": 1, "sounds": []}


def test_progress_is_told_until_the_job_is_finished(client):
    job = client.post("/v1/generate", json={"prompt": "rain", "duration_s": 0.8}).json()
    answer = client.get(f"/v1/jobs/{job['id']}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.split("\n\n") if line.startswith("data: ")]
    states = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert states[-1]["status"] == "done" and len(states[-1]["sounds"]) == 1


def test_a_job_is_cancelled_between_steps(tiny_model, history, wait_for_job):
    load = threading.Event()

    def load_model():
        load.wait(10)
        return tiny_model

    studio = Studio(Maker(load_model, tiny_model.defaults, history), "tiny")
    with TestClient(studio.app, base_url="http://127.0.0.1") as client:
        assert client.get("/v1/jobs").json()["state"] == "loading"
        first, second = (
            client.post("/v1/generate", json={"prompt": "rain", "steps": 500}).json() for _ in "ab"
        )
        assert client.delete(f"/v1/jobs/{second['id']}").json()["status"] == "cancelled"
        load.set()
        client.delete(f"/v1/jobs/{first['id']}")
        job = wait_for_job(client, first["id"])
        assert job["status"] == "cancelled" and job["sounds"] == []
    assert history.search() == []


@pytest.mark.parametrize(
    ("task", "body", "status", "words"),
    [
        ("generate", {"prompt": ""}, 400, "prompt is empty"),
        ("generate", {"prompt": "rain", "steps": 0}, 400, "--steps"),
        ("generate", {"prompt": "rain", "duration_s": 601.0}, 400, "too long"),
        ("inpaint", {"source": "0" * 12, "masks": ["1-2s"]}, 404, "no such sound"),
        ("inpaint", {"source": "../../etc/passwd", "masks": ["1-2s"]}, 404, "no such sound"),
        ("sing", {}, 404, "Not Found"),
    ],
)
def test_the_impossible_is_refused_at_once(client, task, body, status, words):
    answer = client.post(f"/v1/{task}", json=body)
    assert answer.status_code == status and words in answer.json()["error"]


def test_masks_outside_of_the_source_are_refused_at_once(client, recording_file):
    source = upload(client, recording_file)["id"]
    for more in (
        {"masks": ["5-6s"]},
        {"bands": ["9k-10k"]},
        {"masks": ["0-1s"], "resample": 2, "scheduler": "pndm"},
    ):
        assert client.post("/v1/inpaint", json={"source": source, **more}).status_code == 400


def test_a_style_transfer_that_cannot_be_is_refused_at_once(client, recording_file):
    asked = {"source": upload(client, recording_file)["id"], "prompt": "rain"}
    for more, words in (
        ({"method": "inversion", "scheduler": "pndm"}, "--scheduler pndm"),
        ({"strength": 0.01, "steps": 5}, "less than one step"),
    ):
        answer = client.post("/v1/style-transfer", json=asked | more)
        assert answer.status_code == 400 and words in answer.json()["error"]


def test_bodies_are_bounded_and_have_to_be_json(client, monkeypatch):
    monkeypatch.setattr(app_module, "MAX_BODY_BYTES", 100)
    assert client.post("/v1/generate", json={"prompt": "a" * 200}).status_code == 413
    form = client.post("/v1/generate", content="{}", headers={"Content-Type": "text/plain"})
    assert form.status_code == 415
    for content in ("{", "[" * 90, "\xff"):
        headers = {"Content-Type": "application/json"}
        assert client.post("/v1/generate", content=content, headers=headers).status_code == 400


def test_uploads_are_checked_and_bounded(client, recording_file, history, monkeypatch):
    no_sound = client.post("/v1/sounds", content=b"no sound")
    assert no_sound.status_code == 400
    assert no_sound.json()["error"].startswith("the recording: not audio")  # not where it lies
    assert client.post("/v1/sounds", content=recording_file.read_bytes()[:5000]).status_code == 400
    monkeypatch.setattr(files, "MAX_UPLOAD_BYTES", 5000)
    assert client.post("/v1/sounds", content=recording_file.read_bytes()).status_code == 413
    monkeypatch.setattr(files, "MAX_UPLOAD_BYTES", 10**6)
    monkeypatch.setattr(files, "MAX_SOUND_S", 1.0)
    assert client.post("/v1/sounds", content=recording_file.read_bytes()).status_code == 400
    assert list(history.folder.iterdir()) == []


def test_of_an_uploads_name_only_words_are_used(client, recording_file, history):
    sound = upload(client, recording_file, "../../<b>x</b>\\..\\evil name.wav")
    path = history.path(history.find(sound["id"]))
    assert path.parent == history.folder and path.exists()
    assert sound["title"] == "evil name" and path.name.startswith("evil-name-")


def test_what_browsers_cannot_play_becomes_a_wav(client, tmp_path, history):
    path = tmp_path / "x.aiff"
    samples = np.arange(-800, 800, dtype=np.int16)
    soundfile.write(path, samples, 16000, subtype="PCM_16")
    sound = upload(client, path, "x.aiff")
    kept = read_recording(history.path(history.find(sound["id"])))
    assert sound["file"].endswith(".wav") and np.array_equal(kept.samples[:, 0] >> 16, samples)


def test_sounds_are_given_out_whole_in_parts_and_as_flac(client, recording_file):
    sound = upload(client, recording_file)
    path = f"/v1/sounds/{sound['id']}/audio"
    whole = client.get(path)
    assert whole.content == recording_file.read_bytes()
    part = client.get(path, headers={"Range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == whole.content[10:20]
    flac = client.get(path, params={"format": "flac"})
    samples, _ = soundfile.read(io.BytesIO(flac.content), dtype="int32")
    assert np.array_equal(samples, read_recording(recording_file).samples)
    assert "filename*=UTF-8''a-clip-" in flac.headers["content-disposition"]
    assert client.get(path, params={"format": "exe"}).status_code == 400


def test_samples_that_flac_cannot_hold_are_told_by_the_name_of_the_sound(client, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 8000, "FLOAT")
    sound = upload(client, tmp_path / "a.wav", "a.wav")
    answer = client.get(f"/v1/sounds/{sound['id']}/audio", params={"format": "flac"})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"{sound['file']}: flac cannot hold")


def test_it_is_drawn(client, recording_file):
    sound = upload(client, recording_file)
    picture = client.get(f"/v1/sounds/{sound['id']}/spectrogram.png")
    assert picture.content.startswith(b"\x89PNG") and picture.headers["content-type"] == "image/png"
    outline = client.get(f"/v1/sounds/{sound['id']}/outline").json()
    assert len(outline["peaks"]) == 800 and -30 < outline["loudness_lufs"] < -15
    rows = client.get("/v1/info").json()["row_frequencies_hz"]
    assert len(rows) == 256 and rows == sorted(rows) and rows[-1] < 8000


def test_the_page_runs_nothing_but_its_own_scripts(client):
    first, second = client.get("/"), client.get("/")
    policy = first.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy
    assert "unsafe" not in policy and policy != second.headers["content-security-policy"]
    nonce = policy.partition("'nonce-")[2].partition("'")[0]
    assert nonce in first.text and "{{" not in first.text
    assert (
        "<script>" not in first.text and "style=" not in first.text and "onclick" not in first.text
    )


def test_static_files_are_those_of_the_page(client):
    assert client.get("/static/main.js").headers["content-type"].startswith("text/javascript")
    assert "BSD" in client.get("/static/vendor/wavesurfer.LICENSE.txt").text
    for name in ("../app.py", "..%2fapp.py", "%2e%2e/app.py", "/etc/passwd", "nothing.js", ""):
        assert client.get(f"/static/{name}").status_code == 404


def test_every_route_is_described(studio, client):
    described = client.get("/openapi.json").json()
    routes = {
        (route.path, method.lower())
        for route in studio.app.routes
        for method in route.methods - {"HEAD"}
        if route.path.startswith("/v1")
    }
    methods = {(path, m) for path, about in described["paths"].items() for m in about}
    assert routes == {(path, m) for path, m in methods if m != "parameters"}
    inpaint = described["components"]["schemas"]["InpaintAsk"]
    assert inpaint["required"] == ["source"]
    assert inpaint["properties"]["crossfade_s"] == {"type": "number", "default": 0.02}
    assert inpaint["properties"]["masks"]["items"] == {"type": "string"}


def test_all_is_there_after_a_restart(studio, client, finished, history):
    job = finished("generate", prompt="rain", duration_s=0.8)
    again = History(history.folder)
    assert [sound.id for sound in again.search()] == job["sounds"]
