"""Other published systems behind the same commands, on small random ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from typer.testing import CliRunner

from auffusion_cli.checkpoints.names import KNOWN
from auffusion_cli.cli.app import build_app
from published_systems import (
    write_audioldm,
    write_audioldm2,
    write_stability,
    write_stable_audio,
    write_stable_audio_3,
    write_tango,
)

TINY_AUFFUSION = Path(__file__).parents[2] / "golden" / "tiny-auffusion"
SYSTEMS = {"AudioLDM": write_audioldm, "AudioLDM 2": write_audioldm2, "Tango": write_tango}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint of each system."""
    above = tmp_path_factory.mktemp("systems")
    for name, write in SYSTEMS.items():
        write(above / name)
    return {name: above / name for name in SYSTEMS}


@pytest.fixture(params=SYSTEMS)
def system(request, folders):
    """(name, folder)"""
    return request.param, folders[request.param]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(build_app(), list(map(str, arguments)))


def test_a_sound_is_made_and_made_again(folders, run):
    folder = folders["AudioLDM 2"]
    made = run("generate", "rain", "--seed", 3, "-m", folder, "--device", "cpu", "-o", "rain.wav")
    assert made.exit_code == 0, made.stderr
    assert soundfile.info("rain.wav").samplerate == 16_000
    again = run("reproduce", "rain.wav", "-m", folder, "--json")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["identical"]


def test_a_list_is_made_with_pictures(folders, run, tmp_path):
    folder = folders["AudioLDM"]
    (tmp_path / "list.txt").write_text("rain\na dog\n")
    options = ("-m", folder, "--device", "cpu", "--spectrogram", "out/", "-o", "out/")
    made = run("generate", "--prompts", "list.txt", *options)
    assert made.exit_code == 0, made.stderr
    suffixes = sorted(path.suffix for path in (tmp_path / "out").iterdir())
    assert (suffixes.count(".png"), suffixes.count(".wav")) == (2, 2)


@pytest.mark.parametrize(
    "command",
    [
        ("style-transfer", "in.wav", "rain"),
        ("inpaint", "in.wav", "--prompt", "rain", "--mask", "0.3-0.6s"),
        ("inpaint", "in.wav", "--prompt", "rain", "--band", "2k-4k"),
        ("extend", "in.wav", "--by", "0.5s", "--prompt", "rain"),
    ],
    ids=lambda command: command[0],
)
def test_recordings_are_changed(folders, run, command):
    folder = folders["AudioLDM"]
    noise = np.random.default_rng(0).normal(size=16_000) * 0.1
    soundfile.write("in.wav", noise, 16_000, "PCM_16")
    result = run(*command, "-m", folder, "--device", "cpu", "-o", "out.wav", "--seed", 1)
    assert result.exit_code == 0, result.stderr
    made, before = soundfile.read("out.wav")[0], soundfile.read("in.wav")[0]
    assert len(made) >= len(before)
    if "--mask" in command:
        assert np.array_equal(made[:4000], before[:4000])
        assert not np.array_equal(made[5000:9000], before[5000:9000])


@pytest.mark.parametrize(
    ("name", "vocoder"), [("AudioLDM", "hifigan"), ("Tango", "auto"), ("Tango", "griffin-lim")]
)
def test_a_recording_goes_through_the_codec(folders, run, name, vocoder):
    noise = np.random.default_rng(0).normal(size=16_000) * 0.1
    soundfile.write("in.wav", noise, 16_000, "PCM_16")
    options = ("-m", folders[name], "--vocoder", vocoder, "--device", "cpu", "--json")
    result = run("codec", "in.wav", "-o", "out.wav", "--through", "latent", *options)
    assert result.exit_code == 0, result.stderr
    expected = "hifigan" if vocoder == "auto" else vocoder
    assert json.loads(result.stdout)["vocoder"] == expected
    assert soundfile.info("out.wav").frames == 16_000


@pytest.mark.parametrize(
    ("command", "task"),
    [
        (("edit", "--prompt", "a dog", "--seed", "1", "--swap", "dog=cat"), "edit"),
        (("generate", "a dog", "--lora", "some.safetensors"), "a LoRA"),
        (("models", "convert"), "convert"),
        (("generate", "a dog", "--engine", "onnx"), "needs torch"),
    ],
    ids=["edit", "lora", "convert", "onnx"],
)
def test_what_a_system_cannot_do_is_refused_by_name(system, run, command, task, tmp_path):
    name, folder = system
    named = (folder,) if command[0] == "models" else ("-m", folder)
    result = run(*command, *named, "-o", "out")
    assert result.exit_code == 2
    assert name in result.stderr and task in result.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["AudioLDM", "AudioLDM 2"])
def test_attention_is_refused_before_a_seed_is_drawn(folders, run, name):
    refused = run("attention", "a dog", "-m", folders["Tango"], "-m", folders[name])
    assert refused.exit_code == 2
    assert f"attention is not possible with {name}" in refused.stderr
    assert "Tango" in refused.stderr and "seed" not in refused.stderr


def test_attention_of_auffusion_and_tango_is_drawn_side_by_side(folders, run):
    models = ("-m", TINY_AUFFUSION, "-m", folders["Tango"])
    options = ("--steps", 2, "--duration", 0.5, "--device", "cpu", "--seed", 1, "--json")
    made = run("attention", "dog in rain", *models, *options, "-o", "maps.png")
    assert made.exit_code == 0, made.stderr
    sounds = json.loads(made.stdout)["sounds"]
    assert [[each["word"] for each in sound["shares"]] for sound in sounds] == [
        ["dog", "in", "rain"]
    ] * 2
    assert all(0 < each["share"] < 1 for sound in sounds for each in sound["shares"])
    assert Image.open("maps.png").width > Image.open("maps.png").height


def test_layers_of_tango_are_checked_before_it_is_loaded(folders, run):
    options = ("-m", folders["Tango"], "--layers", "left", "--dry-run")
    planned = run("attention", "dog", *options)
    assert planned.exit_code == 2
    assert "--layers 'left'" in planned.stderr and "mid_block.attentions.0" in planned.stderr


def test_info_describes_it(system, run):
    name, folder = system
    (folder / "auffusion.json").rename(folder / "aside.json")
    try:
        description = json.loads(run("models", "info", folder, "--json").stdout)
    finally:
        (folder / "aside.json").rename(folder / "auffusion.json")
    assert description["layout"] == name
    assert description["generation"]["steps"] == 200
    assert len(description["text_encoders"]) == (2 if name == "AudioLDM 2" else 1)


@pytest.fixture(scope="module")
def stable_audio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("systems") / "stable-audio"
    write_stable_audio(folder)
    return folder


@pytest.fixture(scope="module")
def stable_audio_3(tmp_path_factory):
    """In the layout in which it is published."""
    above = tmp_path_factory.mktemp("systems")
    write_stability(above / "published", write_stable_audio_3(above / "diffusers"))
    return above / "published"


def test_a_stereo_sound_is_made_finished_and_made_again(stable_audio, run, tmp_path):
    options = ("-m", stable_audio, "--device", "cpu", "--spectrogram", "out/")
    (tmp_path / "list.txt").write_text("rain\na dog\n")
    made = run("generate", "--prompts", "list.txt", "--seed", 3, *options, "-o", "out/")
    assert made.exit_code == 0, made.stderr
    sounds, pictures = (sorted(tmp_path.glob(f"out/*.{end}")) for end in ("wav", "png"))
    assert len(sounds) == len(pictures) == 2
    info = soundfile.info(sounds[0])
    assert (info.samplerate, info.channels) == (44_100, 2)
    again = run("reproduce", sounds[0], "-m", stable_audio, "--json")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["identical"]
    finished = run(
        *("generate", "rain", "-m", stable_audio, "--device", "cpu", "-o", "mono.wav"),
        *("--channels", 1, "--rate", 48_000, "--best-of", 2, "--loudness=-20"),
    )
    assert finished.exit_code == 0, finished.stderr
    assert (soundfile.info("mono.wav").samplerate, soundfile.info("mono.wav").channels) == (
        48000,
        1,
    )
    mixed = run("mix", "mono.wav", "--under", "rain", "-m", stable_audio, "-o", "mixed.wav")
    assert mixed.exit_code == 0, mixed.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("style-transfer", "in.wav", "rain"),
        ("inpaint", "in.wav", "--prompt", "rain", "--mask", "0.3-0.6s"),
        ("inpaint", "in.wav", "--mask", "0.3-0.6s"),
        ("extend", "in.wav", "--by", "0.2s", "--prompt", "rain"),
    ],
    ids=["style-transfer", "inpaint", "inpaint-unprompted", "extend"],
)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("system", ["stable_audio", "stable_audio_3"])
def test_stereo_recordings_are_changed(request, system, run, command, channels):
    folder = request.getfixturevalue(system)
    noise = np.random.default_rng(0).normal(size=(44_100, channels)) * 0.1
    soundfile.write("in.wav", noise * [1, 0.3][:channels], 44_100, "PCM_16")
    result = run(*command, "-m", folder, "--device", "cpu", "-o", "out.wav", "--seed", 1)
    assert result.exit_code == 0, result.stderr
    (made, rate_hz), (before, _) = (soundfile.read(name) for name in ("out.wav", "in.wav"))
    assert (rate_hz, made.ndim) == (44_100, channels)
    assert len(made) == len(before) + (8820 if "--by" in command else 0)
    if "--by" in command:
        assert np.array_equal(made[: len(before)], before)
        assert made[len(before) :].std() > 1e-3
    elif "--mask" in command:
        hole = np.arange(len(before)) / rate_hz
        hole = (hole >= 0.3) & (hole < 0.6)
        assert np.array_equal(made[~hole], before[~hole])
        assert np.abs(made[hole] - before[hole]).max() > 1e-2
    else:
        assert not np.array_equal(made, before)
    if channels == 2 and system == "stable_audio":  # each keeps its level
        assert made[:, 0].std() > 1.5 * made[:, 1].std()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("inpaint", "in.wav", "--band", "1k-2k"), "inpaint --band is not possible"),
        (("codec", "in.wav"), "codec is not possible"),
        (("generate", "rain", "--scheduler", "ddim"), "--scheduler ddim cannot follow"),
        (("generate", "rain", "--vocoder", "hifigan"), "--vocoder hifigan"),
        (("generate", "rain", "--engine", "onnx"), "needs torch"),
    ],
    ids=lambda value: " ".join(value[:1]) if isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("known", [True, False])
def test_what_waveforms_do_not_allow_is_refused(stable_audio, run, command, message, known):
    soundfile.write("in.wav", np.zeros(8000), 16_000, "PCM_16")
    if known and "--vocoder" in command:
        pytest.skip("refused once the checkpoint is there")
    model = "stable-audio-open" if known else stable_audio
    result = run(*command, "-m", model, "-o", "out.wav")
    assert result.exit_code == 2, result.stderr
    assert message in result.stderr and "Stable Audio Open" in result.stderr


@pytest.mark.parametrize(("name", "guidance"), [("audioldm2", 3.5), ("tango2", 3.0)])
def test_a_known_name_has_its_own_defaults_before_it_is_downloaded(run, name, guidance):
    planned = run("generate", "rain", "-m", name, "--dry-run", "--json", "-o", "x.wav")
    plan = json.loads(planned.stdout)["settings"]
    assert (plan["steps"], plan["guidance_scale"], plan["engine"]) == (200, guidance, "torch")
    refused = run("generate", "rain", "-m", name, "--lora", "some.safetensors")
    assert refused.exit_code == 2 and "is not possible with" in refused.stderr


def test_stable_audio_3_makes_what_it_is_asked_for(stable_audio_3, run, tmp_path):
    options = ("-m", stable_audio_3, "--device", "cpu", "--duration", 0.4)
    (tmp_path / "list.txt").write_text("rain\na dog\n")
    made = run(
        *("generate", "--prompts", "list.txt", "--seed", 3, *options, "-o", "out/"),
        *("--spectrogram", "out/", "--guidance", 2, "--negative", "a cat"),
    )
    assert made.exit_code == 0, made.stderr
    sounds = sorted(tmp_path.glob("out/*.wav"))
    info = soundfile.info(sounds[0])
    assert (len(sounds), info.samplerate, info.channels, info.frames) == (2, 44_100, 2, 17_640)
    again = run("reproduce", sounds[0], "-m", stable_audio_3, "--json")
    assert json.loads(again.stdout)["identical"], again.stderr
    timeline = ("--timeline", "0-0.5s a cat; 0.5-1s a dog", "--duration", 1)
    for more, n_frames in ((("--trim",), 17_640), (("--loop",), 17_640), (timeline, 44_100)):
        made = run("generate", "rain", *options, *more, "-o", "more.wav", "--overwrite")
        assert made.exit_code == 0, made.stderr
        assert soundfile.info("more.wav").frames == n_frames
    description = json.loads(run("models", "info", stable_audio_3, "--json").stdout)
    assert (description["layout"], description["autoencoder"]) == (
        "Stable Audio 3",
        "AutoencoderSAME",
    )
    assert description["generation"]["steps"] == 8


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("inpaint", "in.wav", "--mask", "0.1-0.2s", "--resample", 2), "inpaint --resample is not"),
        (
            ("style-transfer", "in.wav", "rain", "--method", "inversion"),
            "inversion is not possible",
        ),
        (("generate", "rain", "--scheduler", "dpm++"), "--scheduler dpm++ cannot follow"),
        (("generate", "rain", "--lora", "a.safetensors"), "a LoRA is not possible"),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_what_a_flow_does_not_allow_is_refused(stable_audio_3, run, command, message, known):
    soundfile.write("in.wav", np.zeros(16_000), 16_000, "PCM_16")
    model = "stable-audio-3-medium" if known else stable_audio_3
    result = run(*command, "-m", model, "-o", "out.wav")
    assert result.exit_code == 2, result.stderr
    assert message in result.stderr and "Stable Audio 3" in result.stderr


@pytest.mark.parametrize("command", ["inpaint", "style-transfer"])
def test_numbered_steps_are_not_suggested_to_a_system_without(stable_audio, run, command):
    soundfile.write("in.wav", np.zeros(16_000), 16_000, "PCM_16")
    more = ("--mask", "0.1-0.2s", "--resample", 2)
    if command == "style-transfer":
        more = ("rain", "--method", "inversion")
    result = run(command, "in.wav", *more, "-m", stable_audio, "-o", "out.wav")
    assert result.exit_code == 2
    assert "not possible with Stable Audio Open" in result.stderr


@pytest.mark.parametrize(("name", "longest_s"), [("small-sfx", 120), ("medium", 380)])
def test_stable_audio_3_has_its_own_defaults_before_it_is_downloaded(run, name, longest_s):
    name = f"stable-audio-3-{name}"
    planned = run("generate", "rain", "-m", name, "--dry-run", "--json", "-o", "x.wav")
    plan = json.loads(planned.stdout)["settings"]
    assert (plan["steps"], plan["guidance_scale"], plan["scheduler"]) == (8, 1.0, "pingpong")
    assert KNOWN[name].family.defaults.max_duration_s == longest_s
