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
    AutoencoderSAME,
    DDIMScheduler,
    EDMDPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableAudio3DiTModel,
    StableAudio3DurationEmbedder,
    StableAudio3Pipeline,
    StableAudioDiTModel,
    StableAudioPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.deprecated.audioldm.pipeline_audioldm import AudioLDMPipeline
from diffusers.pipelines.stable_audio import StableAudioProjectionModel
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    ClapTextModelWithProjection,
    GemmaTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaTokenizer,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    T5Config,
    T5EncoderModel,
    T5GemmaConfig,
    T5GemmaEncoderModel,
    T5GemmaForConditionalGeneration,
    T5GemmaModuleConfig,
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


def gemma_tokenizer() -> GemmaTokenizer:
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = [*specials, "▁", *"abcdefghijklmnopqrstuvwxyz"]
    return GemmaTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[])


def t5gemma_config() -> T5GemmaConfig:
    module = T5GemmaModuleConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=64,
    )
    return T5GemmaConfig(encoder=module, decoder=module, vocab_size=40, is_encoder_decoder=False)


def stable_audio_3_parts() -> dict:
    """The networks of a medium one, all but T5Gemma."""
    return {
        "vae": _lively(
            AutoencoderSAME(
                patch_size=256,
                encoder_channels=8,
                encoder_c_mults=(2,),
                encoder_strides=(4,),
                encoder_transformer_depths=(2,),
                latent_dim=6,
                dim_heads=8,
                decoder_sinusoidal_blocks=(2,),
            )
        ),
        "duration_embedder": _lively(StableAudio3DurationEmbedder(16, 8)),
        "transformer": _lively(
            StableAudio3DiTModel(
                io_channels=6,
                embed_dim=16,
                depth=2,
                num_heads=2,
                cond_token_dim=16,
                global_cond_dim=16,
                local_add_cond_dim=7,
                timestep_features_dim=8,
                ff_mult=2.0,
                num_memory_tokens=3,
            )
        ),
    }


def write_stable_audio_3(folder: Path, *, sees_known: bool = True) -> StableAudio3Pipeline:
    """The pipeline of what is written to `folder`, in the layout of diffusers.

    Without `sees_known` the input for inpainting, which diffusers leaves out of text-to-audio, has
    no effect.
    """
    torch.manual_seed(0)
    parts = stable_audio_3_parts()
    if not sees_known:
        for block in parts["transformer"].transformer_blocks:
            torch.nn.init.zeros_(block.to_local_embed[-1].weight)
            torch.nn.init.zeros_(block.to_local_embed[-1].bias)
    pipeline = StableAudio3Pipeline(
        text_encoder=_lively(T5GemmaEncoderModel(t5gemma_config())),
        tokenizer=gemma_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, stochastic_sampling=True),
        **parts,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder)
    return pipeline


def write_stability(folder: Path, pipeline: StableAudio3Pipeline, **changes) -> None:
    """The networks of `pipeline` in the layout and by the names of Stability AI.

    `changes` are of the config's sides of the autoencoder, such as `chunk_size` of both.
    """
    weights = {
        "conditioner.conditioners.prompt.padding_embedding": (
            pipeline.transformer.prompt_padding_embedding
        ),
        "pretransform.model.bottleneck.noise_scaling_factor": torch.ones(1, 0, 1),
    }
    for name, tensor in pipeline.duration_embedder.linear.state_dict().items():
        weights[f"conditioner.conditioners.seconds_total.embedder.embedding.1.{name}"] = tensor
    for name, tensor in pipeline.transformer.state_dict().items():
        if name != "prompt_padding_embedding":
            weights[stability_name_of_transformer(name)] = _stability_order(name, tensor)
    for name, tensor in pipeline.vae.state_dict().items():
        weights[stability_name_of_autoencoder(name)] = _stability_order(name, tensor)
    for side, layer in (("encoder", 0), ("decoder", 3)):
        for i in range(2):
            name = f"pretransform.model.{side}.layers.{layer}.transformers.{i}.rope.inv_freq"
            weights[name] = torch.ones(2)
    (folder / "t5gemma-b-b-ul2").mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "model.safetensors")
    (folder / "model_config.json").write_text(json.dumps(_stability_config(changes)))
    config = T5GemmaConfig(**t5gemma_config().to_dict() | {"is_encoder_decoder": True})
    whole = T5GemmaForConditionalGeneration(config)
    whole.model.encoder.load_state_dict(pipeline.text_encoder.encoder.state_dict())
    whole.save_pretrained(folder / "t5gemma-b-b-ul2")
    pipeline.tokenizer.save_pretrained(folder / "t5gemma-b-b-ul2")


def stability_name_of_transformer(name: str) -> str:
    name = re.sub(r"^transformer_blocks\.", "transformer.layers.", name)
    name = re.sub(r"^proj_(in|out)\.", r"transformer.project_\1.", name)
    name = name.replace(".ff.proj_in.", ".ff.ff.0.proj.").replace(".ff.proj_out.", ".ff.ff.2.")
    if name.startswith(("memory_tokens", "rotary_pos_emb", "global_cond_embedder")):
        name = f"transformer.{name}"
    return f"model.model.{name}"


def stability_name_of_autoencoder(name: str) -> str:
    for ours, theirs in (
        ("encoder.blocks.0.", "encoder.layers.0."),
        ("encoder.proj.", "encoder.layers.2."),
        ("decoder.proj.", "decoder.layers.1."),
        ("decoder.blocks.0.", "decoder.layers.3."),
        ("bottleneck.scale", "bottleneck.scaling_factor"),
        (".norm_attn.", ".pre_norm."),
        (".norm_ff.", ".ff_norm."),
        (".attn.", ".self_attn."),
        (".ff.proj_in.", ".ff.ff.0.proj."),
        (".ff.proj_out.", ".ff.ff.2."),
    ):
        name = name.replace(ours, theirs)
    return f"pretransform.model.{name}"


def _stability_order(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not name.endswith("to_qkv.weight") or tensor.shape[0] != 5 * tensor.shape[1]:
        return tensor
    q, q2, k, k2, v = tensor.chunk(5)
    return torch.cat([q, k, v, q2, k2])


def _stability_config(changes: dict) -> dict:
    side = {
        "channels": 8,
        "c_mults": [2],
        "strides": [4],
        "latent_dim": 6,
        "transformer_depths": [2],
        "differential": True,
        "dim_heads": 8,
        "variable_stride": True,
        "sliding_window": [1, 1],
    } | changes
    return {
        "model_type": "diffusion_cond",
        "sample_size": 5_292_032,
        "sample_rate": 44_100,
        "audio_channels": 2,
        "model": {
            "pretransform": {
                "type": "autoencoder",
                "config": {
                    "encoder": {"type": "same", "config": side},
                    "decoder": {"type": "same", "config": side | {"sinusoidal_blocks": [2]}},
                    "latent_dim": 6,
                    "downsampling_ratio": 1024,
                    "io_channels": 2,
                },
            },
            "conditioning": {
                "configs": [
                    {"id": "prompt", "type": "t5gemma", "config": {"max_length": 256}},
                    {
                        "id": "seconds_total",
                        "type": "number",
                        "config": {"min_val": 0, "max_val": 384},
                    },
                ]
            },
            "diffusion": {"type": "dit", "diffusion_objective": "rf_denoiser", "config": {}},
        },
    }
