"""The vocoder stage, alone and in the loop."""

import dataclasses
import json
import shutil

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file

import auffusion_cli.training.vocoder as vocoder_stage
from auffusion_cli.checkpoints.load_torch import load_vocoder
from auffusion_cli.codec.log_mel import LogMelModule
from auffusion_cli.errors import CheckpointError, UsageError
from auffusion_cli.signal.spectrogram import mel_error_db
from auffusion_cli.training.config import LoopConfig, TrainingConfig, VocoderConfig
from auffusion_cli.training.loop import train
from auffusion_cli.training.samples import Sample
from auffusion_cli.training.vocoder import (
    VocoderStage,
    build_discriminator,
    build_vocoder,
    load_frozen_autoencoder,
)

TINY = {
    "upsample_initial_channel": 32,
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]],
}
CONFIG = VocoderConfig(model=TINY, segment_samples=1600, discriminator_width=0.03)
CPU = torch.device("cpu")


class HalfAutoencoder(torch.nn.Module):
    """Stands for a trained autoencoder: its round trip halves the image, and remembers widths."""

    downsample = 16

    def encode(self, image):
        self.width = image.shape[-1]
        return image

    def decode(self, latent):
        return latent / 2


def make_stage(store, config=CONFIG):
    torch.manual_seed(0)
    return VocoderStage(TrainingConfig(vocoder=config), store, CPU)


def error_db(stage, log_mel):
    made = stage.log_mel(stage.vocoder(log_mel)).detach()
    return mel_error_db(log_mel.numpy(), made.numpy())


def segments(stage, batch):
    return stage._segments(stage.load(batch))


def test_a_segment_and_its_mel_are_those_of_the_whole_clip(store):
    stage = make_stage(store)
    waveform, log_mel = segments(stage, [Sample(0, seed=3), Sample(1, seed=4)])
    assert waveform.shape == (2, 1600) and log_mel.shape == (2, 256, 10)
    for row in range(2):
        clip = store[row] * 0.95
        starts = [
            start
            for start in range(len(clip) - 1600 + 1)
            if clip[start] == waveform[row, 0] and torch.equal(clip[start:][:1600], waveform[row])
        ]
        assert len(starts) == 1
        # The clip from the sample on that makes the segment begin at a frame: no edge is near.
        aligned = clip[starts[0] % 160 :]
        frame = starts[0] // 160
        if 4 <= frame <= len(aligned) // 160 - 14:
            whole = LogMelModule()(aligned[None])
            assert torch.allclose(log_mel[row], whole[0, :, frame : frame + 10], atol=1e-4)
        else:
            pytest.fail("choose seeds whose segments lie inside the clip")


def test_segments_depend_on_the_sample_alone(store):
    stage = make_stage(store)
    alone, _ = segments(stage, [Sample(1, seed=7)])
    beside, _ = segments(make_stage(store), [Sample(0, seed=1), Sample(1, seed=7)])
    assert torch.equal(alone[0], beside[1])
    other, _ = segments(stage, [Sample(1, seed=8)])
    assert not torch.equal(alone, other)


def test_a_clip_shorter_than_a_segment_is_completed_with_silence(store):
    config = dataclasses.replace(CONFIG, segment_samples=32000)
    waveform, log_mel = segments(make_stage(store, config), [Sample(0, seed=0)])
    n = len(store[0])
    assert log_mel.shape[-1] == 200
    assert torch.equal(waveform[0, :n], store[0] * 0.95)
    assert not waveform[0, n:].any()


def test_decoded_mels_come_from_a_wide_window_through_the_autoencoder(store, monkeypatch, tmp_path):
    batch = [Sample(0, seed=3)]
    true_waveform, true = segments(make_stage(store), batch)
    autoencoder = HalfAutoencoder()
    monkeypatch.setattr(vocoder_stage, "load_autoencoder", lambda folder: autoencoder)
    config = dataclasses.replace(CONFIG, mels="decoded", autoencoder=str(tmp_path))
    waveform, decoded = segments(make_stage(store, config), batch)
    assert torch.equal(waveform, true_waveform)
    assert autoencoder.width == 144  # 10 + 2 * 64 frames, up to a multiple of 16
    floor = torch.log(torch.tensor(1e-5))
    assert torch.allclose(decoded, (true - floor) / 2 + floor, atol=1e-3)


def test_discriminators_join_in_at_their_step(store):
    stage = make_stage(store, dataclasses.replace(CONFIG, adversarial_start_step=5))
    batch = [Sample(0, seed=0)]
    assert not stage.trains("discriminator", 4) and stage.trains("discriminator", 5)
    (early,) = stage.losses(stage.load(batch), step=4)
    assert early[1].keys() == {"loss", "mel_l1", "mel"}
    assert early[1]["mel"] == pytest.approx(45 * early[1]["mel_l1"])
    critic, generator = stage.losses(stage.load(batch), step=5)
    assert critic[1].keys() == {"discriminator"}
    assert generator[1].keys() == {"loss", "mel_l1", "mel", "adversarial", "feature"}
    parts = sum(generator[1][name] for name in ("mel", "adversarial", "feature"))
    assert generator[1]["loss"] == pytest.approx(parts)


def test_each_loss_moves_only_its_own_network(store):
    stage = make_stage(store)
    losses = stage.losses(stage.load([Sample(0, seed=0)]), step=0)

    critic_loss, _ = next(losses)
    critic_loss.backward()
    assert all(p.grad is None for p in stage.vocoder.parameters())
    assert all(p.grad is not None for p in stage.discriminator.parameters())
    stage.discriminator.zero_grad()

    generator_loss, _ = next(losses)
    generator_loss.backward()
    assert all(p.grad is not None for p in stage.vocoder.parameters())
    assert all(p.grad is None for p in stage.discriminator.parameters())


def test_without_an_adversarial_step_there_are_no_discriminators(store):
    config = dataclasses.replace(
        CONFIG, adversarial_start_step=None, discriminator_width=1.0, stft_weight=1.0
    )
    stage = make_stage(store, config)
    assert list(stage.networks) == ["vocoder"]
    ((_, numbers),) = stage.losses(stage.load([Sample(0, seed=0)]), step=1_000_000)
    assert numbers["loss"] == pytest.approx(numbers["mel"] + numbers["stft"])


def run(store, output, max_steps, resume=False):
    config = TrainingConfig(
        stage="vocoder",
        vocoder=dataclasses.replace(CONFIG, adversarial_start_step=2),
        loop=LoopConfig(
            batch_size=2,
            max_steps=max_steps,
            learning_rate=1e-3,
            warmup_steps=0,
            ema_decay=0.5,
            checkpoint_every_steps=2,
            tensorboard=False,
        ),
    )
    numbers = []
    stage = make_stage(store, config.vocoder)
    train(
        stage,
        config,
        Accelerator(cpu=True),
        output,
        resume=resume,
        on_step=lambda progress: numbers.append(progress.losses),
    )
    return numbers, stage


def test_a_resumed_run_has_the_losses_of_one_never_stopped(store, tmp_path):
    whole, _ = run(store, tmp_path / "whole", max_steps=5)
    before, _ = run(store, tmp_path / "halves", max_steps=3)
    after, _ = run(store, tmp_path / "halves", max_steps=5, resume=True)
    assert len(after) == 2
    for expected, numbers in zip(whole, before + after, strict=True):
        assert numbers == pytest.approx(expected, rel=1e-5)


def test_what_the_run_writes_is_a_vocoder(store, tmp_path):
    _, stage = run(store, tmp_path, max_steps=1)
    trained = load_vocoder(tmp_path / "vocoder")
    assert json.loads((tmp_path / "vocoder/config.json").read_text())["resblock_kernel_sizes"] == [
        3
    ]
    assert trained(torch.zeros(1, 256, 4)).shape == (1, 640)
    stage.preview(tmp_path / "previews", step=1)
    assert len(list((tmp_path / "previews").glob("step-00000001-*dB.wav"))) == 2


def test_the_mel_loss_teaches(store):
    config = dataclasses.replace(CONFIG, adversarial_start_step=None, discriminator_width=1.0)
    stage = make_stage(store, config)
    optimizer = torch.optim.AdamW(stage.vocoder.parameters(), lr=2e-3)
    batch = [Sample(i, seed=i) for i in range(2)]
    _, log_mel = segments(stage, batch)
    before = error_db(stage, log_mel)
    for step in range(30):
        ((loss, _),) = stage.losses(stage.load(batch), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = error_db(stage, log_mel)
    assert after < before / 2


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (VocoderConfig(model={"channels": 8}), "channels"),
        (VocoderConfig(model={"num_mels": 80}), "num_mels"),
        (VocoderConfig(model={"upsample_rates": [5, 4, 4, 4]}), "upsample_rates"),
    ],
)
def test_a_model_that_cannot_be_is_told(config, named):
    with pytest.raises(UsageError, match=named):
        build_vocoder(config)


def test_a_segment_is_whole_frames(store):
    with pytest.raises(UsageError, match="segment_samples"):
        make_stage(store, dataclasses.replace(CONFIG, segment_samples=1601))


def test_decoded_mels_need_an_autoencoder():
    with pytest.raises(UsageError, match=r"vocoder\.autoencoder"):
        load_frozen_autoencoder(VocoderConfig(mels="decoded"))


def test_a_published_vocoder_is_gone_on_with(tiny_checkpoint):
    """That of a checkpoint, named as a whole or by its folder."""
    expected = load_vocoder(tiny_checkpoint / "vocoder")
    for name in (tiny_checkpoint, tiny_checkpoint / "vocoder"):
        vocoder = build_vocoder(VocoderConfig(init_from=str(name)))
        assert vocoder.config == expected.config
        log_mel = torch.randn(1, vocoder.config.num_mels, 8)
        with torch.no_grad():
            torch.testing.assert_close(vocoder(log_mel), expected(log_mel), rtol=1e-4, atol=1e-5)


def test_the_discriminators_of_a_run_are_gone_on_with(tiny_checkpoint, tmp_path):
    run = shutil.copytree(tiny_checkpoint, tmp_path / "run")
    newest = run / "checkpoints/step-00000001"
    newest.mkdir(parents=True)
    (newest / "state.json").write_text('{"step": 1}')
    config = VocoderConfig(init_from=str(run), discriminator_width=0.05)
    fresh = build_discriminator(config).state_dict()
    kept = {name: torch.full_like(values, 0.5) for name, values in fresh.items()}
    save_file(kept, newest / "discriminator.safetensors")
    torch.testing.assert_close(dict(build_discriminator(config).state_dict()), kept)
    with pytest.raises(CheckpointError, match=r"discriminator\.safetensors") as caught:
        build_discriminator(dataclasses.replace(config, discriminator_width=0.1))
    assert "discriminator_width" in caught.value.hint
