"""Keys that would have no effect in a run: each is an error, none is ignored in silence. No torch.

What follows from one section alone is checked where the section is (`config.py`,
`diffusion_config.py`); here is what follows from the stage and from other sections.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import get_args

from auffusion_cli.errors import UsageError
from auffusion_cli.training.checks import changed, check_unused
from auffusion_cli.training.config import StageName, TrainingConfig
from auffusion_cli.training.diffusion_config import DiffusionConfig

OF_STUDENT = (
    "init_from",
    "name",
    "licence",
    "gradient_checkpointing",
    "preview_prompts",
    "preview",
)
"""Keys of `diffusion` that the distill stage reads."""
DRAWN_BY = ("kind_balance", "kind_weights")
"""Keys of `scenes` by which a clip is drawn, where not every clip is a scene."""
OF_CAPTIONS = ("duration_s", "n_cached", "kinds", "phrase_probability", *DRAWN_BY)
"""Keys of `scenes` that it reads."""


def check_effects(config: TrainingConfig) -> None:
    """Raise a UsageError for keys of `config` that nothing in its run reads."""
    stage = config.stage
    for other in get_args(StageName):
        section = getattr(config, other)
        read = other == stage or (stage, other) == ("distill", "diffusion")
        if not read and (keys := sorted(changed(section))):
            named = ", ".join(f"{other}.{key}" for key in keys)
            raise UsageError(
                f"{named}: without effect on stage: {stage}",
                hint=f"Remove {'it' if len(keys) == 1 else 'them'}, or: --stage {other}.",
            )
    if stage == "distill":
        _check_student(config.diffusion)
    _check_scenes(config)
    loop = config.loop
    check_unused(
        "loop", loop, stage != "diffusion", f"on stage: {stage}", ("validate_every_steps",)
    )
    silent = loop.preview_every_steps is None
    reason = "without loop.preview_every_steps"
    check_unused("diffusion", config.diffusion, silent, reason, ("preview_prompts", "preview"))
    if stage in ("diffusion", "distill") and not silent and not config.diffusion.preview_prompts:
        raise UsageError("loop.preview_every_steps needs diffusion.preview_prompts")
    if loop.wandb is not None and find_spec("wandb") is None:
        raise UsageError(
            "loop.wandb: the package wandb is not installed",
            hint='Install it (pip install "auffusion[wandb]"), or leave the key out.',
        )


def _check_student(diffusion: DiffusionConfig) -> None:
    """A student has all of its teacher's but the weights of the UNet and the defaults."""
    if diffusion.init_from is None:
        raise UsageError(
            "stage: distill needs diffusion.init_from, the teacher",
            hint="For example: --from embedded.",
        )
    reason = "on stage: distill, where a student is as its teacher"
    check_unused("diffusion", diffusion, True, reason, changed(diffusion) - set(OF_STUDENT))


def _check_scenes(config: TrainingConfig) -> None:
    scenes, stage = config.scenes, config.stage
    if stage == "vocoder":
        of_others = changed(scenes) - {"kinds"}
        check_unused("scenes", scenes, True, "on stage: vocoder", of_others)
        return
    if stage == "distill":
        if scenes.n_cached == 0:
            raise UsageError("scenes.n_cached: 0: the trajectories of stage: distill are kept")
        reason = "on stage: distill, which reads captions alone"
        check_unused("scenes", scenes, True, reason, changed(scenes) - set(OF_CAPTIONS))
        one_each = not scenes.n_cached
        reason = "where every clip has a trajectory (scenes.n_cached)"
        check_unused("scenes", scenes, one_each, reason, DRAWN_BY)
        return
    if stage == "autoencoder":
        reason = "on stage: autoencoder"
        check_unused("scenes", scenes, True, reason, ("phrase_probability", "n_crops"))
    of_mixing = ("max_repeats", "gap_s", "pitch_range", "background_gain_db")
    reason = "with scenes.mix_probability: 0"
    check_unused("scenes", scenes, not scenes.mix_probability, reason, of_mixing)
    is_patch = stage == "autoencoder" and config.autoencoder.kind == "patch"
    composes = stage == "diffusion" and scenes.n_cached == 0
    composed = scenes.n_cached is not None or scenes.mix_probability
    reason = "where not every clip is a scene (scenes.n_cached, scenes.mix_probability)"
    check_unused("scenes", scenes, composed, reason, ("n_crops",))
    one_each = not (scenes.n_cached or composes or is_patch or scenes.mix_probability)
    reason = "where every clip is a scene (scenes.n_cached, scenes.mix_probability)"
    check_unused("scenes", scenes, one_each, reason, DRAWN_BY)
