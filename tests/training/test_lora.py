"""A LoRA in the diffusion stage: what is trained, what is saved, what stays."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.errors import UsageError
from auffusion_cli.requests.loras import LORA_NAME, LoraChoice
from auffusion_cli.training.config import LoopConfig, SceneConfig, TrainingConfig
from auffusion_cli.training.diffusion import DiffusionStage
from auffusion_cli.training.diffusion_config import DiffusionConfig, GenerationConfig, LoraConfig
from auffusion_cli.training.lora import lora_changes
from auffusion_cli.training.prior import Prior
from auffusion_cli.training.run import run
from auffusion_cli.training.samples import Sample

LORA = LoraConfig(rank=2, trigger="a gong", prior_sounds=3, prior_prompts=("rain", "a dog"))
LOOP = LoopConfig(
    batch_size=2, max_steps=4, learning_rate=1e-2, warmup_steps=0, ema_decay=0.5, tensorboard=False
)


def train(store, checkpoint, output, lora=LORA, **changes):
    config = TrainingConfig(
        loop=replace(LOOP, **changes),
        scenes=SceneConfig(duration_s=1.28),
        diffusion=DiffusionConfig(init_from=str(checkpoint), lora=lora),
    )
    reports = []
    run(
        config,
        store.clips,
        output,
        device="cpu",
        resume=(output / "training.yaml").exists(),
        on_step=lambda report: reports.append(report.losses),
    )
    return reports


def test_a_lora_is_trained_resumed_and_added(store, tiny_checkpoint, tmp_path):
    whole = train(store, tiny_checkpoint, tmp_path / "whole")
    assert set(whole[0]) == {"loss", "mse", "prior"}
    assert whole[0]["prior"] < 1e-10 < whole[-1]["prior"]  # at first it changes nothing
    before = train(store, tiny_checkpoint, tmp_path / "parts", max_steps=2)
    assert before + train(store, tiny_checkpoint, tmp_path / "parts") == whole

    tensors = load_file(tmp_path / "whole" / LORA_NAME)
    assert all(name.startswith("unet.") and ".lora_" in name for name in tensors)
    for name, tensor in load_file(tmp_path / "parts" / LORA_NAME).items():
        assert torch.equal(tensor, tensors[name])
    assert not (tmp_path / "whole/unet").exists()
    saved = load_file(tmp_path / "whole/checkpoints/step-00000004/denoiser.safetensors")
    assert saved and all("lora_" in name for name in saved)

    plain = load_model(tiny_checkpoint, device="cpu", engine="torch").networks.unet.state_dict()
    tuned = load_model(
        tiny_checkpoint, device="cpu", loras=(LoraChoice(str(tmp_path / "whole")),)
    ).networks.unet.state_dict()
    changed = {name for name in plain if not torch.equal(plain[name], tuned[name])}
    assert changed == {
        f"{name.split('.lora_')[0].removeprefix('unet.')}.weight" for name in tensors
    }
    assert all("attn" in name for name in changed)


def test_without_a_prior_no_sounds_are_made(store, tiny_checkpoint, tmp_path):
    lora = LoraConfig(rank=1, prior_weight=0.0)
    reports = train(store, tiny_checkpoint, tmp_path / "out", lora, max_steps=1)
    assert set(reports[0]) == {"loss", "mse"}
    assert not list((tmp_path / "out/cache").glob("prior-*"))


def test_a_start_without_kinds_needs_prompts(store, tiny_checkpoint, tmp_path):
    with pytest.raises(UsageError, match="prior_prompts: the start states no kinds") as caught:
        train(store, tiny_checkpoint, tmp_path / "out", LoraConfig(rank=1), max_steps=1)
    assert "prior_weight=0" in caught.value.hint


@pytest.fixture
def stage_of(tiny_checkpoint):
    """(settings) -> a stage on two clips, with a prior of two sounds and three prompts."""

    class TwoClips:
        shards, latent_shape = None, (4, 32, 8)

        def __init__(self, states):
            self.states = states

        def __len__(self):
            return 2

        def load(self, batch):
            return [sample.index for sample in batch]

        def examples(self, part):
            return torch.zeros(len(part), 4, 32, 8), [self.states[part]]

    def make(**settings):
        model = load_model(tiny_checkpoint, device="cpu", engine="torch")
        states = torch.from_numpy(model.text.hidden_states(0, ["a dog", "rain", "wind"]))
        config = DiffusionConfig(init_from="x", **settings)
        has_prior = config.lora.prior_weight > 0
        prior = Prior(torch.ones(2, 4, 32, 8), [0, 2], [states]) if has_prior else None
        return DiffusionStage(model, TwoClips(states), config, prior)

    return make


def test_captions_of_the_new_sounds_are_never_dropped(stage_of):
    """What is unconditional is learned of the start alone."""
    batch = [Sample(i % 2, seed=i) for i in range(200)]
    *_, kept = stage_of(lora=LoraConfig(rank=1), text_dropout=0.25).load(batch)
    assert len(kept) == 400 and kept[:200].all()
    assert 0.65 < kept[200:].float().mean() < 0.85
    *_, kept = stage_of(lora=LoraConfig(rank=1, prior_weight=0.0)).load(batch)
    assert len(kept) == 200 and kept.all()


def test_a_sound_of_the_prior_has_its_prompt_or_another(stage_of):
    stage = stage_of(lora=LoraConfig(rank=1))
    (_, numbers), *_ = stage.load([Sample(0, seed=i) for i in range(300)])
    latents, prompts = numbers
    of_first = prompts[latents == 0].bincount(minlength=3) / (latents == 0).sum()
    # Half of the time its own, and one of the three otherwise.
    torch.testing.assert_close(of_first, torch.tensor([4 / 6, 1 / 6, 1 / 6]), atol=0.1, rtol=0)
    taken, (states,) = stage.prior.take(latents, prompts)
    assert taken.shape == (300, 4, 32, 8)
    assert torch.equal(states, stage.prior.hidden_states[0][prompts])


def test_the_start_is_held_alike_at_all_time_steps(stage_of):
    """Min-SNR would hold it least where it is decided what a sound becomes."""
    batch = [Sample(0, seed=1), Sample(1, seed=2)]
    numbers = {}
    for gamma in (None, 1e-3):
        torch.manual_seed(0)
        stage = stage_of(lora=LoraConfig(rank=1), min_snr_gamma=gamma)
        for _, up in lora_changes(stage.unet).values():
            torch.nn.init.constant_(up, 0.1)
        ((_, numbers[gamma]),) = stage.losses(stage.load(batch), step=0)
    assert numbers[None]["prior"] == numbers[1e-3]["prior"] > 0
    assert numbers[1e-3]["loss"] < numbers[None]["loss"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "diffusion.lora needs diffusion.init_from"),
        ({"init_from": "x", "vocoder": "y"}, "diffusion.vocoder: without effect with diffusion.lo"),
        (
            {"init_from": "x", "generation": GenerationConfig(steps=3), "scheduler": {"a": 1}},
            "diffusion.scheduler, diffusion.generation: without effect",
        ),
        (
            {"init_from": "x", "lora": LoraConfig(rank=4, prior_weight=0.0), "text_dropout": 0.2},
            r"diffusion\.text_dropout: without effect with diffusion\.lora\.prior_weight: 0",
        ),
    ],
)
def test_what_a_lora_cannot_have_is_told(settings, message):
    with pytest.raises(UsageError, match=message):
        DiffusionConfig(**{"lora": LoraConfig(rank=4), **settings})
    with pytest.raises(UsageError, match=r"diffusion\.lora\.trigger: without effect without"):
        LoraConfig(trigger="a bell")
