"""Tables of settings and records: words and units, and only what says something."""

from auffusion_cli.cli.rows import in_words


def test_what_says_nothing_is_left_out():
    values = {
        "near_seed": None,
        "nearness": 0.0,
        "negative_prompt": "",
        "loras": [],
        "loop": False,
        "guidance_rescale": 0.0,
        "guidance_until": 1.0,
        "windows_at_once": 1,
        "downloaded": True,
    }
    assert in_words(values) == []


def test_names_and_units():
    values = {
        "duration_s": 2.0,
        "guidance_scale": 3.5,
        "near_seed": 7,
        "nearness": 0.7,
        "trim": True,
        "engine": "torch",
        "engine_reason": "there is a GPU",
        "finish": {"peak_db": -1.0, "rate_hz": 48000},
        "loras": [{"file": "bells.safetensors", "weight": 0.8}],
        "layers": ["dog", "rain"],
        "downloaded": False,
    }
    assert in_words(values) == [
        ("duration", "2 s"),
        ("guidance", "3.5"),
        ("near the seed", "7"),
        ("nearness", "0.7"),
        ("trim", "yes"),
        ("engine", "torch: there is a GPU"),
        ("finish", "peak -1 dB, rate 48000 Hz"),
        ("loras", "file bells.safetensors, weight 0.8"),
        ("layers", "dog, rain"),
        ("downloaded", "not yet"),
    ]


def test_a_sound_of_no_model_shows_no_settings_of_one():
    values = {"task": "finish", "model": "none", "steps": 1, "scheduler": "ddim", "duration_s": 1.0}
    assert in_words(values) == [("task", "finish"), ("duration", "1 s")]
