"""The best of several sounds, and guards, with sounds that are made up by their seeds."""

import warnings
from dataclasses import dataclass

import numpy as np
import pytest

from auffusion_cli.errors import AuffusionAdvice
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.requests.request import (
    ExtendRequest,
    GenerateRequest,
    GenerateSettings,
    InpaintRequest,
)
from auffusion_cli.requests.seeds import line_seed
from auffusion_cli.requests.selection import Choosing, Rejected
from auffusion_cli.signal.recording import Recording
from auffusion_cli.tasks.choose import Chooser, choose_edit
from auffusion_cli.tasks.edits import EditResult
from auffusion_cli.tasks.generate import GenerateFailure
from auffusion_cli.tasks.hear import heard_in

SETTINGS = GenerateSettings(1.0, 2, 3.0, 0.0, "ddim")


@dataclass(frozen=True)
class Sound:
    """What `Chooser` sees of a `GenerateResult`."""

    request: GenerateRequest
    waveform: np.ndarray
    provenance: Provenance
    sample_rate_hz: int = 16_000


class Maker:
    """Makes sounds as loud as `levels` says for their seeds, by default 0.5; 0 is silence."""

    def __init__(self, levels=None, failing=()):
        self.levels, self.failing, self.seeds = levels or {}, failing, []

    def __call__(self, requests):
        for request in requests:
            self.seeds.append(request.seed)
            if request.seed in self.failing:
                yield GenerateFailure(request, ValueError("no"))
                continue
            level = self.levels.get(request.seed, 0.5)
            pulses = np.sin(np.arange(16_000) / 500) ** 2
            noise = np.random.default_rng(request.seed).uniform(-1, 1, 16_000)
            record = Provenance(request, SETTINGS, "m", None, "v", "cpu", "fp32", "0" * 64, None)
            yield Sound(request, level * pulses * noise, record)


class LoudnessJudge:
    name = "loudness"

    def score(self, waveform, words):
        return None if "unknown" in words else float(np.abs(waveform).max())

    def hears_speech(self, waveform):
        return np.abs(waveform).max() > 0.9


def choose(maker, prompts, judge=True, **asked):
    requests = [GenerateRequest(prompt, 100 * n) for n, prompt in enumerate(prompts, 1)]
    chooser = Chooser(Choosing(**asked), LoudnessJudge() if judge else None, LoudnessJudge())
    return list(chooser.choose_each(maker, requests))


def test_a_sound_without_fault_is_simply_that_of_its_seed():
    maker = Maker()
    ((one,), (two,)) = choose(maker, ["a dog", "a cat"])
    assert maker.seeds == [100, 200]
    assert one.provenance.selection is None and two.request.prompt == "a cat"


def test_a_faulty_sound_is_made_again_with_another_seed():
    maker = Maker({100: 0.0, line_seed(100, 1): 1.0})  # silence, then "speech"
    ((one,), (two,)) = choose(maker, ["a dog", "a cat"])
    assert maker.seeds == [100, line_seed(100, 1), line_seed(100, 2), 200]
    assert one.request.seed == one.provenance.request.seed == line_seed(100, 2)
    selection = one.provenance.selection
    assert selection.first_seed == 100 and selection.fault is None
    assert [(r.seed, r.fault) for r in selection.rejected] == [
        (100, "silent"),
        (line_seed(100, 1), "speech"),
    ]
    assert two.provenance.selection is None
    again = Provenance.from_dict(one.provenance.to_dict())
    assert again == one.provenance
    asked = GenerateRequest("a dog", 100)
    same = {"model": "m", "revision": None, "vocoder": "v"}
    assert again.matches(asked, SETTINGS, **same)
    assert again.matches(GenerateRequest("a dog", 5), SETTINGS, any_seed=True, **same)
    assert not again.matches(GenerateRequest("a dog", line_seed(100, 2)), SETTINGS, **same)
    assert not again.matches(asked, SETTINGS, best_of=4, **same)


def test_it_is_made_again_three_times_at_most():
    ((one,),) = choose(maker := Maker({s: 0.0 for s in range(2**10)} | {100: 0.0}), ["a dog"])
    assert len(maker.seeds) == 2  # the next seed is no small one: that sound is a good one
    silent = {100: 0.0} | {line_seed(100, n): 0.0 for n in (1, 2, 3)}
    ((one,),) = choose(maker := Maker(silent), ["a dog"])
    assert len(maker.seeds) == 4
    assert one.provenance.selection.fault == "silent"
    assert len(one.provenance.selection.rejected) == 3


def test_guards_can_be_left_out_and_know_what_is_asked_for():
    assert choose(Maker({100: 0.0}), ["a dog"], guards=False)[0][0].provenance.selection is None
    assert choose(Maker({100: 1.0}), ["a man speaking"])[0][0].provenance.selection is None
    assert choose(Maker({100: 1.0}), ["a dog"])[0][0].provenance.selection is not None


def test_candidates_are_ranked_by_the_judge_those_with_faults_last():
    maker = Maker({100: 0.3, 101: 0.0, 102: 0.8, 103: 0.5})
    (ranked, (other, *_)) = choose(maker, ["a dog", "a cat"], best_of=4)
    assert maker.seeds == [100, 101, 102, 103, 200, 201, 202, 203]
    assert [one.request.seed for one in ranked] == [102, 103, 100, 101]
    selections = [one.provenance.selection for one in ranked]
    assert [(s.first_seed, s.rank, s.best_of) for s in selections] == [
        (100, rank, 4) for rank in (1, 2, 3, 4)
    ]
    assert selections[0].judge == "loudness" and selections[0].score > selections[1].score
    assert [s.fault for s in selections] == [None, None, None, "silent"]
    assert other.request.prompt == "a cat"
    best = Provenance.from_dict(ranked[0].provenance.to_dict())
    same = {"model": "m", "revision": None, "vocoder": "v", "best_of": 4}
    assert best.matches(GenerateRequest("a dog", 100), SETTINGS, **same)
    assert not ranked[1].provenance.matches(GenerateRequest("a dog", 100), SETTINGS, **same)


def test_where_the_judge_knows_nothing_the_first_without_a_fault_is_kept():
    (ranked,) = choose(Maker({100: 0.0}), ["unknown"], best_of=3)
    assert [one.request.seed for one in ranked] == [101, 102, 100]
    assert ranked[0].provenance.selection.judge is None


def test_a_candidate_that_fails_is_left_out_and_all_are_a_failure():
    ((one, *others), failed) = choose(Maker(failing={100, 200, 201}), ["a dog", "a cat"], best_of=2)
    assert one.request.seed == 101 and not others
    assert isinstance(failed, GenerateFailure) and failed.request.seed == 200


@pytest.mark.parametrize(
    "damage",
    [
        {"first_seed": -1},
        {"first_seed": "1"},
        {"rank": 0},
        {"best_of": 10**9},
        {"fault": "\x1b[2J"},
        {"judge": "x" * 1000},
        {"rejected": [{"seed": 1, "fault": "silent"}] * 4},
        {"rejected": [{"seed": 1}]},
        {"unknown": 1},
    ],
)
def test_a_hostile_selection_is_refused(damage):
    from auffusion_cli.errors import AudioError

    ((one,),) = choose(Maker({100: 0.0}), ["a dog"])
    record = one.provenance.to_dict()
    record["selection"] |= damage
    with pytest.raises(AudioError, match="not usable"):
        Provenance.from_dict(record)


class Edit:
    """Fills a recording of pulses of noise at full scale / 2 with sound as loud as `levels`."""

    def __init__(self, levels, rest=0.5, rate_hz=16_000):
        self.levels, self.rest, self.rate_hz, self.seeds = levels, rest, rate_hz, []

    def __call__(self, request):
        warnings.warn("tight", AuffusionAdvice, stacklevel=1)
        self.seeds.append(request.seed)
        noise = np.random.default_rng(0).uniform(-1, 1, 3 * self.rate_hz)
        pulses = noise * np.sin(np.arange(len(noise)) / self.rate_hz * 32) ** 2
        level = np.full(len(noise), self.rest)
        level[self.rate_hz : 2 * self.rate_hz] = self.levels.get(request.seed, 0.3)
        samples = np.round(pulses * level * 2**31).astype(np.int32)[:, None]
        record = Provenance(request, SETTINGS, "m", None, "v", "cpu", "fp32", "0" * 64, None)
        return EditResult(Recording(samples, self.rate_hz, "PCM_16", ""), record)


def choose_one_edit(edit, prompt="a dog", **asked):
    request = InpaintRequest("a.wav", "0" * 64, 100, masks=("1-2s",), prompt=prompt)
    chooser = Chooser(Choosing(**asked), LoudnessJudge(), LoudnessJudge())
    return choose_edit(chooser, edit, request)


@pytest.mark.filterwarnings("ignore::auffusion_cli.errors.AuffusionAdvice")
@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_of_a_recording_the_new_part_is_judged(rate_hz):
    edit = Edit({100: 0.2, 101: 0.0, 102: 0.4}, rate_hz=rate_hz)
    ranked = choose_one_edit(edit, best_of=3)
    assert [one.provenance.request.seed for one in ranked] == [102, 100, 101]
    selections = [one.provenance.selection for one in ranked]
    assert [s.fault for s in selections] == [None, None, "silent"]
    assert selections[0].score == pytest.approx(0.4, abs=0.06)


def test_a_faulty_part_is_made_again_and_advice_is_given_once():
    edit = Edit({100: 0.0})
    with pytest.warns(AuffusionAdvice) as told:
        (one,) = choose_one_edit(edit)
    assert edit.seeds == [100, line_seed(100, 1)] and len(told) == 1
    assert one.provenance.request.seed == line_seed(100, 1)
    assert one.provenance.selection.rejected == (Rejected(100, "silent"),)


@pytest.mark.filterwarnings("ignore::auffusion_cli.errors.AuffusionAdvice")
def test_what_the_recording_has_itself_or_no_word_asks_for_is_no_fault():
    assert choose_one_edit(Edit({100: 0.0}, rest=0.0))[0].provenance.selection is None
    assert choose_one_edit(Edit({100: 0.0}), prompt="")[0].provenance.selection is None
    assert choose_one_edit(Edit({100: 1.0}), prompt="")[0].provenance.selection is not None
    assert choose_one_edit(Edit({100: 1.0}, rest=1.0))[0].provenance.selection is None


@pytest.mark.parametrize(("where", "first"), [("after", 2), ("before", 0), ("loop", 2)])
def test_of_an_extension_the_new_part_is_heard(where, first):
    request = ExtendRequest("a.wav", "0" * 64, 1, by_s=1.0, where=where)
    seconds = np.repeat(np.arange(3), 16_000).astype(np.int32)[:, None] << 28
    record = Provenance(request, SETTINGS, "m", None, "v", "cpu", "fp32", "0" * 64, None)
    heard = heard_in(EditResult(Recording(seconds, 16_000, "PCM_32", ""), record))
    assert np.allclose(heard.waveform, first / 8) and len(heard.waveform) == 14_400
    assert heard.words == ""
