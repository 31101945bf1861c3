"""Inpainting and SDEdit give diffusers' numbers: same weights, latents, noise and scheduler."""

import numpy as np
import pytest
import torch

from auffusion_cli.config import SCHEDULERS
from auffusion_cli.diffusion.denoiser import guided_denoiser
from auffusion_cli.diffusion.holes import latent_mask
from auffusion_cli.diffusion.samplers import initial_noise, keep_known, sample
from auffusion_cli.diffusion.schedulers import make_scheduler
from auffusion_cli.engines.torch_networks import TorchNetworks

PROMPT, NEGATIVE, GUIDANCE, N_STEPS = "dog barking in rain", "music", 7.5, 5
HEIGHT, WIDTH = 256, 64


@pytest.fixture(scope="module")
def parts(golden):
    """The golden checkpoint's networks as diffusers names them."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    source = golden / "tiny-auffusion"
    return {
        "vae": AutoencoderKL.from_pretrained(source / "vae"),
        "text_encoder": CLIPTextModel.from_pretrained(source / "text_encoder_0"),
        "tokenizer": CLIPTokenizer.from_pretrained(source / "text_encoder_0"),
        "unet": UNet2DConditionModel.from_pretrained(source / "unet"),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


@pytest.fixture(scope="module")
def clean():
    return initial_noise([11], (4, HEIGHT // 8, WIDTH // 8))


def their_pipeline(class_name, parts, scheduler_name, scheduler_config):
    import diffusers

    scheduler_class = getattr(diffusers, SCHEDULERS[scheduler_name])
    config = {**scheduler_config, "clip_sample": False}
    pipeline = getattr(diffusers, class_name)(
        **parts, scheduler=scheduler_class.from_config(config)
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def our_denoiser(pipeline, parts):
    """The guided denoiser on the pipeline's own embeddings, which the adapters would change."""
    from auffusion_cli.diffusion.text import Conditioning

    cond, uncond = pipeline.encode_prompt(PROMPT, "cpu", 1, True, negative_prompt=NEGATIVE)
    conditioning = Conditioning(cond=cond.detach().numpy(), uncond=uncond.detach().numpy())
    return guided_denoiser(TorchNetworks(unet=parts["unet"]).predict, conditioning, GUIDANCE)


def image_of(parts, latents):
    with torch.no_grad():
        latents = torch.from_numpy(latents) / parts["vae"].config.scaling_factor
        decoded = parts["vae"].decode(latents).sample
    return (decoded / 2 + 0.5).clamp(0, 1)[0].permute(1, 2, 0).numpy()


# DDPM's noise is drawn from another source there.
@pytest.mark.parametrize("name", sorted(SCHEDULERS.keys() - {"ddpm"}))
def test_inpainting_is_stable_diffusion_inpaint_pipelines(tiny_model, parts, clean, name):
    config = tiny_model.scheduler_config
    pipeline = their_pipeline("StableDiffusionInpaintPipeline", parts, name, config)
    noise = initial_noise([3], clean.shape[1:])
    cells = np.zeros((HEIGHT, WIDTH), dtype=bool)
    cells[64:192, 16:40] = True  # lowest first, and on the latents' grid
    picture = torch.from_numpy(cells[::-1].copy()).float()[None, None]
    theirs = pipeline(
        PROMPT,
        image=torch.from_numpy(clean.copy()),
        mask_image=picture,
        masked_image_latents=torch.from_numpy(clean.copy()),
        negative_prompt=NEGATIVE,
        latents=torch.from_numpy(noise.copy()),
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=N_STEPS,
        guidance_scale=GUIDANCE,
        strength=1.0,
        output_type="np",
    ).images[0]

    scheduler = make_scheduler(name, config)
    mask = latent_mask(cells, *(size // 8 for size in cells.shape))
    keep = keep_known(clean, noise, mask, scheduler)
    denoise = our_denoiser(pipeline, parts)
    *_, last = sample(denoise, scheduler, noise, N_STEPS, after_step=keep)
    assert np.array_equal(last.latents * (1 - mask), clean * (1 - mask))
    assert theirs.std() > 0.01  # a picture, not a constant
    assert np.abs(image_of(parts, last.latents) - theirs).max() < 1e-4


# PNDM started midway is another thing there: diffusers leaves out the second visit of its second
# time step, so that all the following steps are taken at a time step that the state is not at.
@pytest.mark.parametrize("name", sorted(SCHEDULERS.keys() - {"pndm", "ddpm"}))
@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_sdedit_is_stable_diffusion_img2img_pipelines(tiny_model, parts, clean, name, strength):
    config = tiny_model.scheduler_config
    pipeline = their_pipeline("StableDiffusionImg2ImgPipeline", parts, name, config)
    theirs = pipeline(
        PROMPT,
        image=torch.from_numpy(clean.copy()),
        negative_prompt=NEGATIVE,
        generator=torch.Generator().manual_seed(3),
        num_inference_steps=N_STEPS,
        guidance_scale=GUIDANCE,
        strength=strength,
        output_type="np",
    ).images[0]

    noise = initial_noise([3], clean.shape[1:])
    scheduler = make_scheduler(name, config)
    first_step = N_STEPS - int(N_STEPS * strength)
    denoise = our_denoiser(pipeline, parts)
    *_, last = sample(denoise, scheduler, noise, N_STEPS, clean=clean, first_step=first_step)
    assert theirs.std() > 0.01
    assert np.abs(image_of(parts, last.latents) - theirs).max() < 1e-4
