"""Small random models of other systems, in the layouts in which they are published."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AudioLDM2Pipeline,
    AudioLDM2ProjectionModel,
    AudioLDM2UNet2DConditionModel,
    AutoencoderKL,
    AutoencoderOobleck,
    DDIMScheduler,
    EDMDPMSolverMultistepScheduler,
    StableAudioDiTModel,
    StableAudioPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.deprecated.audioldm.pipeline_audioldm import AudioLDMPipeline
from diffusers.pipelines.stable_audio import StableAudioProjectionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    ClapTextModelWithProjection,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaTokenizer,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

WINDOW_S = 1.28
WAVE_COLUMNS = 16
WAVE_WINDOW_S = WAVE_COLUMNS * 1024 / 44_100
N_CHANNELS = 4
"""Of the latents."""
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def write_audioldm(folder: Path) -> AudioLDMPipeline:
    """The pipeline of what is written to `folder`."""
    torch.manual_seed(0)
    pipeline = AudioLDMPipeline(
        vae=_autoencoder(),
        text_encoder=_lively(ClapTextModelWithProjection(_clap_text_config())),
        tokenizer=_roberta_tokenizer(),
        unet=_lively(
            UNet2DConditionModel(
                **_unet_sizes(),
                cross_attention_dim=(8, 16),
                class_embed_type="simple_projection",
                projection_class_embeddings_input_dim=16,
                class_embeddings_concat=True,
            )
        ),
        scheduler=_scheduler(),
        vocoder=_vocoder(),
    )
    return _written(pipeline, folder)


def write_audioldm2(folder: Path) -> AudioLDM2Pipeline:
    """The pipeline of what is written to `folder`."""
    torch.manual_seed(0)
    audio = ClapAudioConfig(
        window_size=2,
        spec_size=16,
        patch_embeds_hidden_size=8,
        hidden_size=16,
        depths=[1],
        num_attention_heads=[1],
        patch_stride=[4, 4],
        num_mel_bins=16,
        projection_dim=16,
    )
    text = _clap_text_config()
    clap = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=16))
    pipeline = AudioLDM2Pipeline(
        vae=_autoencoder(),
        text_encoder=_lively(clap),
        text_encoder_2=_lively(T5EncoderModel(t5_config())),
        projection_model=_lively(AudioLDM2ProjectionModel(16, 20, 24)),
        language_model=_lively(
            GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=8, n_positions=64, n_embd=24, n_layer=1, n_head=2, max_new_tokens=3
                )
            )
        ),
        tokenizer=_roberta_tokenizer(),
        tokenizer_2=t5_tokenizer(),
        feature_extractor=ClapFeatureExtractor(),
        unet=_lively(
            AudioLDM2UNet2DConditionModel(
                **_unet_sizes(), cross_attention_dim=((None, 24, 20),) * 2
            )
        ),
        scheduler=_scheduler(),
        vocoder=_vocoder(),
    )
    return _written(pipeline, folder)


@dataclass
class Tango:
    """Tango's own parts, and what its code does with them."""

    unet: UNet2DConditionModel
    text_encoder: T5EncoderModel
    tokenizer: T5Tokenizer
    vae: AutoencoderKL
    vocoder: SpeechT5HifiGan
    scheduler: DDIMScheduler

    @torch.no_grad()
    def __call__(self, prompt: str, latents: torch.Tensor, n_steps: int, guidance: float):
        """(1, C, time, frequency) noise -> (N,) samples: prompts padded to one length, masked."""
        batch = self.tokenizer(["", prompt], padding=True, return_tensors="pt")
        states = self.text_encoder(batch.input_ids, attention_mask=batch.attention_mask)[0]
        mask = batch.attention_mask == 1
        self.scheduler.set_timesteps(n_steps)
        for timestep in self.scheduler.timesteps:
            twice = torch.cat([latents, latents])
            output = self.unet(twice, timestep, states, encoder_attention_mask=mask).sample
            without, with_text = output.chunk(2)
            guided = without + guidance * (with_text - without)
            latents = self.scheduler.step(guided, timestep, latents).prev_sample
        log_mel = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return self.vocoder(log_mel.squeeze(1))[0].numpy()


def write_tango(folder: Path) -> Tango:
    """The parts of what is written to `folder` in Tango's layout, with the text encoder's files."""
    torch.manual_seed(0)
    tango = Tango(
        unet=_lively(
            UNet2DConditionModel(
                in_channels=N_CHANNELS,
                out_channels=N_CHANNELS,
                block_out_channels=(32, 32, 64, 64),
                attention_head_dim=(1, 1, 1, 1),
                cross_attention_dim=20,
                use_linear_projection=True,
                upcast_attention=True,
            ),
            amount=0.01,
        ),
        text_encoder=_lively(T5EncoderModel(t5_config())),
        tokenizer=t5_tokenizer(),
        vae=_autoencoder(widths=(32, 32, 64), norm_num_groups=32, layers_per_block=2),
        vocoder=_vocoder(resblock_kernel_sizes=[3, 7, 11], resblock_dilation_sizes=[[1, 3, 5]] * 3),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
    )
    folder.mkdir()
    main = {f"unet.{name}": one for name, one in tango.unet.state_dict().items()}
    main |= {f"text_encoder.{name}": one for name, one in tango.text_encoder.state_dict().items()}
    torch.save(main, folder / "pytorch_model_main.bin")
    weights = tango.vae.state_dict().items()
    vae = {_ldm_name(name): _as_convolution(name, one) for name, one in weights}
    vae |= {
        f"vocoder.{name.replace('upsampler.', 'ups.')}": one
        for name, one in tango.vocoder.state_dict().items()
        if name not in ("mean", "scale")
    }
    torch.save(vae, folder / "pytorch_model_vae.bin")
    configs = {
        "main_config": {
            "text_encoder_name": "google/flan-t5-large",
            "scheduler_name": "stabilityai/stable-diffusion-2-1",
            "unet_model_config_path": "configs/diffusion_model_config.json",
        },
        "vae_config": {
            "image_key": "fbank",
            "subband": 1,
            "embed_dim": N_CHANNELS,
            "scale_factor": 0.9,
            "ddconfig": {
                "z_channels": N_CHANNELS,
                "in_channels": 1,
                "out_ch": 1,
                "ch": 32,
                "ch_mult": [1, 1, 2],
                "num_res_blocks": 2,
            },
        },
    }
    for name, config in configs.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    tango.text_encoder.config.save_pretrained(folder / "text_encoder")
    tango.tokenizer.save_pretrained(folder / "text_encoder")
    write_settings(folder)
    return tango


def _ldm_name(name: str) -> str:
    """A tensor's name in diffusers' autoencoder -> in latent diffusion's code."""
    up, resnet = r"decoder\.up_blocks\.(\d)", r"mid_block\.resnets\.(\d)"
    name = re.sub(up, lambda match: f"decoder.up.{2 - int(match[1])}", name)
    name = re.sub(resnet, lambda match: f"mid.block_{int(match[1]) + 1}", name)
    for ours, theirs in (
        ("down_blocks.", "down."),
        (".resnets.", ".block."),
        ("conv_shortcut", "nin_shortcut"),
        ("downsamplers.0", "downsample"),
        ("upsamplers.0", "upsample"),
        ("mid_block.attentions.0", "mid.attn_1"),
        ("group_norm", "norm"),
        ("to_out.0", "proj_out"),
        ("to_", ""),
        ("conv_norm_out", "norm_out"),
    ):
        name = name.replace(ours, theirs)
    return name


def _as_convolution(name: str, weight: torch.Tensor) -> torch.Tensor:
    """Attention's matrices are 1 x 1 convolutions there."""
    return weight[..., None, None] if ".to_" in name and name.endswith("weight") else weight


def t5_config() -> T5Config:
    return T5Config(
        vocab_size=64,
        d_model=20,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )


def t5_tokenizer() -> T5Tokenizer:
    letters = [("▁", -2.0), *((letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz")]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters]
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=0)
    tokenizer.model_max_length = 32
    return tokenizer


def write_settings(folder: Path, **settings) -> None:
    """A window of `WINDOW_S` and two steps, so that a sound is quick."""
    generation = {
        "duration_s": WINDOW_S,
        "max_duration_s": WINDOW_S,
        "steps": 2,
        "guidance_scale": 3.0,
        "scheduler": "ddim",
    }
    identity = {"format_version": 1, "generation": generation | settings}
    (folder / "auffusion.json").write_text(json.dumps(identity))


def _written(pipeline, folder: Path):
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder)
    write_settings(folder)
    return pipeline


def _lively(network, amount=0.1):
    """`network` in evaluation mode, with weights and offsets that are far from zero."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=amount)
    return network.eval()


def _clap_text_config() -> ClapTextConfig:
    return ClapTextConfig(
        vocab_size=300,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=66,
        projection_dim=16,
        pad_token_id=1,
    )


def _roberta_tokenizer() -> RobertaTokenizer:
    tokens = [*SPECIALS, *sorted(ByteLevel.alphabet())]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return RobertaTokenizer(vocab=vocabulary, merges=[], model_max_length=32)


def _unet_sizes() -> dict:
    return {
        "in_channels": N_CHANNELS,
        "out_channels": N_CHANNELS,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 2,
    }


def _autoencoder(widths=(4, 4, 8), norm_num_groups=2, layers_per_block=1) -> AutoencoderKL:
    return _lively(
        AutoencoderKL(
            in_channels=1,
            out_channels=1,
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=widths,
            norm_num_groups=norm_num_groups,
            layers_per_block=layers_per_block,
            latent_channels=N_CHANNELS,
            scaling_factor=0.9,
        )
    )


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _vocoder(resblock_kernel_sizes=(3,), resblock_dilation_sizes=((1, 3),)) -> SpeechT5HifiGan:
    return _lively(
        SpeechT5HifiGan(
            SpeechT5HifiGanConfig(
                model_in_dim=64,
                sampling_rate=16_000,
                upsample_initial_channel=32,
                upsample_rates=[5, 4, 2, 2, 2],
                upsample_kernel_sizes=[16, 16, 8, 4, 4],
                resblock_kernel_sizes=list(resblock_kernel_sizes),
                resblock_dilation_sizes=[list(each) for each in resblock_dilation_sizes],
                normalize_before=False,
            )
        ),
        amount=0.15,
    )


class Deterministic(EDMDPMSolverMultistepScheduler):
    """The schedule of CosineDPMSolverMultistepScheduler with a solver that adds no noise."""

    def precondition_noise(self, sigma):
        return torch.as_tensor(sigma).atan() / math.pi * 2

    @property
    def init_noise_sigma(self):
        return (self.config.sigma_max**2 + 1) ** 0.5


def write_stable_audio(folder: Path) -> StableAudioPipeline:
    """The pipeline of what is written to `folder`, with a window of `WAVE_COLUMNS`."""
    torch.manual_seed(0)
    levels = {
        "sigma_min": 0.3,
        "sigma_max": 500,
        "sigma_data": 1.0,
        "sigma_schedule": "exponential",
        "prediction_type": "v_prediction",
    }
    tokenizer = t5_tokenizer()
    tokenizer.model_max_length = 12
    pipeline = StableAudioPipeline(
        vae=_lively(
            AutoencoderOobleck(
                encoder_hidden_size=16,
                downsampling_ratios=[2, 4, 4, 4, 8],
                channel_multiples=[1, 1, 1, 1, 1],
                decoder_channels=4,
                decoder_input_channels=8,
            )
        ),
        text_encoder=_lively(T5EncoderModel(t5_config())),
        projection_model=_lively(StableAudioProjectionModel(20, 24, 0, 512)),
        tokenizer=tokenizer,
        transformer=_lively(
            StableAudioDiTModel(
                sample_size=WAVE_COLUMNS,
                in_channels=8,
                out_channels=8,
                num_layers=1,
                attention_head_dim=8,
                num_attention_heads=4,
                num_key_value_attention_heads=2,
                cross_attention_dim=16,
                cross_attention_input_dim=24,
                global_states_input_dim=48,
                time_proj_dim=16,
            )
        ),
        scheduler=Deterministic(**levels),
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder)
    published = {"_class_name": "CosineDPMSolverMultistepScheduler", "solver_order": 2, **levels}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(published))
    write_settings(
        folder, duration_s=WAVE_WINDOW_S, max_duration_s=WAVE_WINDOW_S, scheduler="dpm++"
    )
    return pipeline
