"""`auffusion train` as a user runs it, on a tiny checkpoint and a folder of 20 clips."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

from auffusion_cli.checkpoints.lora_file import describe_lora
from auffusion_cli.cli.app import build_app
from auffusion_cli.signal.sound_file import read_record
from auffusion_cli.training.checkpoints import newest_checkpoint
from auffusion_cli.training.config_file import dump_config, load_config
from auffusion_cli.training.run_folder import only_run
from layouts import as_stable_diffusion


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """20 clips of a third of a second, and what is said of them."""
    folder = tmp_path_factory.mktemp("data")
    generator = torch.Generator().manual_seed(0)
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file_name", "text"))
        for i in range(20):
            waveform = torch.randn(5000, generator=generator).clamp(-1, 1) * 0.5
            soundfile.write(folder / f"{i}.wav", waveform.numpy(), 16000)
            table.writerow((f"{i}.wav", f"Noise number {i % 3}"))
    return folder


@pytest.fixture
def run(clips, tiny_checkpoint, tmp_path, monkeypatch):
    """Run `auffusion train ...` in an empty folder; `data` and `model` None are left out."""
    monkeypatch.chdir(tmp_path)
    app = build_app()

    def run(*arguments, data=clips, model=tiny_checkpoint):
        options = ["--device", "cpu"]
        options += ["--data", str(data)] if data else []
        options += ["--model", str(model)] if model else []
        return CliRunner().invoke(app, ["train", *options, *arguments])

    return run


@pytest.fixture
def no_training(monkeypatch):
    """Training fails the test: what is wrong has to be told before."""

    def fail(*args, **kwargs):
        raise AssertionError("trained")

    monkeypatch.setattr("auffusion_cli.training.run.run", fail)


SMALL = ("--set", "loop.batch_size=2")


def test_a_folder_of_clips_becomes_a_model(run):
    result = run("-o", "out", "--max-steps", "3", *SMALL)
    assert result.exit_code == 0, result.output
    assert result.stdout == "out: 3 steps\n"
    assert "training the diffusion stage on 20 clips in 1 process\n" in result.stderr
    assert "auffusion generate" in result.stderr
    written = {path.name for path in Path("out").iterdir()}
    assert {"unet", "vae", "vocoder", "condition_config.json", "auffusion.json"} <= written
    assert {"training.yaml", "checkpoints", "logs", "cache", "clip-check.json"} <= written
    assert not [name for name in written if name.startswith(".") or "partial" in name]
    assert any(name.startswith("events.out") for name in os.listdir("out/logs"))
    config = load_config(Path("out/training.yaml"), {})
    assert config.scenes.duration_s == 1.28  # the checkpoint's window

    sound = CliRunner().invoke(
        build_app(),
        ["generate", "noise", "--model", "out", "-o", "noise.wav", "--device", "cpu"],
    )
    assert sound.exit_code == 0, sound.output
    assert soundfile.info("noise.wav").frames == 16000

    # It is not written over, but gone on with, by its own settings.
    again = run("-o", "out", *SMALL)
    assert again.exit_code == 2
    assert "holds a run already" in again.stderr and "--resume" in again.stderr
    before = Path("out/unet/diffusion_pytorch_model.safetensors").read_bytes()
    resumed = run("-o", "out", "--resume", "--max-steps", "4", "--json", data=None, model=None)
    assert resumed.exit_code == 0, resumed.output
    report = json.loads(resumed.stdout)
    assert (report["steps"], report["finished"], report["stage"]) == (4, True, "diffusion")
    assert load_config(Path("out/training.yaml"), {}).loop.batch_size == 2
    assert Path("out/unet/diffusion_pytorch_model.safetensors").read_bytes() != before

    anew = run("-o", "out", "--overwrite", "--max-steps", "1", *SMALL)
    assert anew.exit_code == 0, anew.output
    assert os.listdir("out/checkpoints") == ["step-00000001"]


def test_out_of_time_is_a_clean_stop(run):
    result = run("-o", "out", "--max-minutes", "0", *SMALL)
    assert result.exit_code == 0, result.output
    assert "out: 0 steps" in result.stdout and "--resume continues" in result.stderr
    assert Path("out/unet").is_dir()


# Told before anything is trained ------------------------------------------------------------------


def test_resume_needs_a_run(run, no_training):
    for output in ("nothing", "."):
        result = run("-o", output, "--resume")
        assert result.exit_code == 2 and "holds no run to resume" in result.stderr
    assert not Path("nothing").exists()


def test_a_folder_with_other_things_is_not_written_into(run, no_training):
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear")
    result = run("-o", "mine")
    assert result.exit_code == 2 and "mine is not empty" in result.stderr
    Path("file").write_text("x")
    assert "is a file" in run("-o", "file").stderr
    assert os.listdir("mine") == ["letter.txt"]


def test_a_second_training_into_one_folder_is_refused(run, no_training):
    Path("out/checkpoints/step-00000001").mkdir(parents=True)
    Path("out/training.yaml").write_text("seed: 1")
    for option in ("--overwrite", "--resume"):
        with only_run(Path("out")):
            result = run("-o", "out", option)
        assert result.exit_code == 2, result.output
        assert "out is in use by another run" in result.stderr
    assert Path("out/checkpoints/step-00000001").exists() and Path("out/training.yaml").exists()


def test_a_folder_that_another_run_filled_meanwhile_is_refused(run, no_training, monkeypatch):
    """Two runs find the same new folder; the first one has ended when the second gets the lock."""
    lock = only_run

    @contextmanager
    def lock_late(folder):
        with lock(folder):
            (folder / "training.yaml").write_text("seed: 1")
            yield

    monkeypatch.setattr("auffusion_cli.cli.commands.train.only_run", lock_late)
    result = run("-o", "out")
    assert result.exit_code == 2 and "holds a run already" in result.stderr


@pytest.mark.parametrize("data", ["absent", "damaged.jsonl"])
def test_a_wrong_data_option_is_told_before_torch_is_imported(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    Path("damaged.jsonl").write_text("{")
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv[0] = 'auffusion';"
        "from auffusion_cli.cli.app import main; main()"
    )
    command = [sys.executable, "-c", code, "train", "-o", "out", "--data", data]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode in (1, 2) and data in result.stderr, result.stderr
    assert "Traceback" not in result.stderr and "unexpected" not in result.stderr


def test_bad_clips_are_listed_and_refused(run, clips, monkeypatch):
    data = Path("data")
    shutil.copytree(clips, data)
    (data / "3.wav").unlink()
    shutil.copy(data / "4.wav", data / "5.wav")
    (data / "6.wav").write_bytes(b"no sound")
    trained_on = []
    monkeypatch.setattr(
        "auffusion_cli.training.run.run", lambda config, clips, *a, **k: trained_on.append(clips)
    )
    result = run("-o", "out", data=data)
    assert result.exit_code == 1 and trained_on == []
    for problem in ("missing: ", "3.wav", "duplicate: ", "5.wav", "unreadable: ", "6.wav"):
        assert problem in result.stderr
    assert "3 of 20 clips cannot be used" in result.stderr and "--skip-bad" in result.stderr
    assert result.stdout == ""

    monkeypatch.setattr("auffusion_cli.cli.commands.train.report_run", lambda *a, **k: None)
    assert run("-o", "out", "--skip-bad", data=data).exit_code == 0
    assert len(trained_on[0]) == 17


def test_a_resumed_run_still_leaves_out_the_bad_clips(run, clips):
    data = Path("data")
    shutil.copytree(clips, data)
    (data / "3.wav").unlink()
    started = run("-o", "out", "--skip-bad", "--max-steps", "1", *SMALL, data=data)
    assert started.exit_code == 0, started.output
    resumed = run("-o", "out", "--resume", "--max-steps", "2", data=None, model=None)
    assert resumed.exit_code == 0, resumed.output
    assert "on 19 clips" in resumed.stderr


def test_overwriting_waits_until_the_data_is_known_to_be_good(run, clips, no_training):
    Path("out/checkpoints/step-00000001").mkdir(parents=True)
    Path("out/training.yaml").write_text("seed: 1")
    result = run("-o", "out", "--overwrite", data="absent")
    assert result.exit_code == 2 and "--data absent does not exist" in result.stderr
    assert Path("out/checkpoints/step-00000001").exists() and Path("out/training.yaml").exists()


def test_a_start_can_be_left_out(run, no_training):
    scratch = run("--set", "diffusion.init_from=null", "--dry-run", "--json", model=None)
    assert scratch.exit_code == 0, scratch.output
    assert json.loads(scratch.stdout)["diffusion"]["init_from"] is None
    wrong = run("--set", "diffusion.init_from=3", "--dry-run", model=None)
    assert wrong.exit_code == 2 and "diffusion.init_from is 3, not text" in wrong.stderr


def test_dry_run_shows_the_settings_and_writes_nothing(run, no_training, tmp_path):
    result = run("-o", "out", "--dry-run", "--set", "loop.learning_rate=1e-3", "--max-steps", "9")
    assert result.exit_code == 0, result.output
    shown = yaml.safe_load(result.stdout)
    assert shown["loop"]["learning_rate"] == 1e-3 and shown["loop"]["max_steps"] == 9
    assert shown["scenes"]["duration_s"] == 1.28
    assert list(tmp_path.iterdir()) == []

    told = run("--dry-run", "--json", "--set", "loop.learning_rate=1e-3", "--max-steps", "9")
    assert json.loads(told.stdout)["loop"] == shown["loop"] and told.stdout.count("\n") == 1


def test_a_dry_run_checks_the_data_without_torch(clips, tiny_checkpoint, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv[0] = 'auffusion';"
        "from auffusion_cli.cli.app import main; main()"
    )
    options = ("--data", clips, "--model", tiny_checkpoint, "--dry-run")
    command = [sys.executable, "-c", code, "train", *map(str, options)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0 and "train: 20 clips" in result.stderr, result.stderr
    assert yaml.safe_load(result.stdout)["scenes"]["duration_s"] == 1.28
    soundfile.write(tmp_path / "a.wav", np.zeros(5000), 16000)
    (tmp_path / "a.txt").write_text("silence")
    command = [*command[:3], "train", "--data", ".", "--model", str(tiny_checkpoint), "--dry-run"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1 and "silent: a.wav" in result.stderr, result.stderr


def settings(run, *arguments, **options):
    result = run("--dry-run", *arguments, **options)
    assert result.exit_code == 0, result.output
    return yaml.safe_load(result.stdout)


def test_the_command_line_wins_over_the_file(run):
    Path("c.yaml").write_text("seed: 1\nloop: {batch_size: 4, max_steps: 5}\nstage: vocoder")
    shown = settings(run, "-c", "c.yaml", "--set", "seed=2", "--max-steps", "7", model=None)
    assert (shown["seed"], shown["loop"]["batch_size"], shown["loop"]["max_steps"]) == (2, 4, 7)
    assert shown["stage"] == "vocoder"
    assert settings(run, "-c", "c.yaml", "--stage", "autoencoder", model=None)["stage"] == (
        "autoencoder"
    )


def test_the_model_is_that_of_the_stage(run, tiny_checkpoint):
    shown = settings(run, "--stage", "vocoder")
    assert shown["vocoder"]["init_from"] == str(tiny_checkpoint)
    assert shown["diffusion"]["init_from"] is None
    assert settings(run)["diffusion"]["init_from"] == str(tiny_checkpoint)
    assert settings(run, "--set", "scenes.duration_s=0.5")["scenes"]["duration_s"] == 0.5


def test_from_an_image_model_is_the_recipe(run, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shown = settings(run, "--from", "stable-diffusion-v1-5", model=None)
    recipe = load_config(Path(__file__).parents[3] / "recipes/auffusion/diffusion.yaml", {})
    assert {**shown, "data": None} == {**yaml.safe_load(dump_config(recipe)), "data": None}
    assert shown["diffusion"]["text_encoders"][0]["path"] == "stable-diffusion-v1-5"
    assert shown["scenes"]["duration_s"] == 10.24


def test_a_folder_of_an_image_model_is_one_too(run, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = as_stable_diffusion(Path(shutil.copytree(tiny_checkpoint, tmp_path / "sd")))
    shutil.rmtree(folder / "vocoder")
    (folder / "auffusion.json").unlink()
    shown = settings(run, "--from", str(folder), model=None)["diffusion"]
    assert [each["path"] for each in shown["text_encoders"]] == [str(folder)]
    assert shown["vocoder"] == "auffusion"
    # A LoRA changes the UNet alone, and a folder of ours is what it was trained to be.
    lora = settings(run, "--lora", "2", "--from", str(folder), model=None)["diffusion"]
    assert lora["text_encoders"] == []
    (folder / "auffusion.json").write_text('{"format_version": 1}')
    assert settings(run, "--from", str(folder), model=None)["diffusion"]["vocoder"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "vocoder.stft_weight=1"], "vocoder.stft_weight: without effect on stage: diff"),
        (["--set", "diffusion.vocoder=absent"], "diffusion.vocoder 'absent': there is no such"),
        (["--set", "loop.batch_size"], "expected KEY=VALUE"),
        (["--set", "loop.batchsize=2"], "loop.batchsize: unknown name"),
        (["--set", "loop.batch_size=two"], 'loop.batch_size is "two", not a whole number'),
        (["--set", "loop.batch_size={"], "--set loop.batch_size: is not YAML"),
        (["--config", "absent.yaml"], "--config absent.yaml: No such file"),
        (["--model", "absent/model"], "absent/model"),
        (["--device", "cuda"], "--device cuda"),
    ],
)
def test_mistakes_are_told(run, no_training, arguments, message):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is one")
    result = run("-o", "out", *arguments)
    assert result.exit_code in (1, 2) and message in result.stderr, result.output
    assert "Traceback" not in result.stderr


def test_what_is_missing_is_told(run, no_training):
    assert "--data is missing" in run("-o", "out", data=None).stderr
    assert "--output is missing" in run().stderr


def test_a_window_that_the_checkpoint_has_not_is_refused(run):
    result = run("-o", "out", "--set", "scenes.duration_s=3", *SMALL)
    assert result.exit_code == 2
    assert "scenes.duration_s: 3 s is more than the window" in result.stderr


def test_fp16_needs_a_gpu_and_says_so(run):
    result = run("-o", "out", "--set", "loop.mixed_precision=fp16", "--max-steps", "1")
    assert result.exit_code == 2 and "loop.mixed_precision: fp16 needs a GPU" in result.stderr


# Whole processes ----------------------------------------------------------------------------------


def command(clips, tiny_checkpoint, output, *arguments):
    return [
        *(sys.executable, "-m", "auffusion_cli", "train", "--data", str(clips)),
        *("--model", str(tiny_checkpoint), "--device", "cpu", "-o", str(output)),
        *("--set", "loop.batch_size=4", "--set", "loop.tensorboard=false", *arguments),
    ]


def test_kill_9_leaves_a_whole_checkpoint_to_go_on_from(run, clips, tiny_checkpoint, tmp_path):
    output = tmp_path / "killed"
    arguments = command(clips, tiny_checkpoint, output, "--set", "loop.checkpoint_every_steps=1")
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 600
    try:
        # In the middle of writing one: nearly all of the time of so small steps goes there.
        while not (
            newest_checkpoint(output / "checkpoints")
            and list(output.glob("checkpoints/.*.part/*.pt"))
        ):
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < deadline_s
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    newest = newest_checkpoint(output / "checkpoints")
    step = json.loads((newest / "state.json").read_text())["step"]
    assert newest.name == f"step-{step:08d}" and step >= 1
    for name in ("denoiser.optimizer.pt", "ema.pt"):
        torch.load(newest / name, weights_only=True)
    load_file(newest / "denoiser.safetensors")

    total = ["--max-steps", str(step + 1)]
    resumed = run("-o", str(output), "--resume", *total, data=None, model=None)
    assert resumed.exit_code == 0, resumed.output
    assert not list(output.glob("**/.*"))  # nothing half written is left
    # The same as without the kill.
    straight = tmp_path / "straight"
    assert run("-o", str(straight), *total, "--set", "loop.batch_size=4").exit_code == 0
    name = f"checkpoints/step-{step + 1:08d}/denoiser.safetensors"
    expected, got = load_file(straight / name), load_file(output / name)
    for key, tensor in expected.items():
        torch.testing.assert_close(got[key], tensor, rtol=1e-5, atol=1e-6)


def launch_two(arguments, **variables) -> list[tuple[str, str]]:
    """(stdout, stderr) of two processes, as torch's launcher starts them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(2):
        environment = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "ACCELERATE_USE_CPU": "true",
        }
        processes.append(
            subprocess.Popen(
                arguments,
                env=environment | variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    outputs = [process.communicate(timeout=600) for process in processes]
    for process, (_, stderr) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, stderr
    return outputs


def test_two_processes_give_what_one_gives(run, clips, tiny_checkpoint, tmp_path):
    arguments = ("--max-steps", "2", "--json")
    outputs = launch_two(command(clips, tiny_checkpoint, tmp_path / "two", *arguments))
    assert outputs[1][0] == ""  # one of them speaks
    assert "training the" not in outputs[1][1] and "clips in 2 processes" in outputs[0][1]

    one = run("-o", "one", "--set", "loop.batch_size=4", *arguments)
    assert one.exit_code == 0, one.output
    two_losses, one_losses = json.loads(outputs[0][0])["losses"], json.loads(one.stdout)["losses"]
    assert two_losses == pytest.approx(one_losses, rel=1e-5)
    name = "checkpoints/step-00000002/denoiser.safetensors"
    one_weights, two_weights = load_file(Path("one") / name), load_file(tmp_path / "two" / name)
    for key, expected in one_weights.items():
        torch.testing.assert_close(two_weights[key], expected, rtol=0, atol=1e-5)
    assert len(list((tmp_path / "two/cache").iterdir())) == 1


FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
}
"""As `accelerate launch --use_fsdp --fsdp_version 2` sets them."""


@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        ((), {"FSDP_VERSION": "1"}, "version 1 is not supported"),
        (("--stage", "vocoder"), {}, "--stage vocoder does not go with FSDP"),
        (("--lora", "2"), {}, "--lora does not go"),
        (("--set", "loop.compile=true"), {}, "loop.compile does not go"),
        ((), {"FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params does not go"),
        ((), {"FSDP_AUTO_WRAP_POLICY": "ELSEWHERE"}, "ELSEWHERE"),
    ],
)
def test_what_does_not_go_with_fsdp_is_told_at_once(
    run, no_training, monkeypatch, arguments, variables, expected
):
    for name, value in (FSDP | variables).items():
        monkeypatch.setenv(name, value)
    without_model = {"model": None} if "vocoder" in arguments else {}
    result = run("-o", "out", "--max-steps", "1", *arguments, **without_model)
    assert result.exit_code == 2 and expected in result.stderr


def test_a_network_split_over_two_processes_gives_what_a_whole_one_gives(
    run, clips, tiny_checkpoint, tmp_path
):
    """One step whole, a second one split, a third one whole again: checkpoints are the same."""
    data = tmp_path / "data"
    for split, numbers in (("train", range(6)), ("val", range(6, 8))):
        (data / split).mkdir(parents=True)
        for i in numbers:
            shutil.copy(clips / f"{i}.wav", data / split)
            (data / split / f"{i}.txt").write_text("Noise")
    every = ("loop.validate_every_steps=2", "loop.keep_best=true", "loop.checkpoint_every_steps=1")
    settings = [part for setting in every for part in ("--set", setting)]
    mixed, whole = tmp_path / "mixed", tmp_path / "whole"

    def train(output, max_steps, *arguments):
        settled = ("--set", "loop.batch_size=4", "--set", "loop.tensorboard=false", *settings)
        total = ("--max-steps", str(max_steps), *arguments)
        result = run("-o", str(output), *settled, *total, data=data)
        assert result.exit_code == 0, result.output

    train(mixed, 1)
    second = command(data, tiny_checkpoint, mixed, *settings, "--resume", "--max-steps", "2")
    (_, told), _ = launch_two(second, **FSDP)
    assert "in 2 processes, its networks split over them" in told
    exported = [load_file(file) for file in mixed.glob("unet/*.safetensors")]
    train(mixed, 3, "--resume")
    train(whole, 3)

    of_mixed, of_whole = mixed / "checkpoints", whole / "checkpoints"
    for step in ("step-00000002", "step-00000003"):
        ours, theirs = (load_file(x / step / "denoiser.safetensors") for x in (of_mixed, of_whole))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        for name in ("denoiser.optimizer.pt", "ema.pt"):
            ours, theirs = (
                torch.load(x / step / name, weights_only=True) for x in (of_mixed, of_whole)
            )
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    best = []
    for folder in (of_mixed, of_whole):
        with safe_open(folder / "best.safetensors", "pt") as file:
            best.append(float(file.metadata()["loss"]))
    assert best[0] == pytest.approx(best[1], rel=1e-5)
    (unet,) = (load_file(file) for file in whole.glob("unet/*.safetensors"))
    torch.testing.assert_close(exported[0], unet, rtol=0, atol=1e-5)


def test_a_lora_from_clips_to_a_sound_and_again(run, tiny_checkpoint):
    small = (*SMALL, "--set", "diffusion.lora.prior_weight=0", "--set", "scenes.n_cached=4")
    result = run("--lora", "2", "-o", "lora", "--max-steps", "2", *small)
    assert result.exit_code == 0, result.output
    assert "--lora lora" in result.stderr
    assert describe_lora(Path("lora/pytorch_lora_weights.safetensors"))["base"] == "tiny"
    app = build_app()

    def invoke(*arguments):
        result = CliRunner().invoke(app, [*map(str, arguments)])
        assert result.exit_code == 0, result.output
        return result

    of_model = ("--model", tiny_checkpoint, "--device", "cpu")
    invoke("generate", "noise", *of_model, "--seed", 1, "-o", "plain.wav")
    invoke("generate", "noise", *of_model, "--seed", 1, "-o", "a.wav", "--lora", "lora:0.8")
    assert Path("a.wav").read_bytes()[-4000:] != Path("plain.wav").read_bytes()[-4000:]
    (record,) = read_record(Path("a.wav")).loras
    assert (record.file, record.weight) == ("pytorch_lora_weights.safetensors", 0.8)

    again = invoke("reproduce", "a.wav", "--model", tiny_checkpoint, "--lora", "lora", "--json")
    assert json.loads(again.stdout)["identical"]
    without = CliRunner().invoke(app, ["reproduce", "a.wav", "--model", str(tiny_checkpoint)])
    assert without.exit_code == 2 and "was made with the LoRA" in without.stderr

    merged = ("convert", tiny_checkpoint, "--lora", "lora:0.8", "--dtype", "fp32", "-o", "merged")
    invoke("models", *merged)
    invoke("generate", "noise", "--model", "merged", "--device", "cpu", "--seed", 1, "-o", "b.wav")
    ours, theirs = (read_record(Path(name)).samples_sha256 for name in ("a.wav", "b.wav"))
    assert ours == theirs

    as_model = CliRunner().invoke(app, ["generate", "noise", "--model", "lora", "-o", "c.wav"])
    assert as_model.exit_code == 1 and "the folder of a LoRA" in as_model.stderr
    assert "--lora FILE" in as_model.stderr


def test_lists_with_columns_and_an_encoding_of_their_own(run, tmp_path):
    soundfile.write(tmp_path / "a.wav", torch.randn(5000).clamp(-1, 1).numpy() * 0.5, 16000)
    (tmp_path / "list.tsv").write_bytes("wav\tsaid\na.wav\tTür\n".encode("latin-1"))
    result = run("--dry-run", data=tmp_path / "list.tsv")
    assert result.exit_code == 1 and "--encoding" in result.stderr
    options = ("--encoding", "latin-1", "--caption-column")
    result = run("--dry-run", *options, "text", data=tmp_path / "list.tsv")
    assert result.exit_code == 1 and "'wav, said'" in result.stderr
    result = run("--dry-run", "--json", *options, "said", data=tmp_path / "list.tsv")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["caption_column"] == "said"


def test_several_data_sets_are_one(run, clips, tmp_path):
    row = {"audio_path": str(clips / "0.wav"), "text": "first"}
    (tmp_path / "list.jsonl").write_text(json.dumps(row))
    options = ("--data", "list.jsonl", "--skip-bad", "-o", "out", "--max-steps", "1", *SMALL)
    result = run(*options)
    assert result.exit_code == 0, result.output
    assert "duplicate: " in result.stderr and "on 20 clips" in result.stderr
    assert load_config(Path("out/training.yaml"), {}).data_sets == (str(clips), "list.jsonl")
    result = run("-o", "out", "--resume", "--max-steps", "2", data=None, model=None)
    assert result.exit_code == 0, result.output
    assert "resumed with other settings" not in result.stderr


def test_the_best_on_held_out_data_is_kept(run, clips, tmp_path):
    measuring = ("--set", "loop.validate_every_steps=1", "--set", "loop.keep_best=true")
    result = run("-o", "out", "--max-steps", "2", *SMALL, *measuring)
    assert result.exit_code == 1 and "has no 'val'" in result.stderr
    for split in ("train", "val"):
        shutil.copytree(clips, tmp_path / "data" / split)
    more = (*SMALL, *measuring, "--json")
    result = run("-o", "out", "--max-steps", "2", *more, data=tmp_path / "data")
    assert result.exit_code == 1 and "20 of 20 clips cannot be used" in result.stderr
    for path in Path("data/val").glob("*.wav"):  # no longer those that are trained on
        soundfile.write(path, soundfile.read(path)[0] / 2, 16000)
    result = run("-o", "out", "--max-steps", "2", *more, data=tmp_path / "data")
    assert result.exit_code == 0, result.output
    losses = json.loads(result.stdout)["validation"]
    assert list(losses) == ["1", "2"]
    assert f"step 2: loss {losses['2']:.4f} on held-out data" in result.stderr
    assert ("the least so far" in result.stderr) == (losses["2"] < losses["1"])
    with safe_open("out/checkpoints/best.safetensors", "np") as file:
        assert float(file.metadata()["loss"]) == min(losses.values())
    assert Path("out/checkpoints/best.safetensors").is_file() and Path("out/unet").is_dir()


def test_a_run_that_gets_no_better_is_not_said_to_go_on(run, monkeypatch):
    monkeypatch.setattr("auffusion_cli.training.validation.is_run_over", lambda *_: True)
    result = run("-o", "out", "--max-minutes", "0", *SMALL)
    assert result.exit_code == 0 and "ended by loop.early_stop" in result.stderr
    assert "--resume continues" not in result.stderr


def test_a_student_is_distilled_and_used(run, tiny_checkpoint):
    options = ["--stage", "distill", "-o", "turbo", "--max-steps", "1", *SMALL]
    few = ["--set", "scenes.n_cached=2", "--set", "distill.steps=2"]
    result = run(*options, *few)
    assert result.exit_code == 0, result.output
    assert "training the distill stage on 20 clips" in result.stderr
    assert "--model turbo" in result.stderr
    settled = load_config(Path("turbo/training.yaml"), {})
    assert settled.diffusion.init_from == str(tiny_checkpoint)
    assert settled.scenes.duration_s == 1.28  # the teacher's window
    words = ["generate", "noise", "--model", "turbo", "-o", "noise.wav", "--device", "cpu"]
    for more in ([], ["--steps", "auto", "--overwrite"]):
        made = CliRunner().invoke(build_app(), words + more)
        assert made.exit_code == 0, made.output
        settings = read_record(Path("noise.wav")).settings
        assert (settings.steps, settings.guidance_scale) == (2, 1.0)
        assert settings.scheduler == "ddim"
    refused = run(*options, "--lora", "4", "--overwrite")
    assert refused.exit_code == 2 and "diffusion.lora: without effect on stage" in refused.stderr
