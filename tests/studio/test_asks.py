"""What is asked for is checked before it waits."""

import pytest

from auffusion_cli.config import GenerationDefaults
from auffusion_cli.errors import UsageError
from auffusion_cli.studio.asks import ASKS, MAX_SOUND_S, read_ask, to_dict

SOURCE = "0123456789ab"


def test_candidates_have_seeds_that_follow_each_other():
    ask = read_ask("generate", {"prompt": "rain", "n": 3, "seed": 2**63 - 2})
    assert [one.seed for one in ask.requests()] == [2**63 - 2, 2**63 - 1, 0]
    assert to_dict(ask) == {"prompt": "rain", "n": 3, "seed": 2**63 - 2}


def test_a_seed_that_is_not_given_is_drawn():
    first, second = (read_ask("generate", {"prompt": "rain"}) for _ in range(2))
    assert first.seed != second.seed


@pytest.mark.parametrize(
    ("task", "body"),
    [
        ("generate", {}),
        ("generate", {"prompt": " "}),
        ("generate", {"prompt": 3}),
        ("generate", {"prompt": "rain", "n": 0}),
        ("generate", {"prompt": "rain", "n": 65}),
        ("generate", {"prompt": "rain", "seed": -1}),
        ("generate", {"prompt": "rain", "seed": 1.5}),
        ("generate", {"prompt": "rain", "path": "/etc/passwd"}),
        ("generate", {"prompt": "\x1b[2J"}),
        ("generate", []),
        ("inpaint", {"source": SOURCE}),
        ("inpaint", {"masks": ["1-2s"]}),
        ("inpaint", {"source": SOURCE, "masks": "1-2s"}),
        ("extend", {"source": SOURCE, "where": "sideways"}),
        ("extend", {"source": SOURCE, "by_s": 0}),
        ("style-transfer", {"source": SOURCE}),
        ("style-transfer", {"source": SOURCE, "prompt": "a drum", "strength": 2}),
    ],
)
def test_the_impossible_is_refused(task, body):
    with pytest.raises(UsageError):
        read_ask(task, body)


def test_settings_are_the_models_unless_asked_for():
    defaults = GenerationDefaults(steps=16, scheduler="dpm++")
    settings = read_ask("generate", {"prompt": "rain", "guidance_scale": 2.0}).settings(
        defaults, 4.0
    )
    assert (settings.steps, settings.scheduler) == (16, "dpm++")
    assert (settings.guidance_scale, settings.duration_s) == (2.0, 4.0)
    with pytest.raises(UsageError, match="too long"):
        read_ask("generate", {"prompt": "rain"}).settings(defaults, MAX_SOUND_S + 1)


def test_the_tasks_are_those_of_the_records():
    assert list(ASKS) == [*("generate", "inpaint", "extend", "style-transfer", "edit", "finish")]
