"""Small random models of other systems, in the layouts in which they are published."""

import json
from pathlib import Path

import torch
from diffusers import (
    AudioLDM2Pipeline,
    AudioLDM2ProjectionModel,
    AudioLDM2UNet2DConditionModel,
    AutoencoderKL,
    DDIMScheduler,
    UNet2DConditionModel,
)
from diffusers.pipelines.deprecated.audioldm.pipeline_audioldm import AudioLDMPipeline
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


def _autoencoder() -> AutoencoderKL:
    return _lively(
        AutoencoderKL(
            in_channels=1,
            out_channels=1,
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(4, 4, 8),
            norm_num_groups=2,
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


def _vocoder() -> SpeechT5HifiGan:
    return _lively(
        SpeechT5HifiGan(
            SpeechT5HifiGanConfig(
                model_in_dim=64,
                sampling_rate=16_000,
                upsample_initial_channel=32,
                upsample_rates=[5, 4, 2, 2, 2],
                upsample_kernel_sizes=[16, 16, 8, 4, 4],
                resblock_kernel_sizes=[3],
                resblock_dilation_sizes=[[1, 3]],
                normalize_before=False,
            )
        ),
        amount=0.15,
    )
