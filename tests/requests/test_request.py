import math

import pytest

from auffusion_cli.config import FEW_STEPS, SCHEDULERS, GenerationDefaults
from auffusion_cli.errors import UsageError
from auffusion_cli.requests.request import (
    GenerateRequest,
    GenerateSettings,
    InpaintRequest,
    TimelineRequest,
)
from auffusion_cli.requests.seeds import MAX_SEED, draw_seed


@pytest.mark.parametrize(
    "prompt", ["", "  \n", "dog \x1b[31m", "dog\x00", "\udcff", "a" * 10_001, 7]
)
def test_prompts_that_are_not_words_are_refused(prompt):
    with pytest.raises(UsageError):
        GenerateRequest(prompt, seed=1)


@pytest.mark.parametrize("prompt", ["dog", "Hund bellt\tlaut", "犬が吠える", "a" * 10_000])
def test_prompts_in_any_language_are_taken_as_they_are(prompt):
    assert GenerateRequest(prompt, seed=0).prompt == prompt


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 1.5, True, "1", None])
def test_impossible_seeds_are_refused(seed):
    with pytest.raises(UsageError, match="--seed"):
        GenerateRequest("dog", seed)


def test_drawn_seeds_differ_and_are_valid():
    seeds = {draw_seed() for _ in range(20)}
    assert len(seeds) > 15
    assert all(GenerateRequest("dog", seed) for seed in seeds)


@pytest.mark.parametrize(
    ("asked", "option"),
    [
        ({"duration_s": 0}, "--duration"),
        ({"duration_s": -1.0}, "--duration"),
        ({"duration_s": math.nan}, "--duration"),
        ({"duration_s": math.inf}, "--duration"),
        ({"duration_s": 3601}, "--duration"),
        ({"steps": 0}, "--steps"),
        ({"steps": 1000}, "--steps"),
        ({"steps": 2.0}, "--steps"),
        ({"guidance_scale": math.nan}, "--guidance"),
        ({"guidance_scale": -1}, "--guidance"),
        ({"guidance_rescale": 1.1}, "--guidance-rescale"),
        ({"guidance_until": -0.1}, "--guidance-until"),
        ({"scheduler": "plms"}, "--scheduler"),
    ],
)
def test_impossible_settings_name_the_option_and_what_is_valid(asked, option):
    with pytest.raises(UsageError, match=option) as error:
        GenerateSettings.from_defaults(GenerationDefaults(), **asked)
    assert "Valid" in error.value.hint


def test_what_is_not_asked_for_is_the_checkpoints_default():
    defaults = GenerationDefaults(steps=25, scheduler="ddim")
    settings = GenerateSettings.from_defaults(defaults, steps=10, duration_s=None)
    assert settings.to_dict() == {
        "duration_s": 10.0,
        "steps": 10,
        "guidance_scale": 7.5,
        "guidance_rescale": 0.0,
        "scheduler": "ddim",
        "guidance_until": 1.0,
        "windows_at_once": 1,
    }


def test_a_timeline_is_not_trimmed():
    with pytest.raises(UsageError, match="--trim"):
        TimelineRequest("", 1, timeline="0-1s a dog", trim=True)


@pytest.mark.parametrize("others", [{"loop": True}, {"trim": False}])
def test_one_event_ends_and_is_no_start(others):
    with pytest.raises(UsageError, match="--one-shot"):
        GenerateRequest("dog", 1, one_shot=True, **{"trim": not others.get("loop")} | others)
    with pytest.raises(UsageError, match="--one-shot"):
        TimelineRequest("", 1, timeline="0-1s a dog", one_shot=True)


def test_room_tone_takes_no_prompt():
    with pytest.raises(UsageError, match="--room-tone"):
        InpaintRequest("a.wav", "0" * 64, 1, ("1-2s",), prompt="rain", room_tone=True)


def test_automatic_steps_are_few_where_the_model_has_the_papers_and_its_own_elsewhere():
    best, *others = FEW_STEPS
    auto = GenerateSettings.from_defaults(GenerationDefaults(), steps="auto")
    assert (auto.steps, auto.scheduler) == (FEW_STEPS[best], best) and auto.steps <= 25
    for scheduler in others:
        asked = {"steps": "auto", "scheduler": scheduler}
        auto = GenerateSettings.from_defaults(GenerationDefaults(), **asked)
        assert (auto.steps, auto.scheduler) == (FEW_STEPS[scheduler], scheduler)
    own = GenerationDefaults(steps=16, scheduler="euler")
    auto = GenerateSettings.from_defaults(own, steps="auto", scheduler=None)
    assert (auto.steps, auto.scheduler) == (16, "euler")
    assert GenerateSettings.from_defaults(own, steps="auto", scheduler="ddim").scheduler == "ddim"
    with pytest.raises(UsageError, match="--scheduler 'none'"):
        GenerateSettings.from_defaults(GenerationDefaults(), steps="auto", scheduler="none")
    assert set(FEW_STEPS) == set(SCHEDULERS) - {"ddpm"}


@pytest.mark.parametrize(
    ("near", "names"),
    [
        ({"near_seed": -1, "nearness": 0.5}, "--near -1"),
        ({"near_seed": "7"}, "--near '7'"),
        ({"near_seed": 7, "nearness": 1.1}, "--nearness 1.1"),
        ({"nearness": 0.5}, "--near SEED"),
    ],
)
def test_a_sound_is_near_to_that_of_a_seed(near, names):
    with pytest.raises(UsageError) as refused:
        GenerateRequest("rain", 1, **near)
    assert names in f"{refused.value.message} {refused.value.hint}"
    with pytest.raises(UsageError):
        TimelineRequest("rain", 1, timeline="0-3s rain", **near)
