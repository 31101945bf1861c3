"""A whole evaluation, with spectra in place of what networks hear."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from auffusion_cli.errors import UsageError
from auffusion_cli.evaluation.frechet import Moments, frechet_distance
from auffusion_cli.evaluation.metrics import KernelDistance, kl_divergences
from auffusion_cli.evaluation.protocols import PROTOCOLS
from auffusion_cli.evaluation.result import Evaluation
from auffusion_cli.signal.audio import write_audio
from auffusion_cli.tasks.evaluate import Networks, evaluate
from fake_networks import FakeClassifier, FakeFrames, FakeText

RATE_HZ = 16_000
EMBEDDED = Networks(FakeClassifier())
PROMPTS = ["rain", "a dog barks and rain", "a bell, then a dog and rain"]


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("auffusion_cli.evaluation.bootstrap.MAX_RESAMPLES", 40)
        patch.setattr("auffusion_cli.evaluation.measure.MAX_RESAMPLES", 40)
        yield


N_CLIPS = 21


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """`made` and `real`: coloured noises, of the same names, one set duller."""
    folder = tmp_path_factory.mktemp("sets")
    for name, colour in (("made", 0.6), ("real", 0.3)):
        (folder / name).mkdir()
        for n in range(N_CLIPS):
            generator = np.random.default_rng([n, round(10 * colour)])
            white = generator.normal(size=RATE_HZ + 200 * n)
            kernel = np.array([1 - colour, colour * generator.uniform()])
            samples = (0.1 * np.convolve(white, kernel, mode="same")).astype(np.float32)
            record = {"prompt": PROMPTS[n % 3]} if name == "made" else None
            write_audio(folder / name / f"{n:02d}.wav", samples, RATE_HZ, provenance=record)
    return folder


@pytest.fixture(scope="module")
def result(sets) -> Evaluation:
    return evaluate({"ours": sets / "made"}, sets / "real", PROTOCOLS["embedded"], EMBEDDED)


def embeddings(folder):
    features = []
    for path in sorted(folder.glob("*.wav")):
        samples = soundfile.read(path, dtype="float32")[0]
        samples = np.pad(samples - samples.mean(), (0, max(0, 32_000 - len(samples))))
        features += FakeClassifier().embed([torch.from_numpy(samples)])
    rows = np.concatenate([each.embeddings for each in features])
    return rows, np.stack([each.logits for each in features])


def test_the_numbers_are_those_of_the_definitions_and_named_after_the_network(sets, result):
    (made, made_logits), (real, real_logits) = (embeddings(sets / n) for n in ("made", "real"))
    (system,) = result.systems
    fd = system.metric("FD-tagger")
    assert fd.value == pytest.approx(frechet_distance(Moments.of(made), Moments.of(real)), rel=1e-4)
    assert fd.ci_95[0] < fd.value < fd.ci_95[1] and fd.n == N_CLIPS
    assert f"{N_CLIPS} clips are few" in fd.note
    kad = system.metric("KAD-tagger")
    assert kad.value == pytest.approx(KernelDistance(made, real).of(), rel=1e-3)
    divergences = kl_divergences(made_logits, real_logits)
    assert system.metric("KL-tagger").value == pytest.approx(divergences.mean(), rel=1e-3)
    assert [row.scores["KL-tagger"] for row in system.rows] == pytest.approx(
        list(divergences), rel=1e-2, abs=1e-5
    )
    assert 1 < system.metric("IS-tagger").value < 5
    assert system.metric("FD-inf-tagger").value is None
    assert {metric.name.removesuffix("-tagger") for metric in system.metrics} == {
        *("FD", "KL", "IS", "KAD", "FD-inf"),
    }
    assert all(metric.name.endswith("-tagger") for metric in system.metrics)
    assert "never with those of a paper" in result.notes[0]


def test_numbers_are_told_by_events_in_the_prompt(result):
    (system,) = result.systems
    groups = [system.metric("KL-tagger", group) for group in ("1 event", "2 events")]
    groups.append(system.metric("KL-tagger", "3 or more events"))
    assert [metric.n for metric in groups] == [N_CLIPS // 3] * 3
    whole = system.metric("KL-tagger").value
    assert np.mean([metric.value for metric in groups]) == pytest.approx(whole)
    assert [row.n_events for row in system.rows[:3]] == [1, 2, 3]


def test_the_same_sets_give_the_same_result_byte_for_byte(sets, result):
    again = evaluate({"ours": sets / "made"}, sets / "real", PROTOCOLS["embedded"], EMBEDDED)
    assert again.to_json() == result.to_json()


def test_a_set_against_itself_has_no_distance(sets):
    real = sets / "real"
    (system,) = evaluate({"real": real}, real, PROTOCOLS["embedded"], EMBEDDED).systems
    assert system.metric("FD-tagger").value == 0.0
    assert system.metric("KL-tagger").value == pytest.approx(0, abs=1e-4)
    assert {finding.flag for finding in system.clips.findings} == {"in-reference"}


def test_the_papers_networks_give_the_papers_names(sets):
    protocol = PROTOCOLS["auffusion-2024"]
    classifier = FakeClassifier()
    classifier.name = "cnn14"
    networks = Networks(classifier, FakeFrames(), FakeText())
    result = evaluate({"ours": sets / "made"}, sets / "real", protocol, networks)
    (system,) = result.systems
    assert list(dict.fromkeys(metric.name for metric in system.metrics)) == [
        *("FD", "FAD", "KL", "KL-sigmoid", "IS", "CLAP", "KAD", "FD-inf", "FAD-inf"),
    ]
    assert set(result.backbones) == {"cnn14", "vggish", "clap"}
    clap = system.metric("CLAP")
    assert (clap.backbone, clap.better, clap.n) == ("clap", "higher", N_CLIPS)
    assert clap.value == pytest.approx(np.mean([row.scores["CLAP"] for row in system.rows]))
    # All frames of all clips are pooled: more rows than clips.
    assert system.metric("FAD").n == N_CLIPS and system.metric("FAD").value > 0


def test_without_a_reference_there_is_what_needs_none(sets):
    (system,) = evaluate({"ours": sets / "made"}, None, PROTOCOLS["embedded"], EMBEDDED).systems
    assert [metric.name for metric in system.metrics] == ["IS-tagger"]
    assert system.rows[0].reference_path is None and system.rows[0].scores == {}


def test_mismatched_names_give_no_kl_but_a_reason_and_the_names(sets, tmp_path):
    for n in range(N_CLIPS):
        shift = 1 if n < 3 else 100  # eighteen without a partner
        name = f"{n + shift:02d}.wav"
        (tmp_path / name).write_bytes((sets / f"made/{n:02d}.wav").read_bytes())
    result = evaluate({"ours": tmp_path}, sets / "real", PROTOCOLS["embedded"], EMBEDDED)
    (system,) = result.systems
    kl = system.metric("KL-tagger")
    assert kl.value is None and kl.n == 3
    assert "3 of 21 generated and 21 reference files have a partner" in kl.note
    alone = [f.path for f in system.clips.findings if f.flag == "no-partner"]
    assert len(alone) == 18 and "103.wav" in alone
    assert len(system.reference_without_partner) == 18
    assert any("ours: 18 of 21 sounds have no partner in the reference" in n for n in result.notes)
    assert system.metric("FD-tagger").value > 0


def test_two_clips_are_measured_as_far_as_they_go(sets, tmp_path):
    for name in ("00.wav", "01.wav"):
        (tmp_path / name).write_bytes((sets / "made" / name).read_bytes())
    result = evaluate({"ours": tmp_path}, sets / "real", PROTOCOLS["embedded"], EMBEDDED)
    (system,) = result.systems
    assert system.metric("FD-tagger").value > 0
    assert "2 clips are few (under 500)" in system.metric("FD-tagger").note
    assert system.metric("IS-tagger").value is None
    assert system.metric("IS-tagger").note == "needs 20 clips"
    kad = system.metric("KAD-tagger")
    assert kad.value is not None and kad.ci_95 is None and kad.n_resamples == 0
    assert kad.note == "no interval: needs 3 clips in each folder"
    Evaluation.from_json(result.to_json(), "it")


def test_of_three_clips_kad_has_an_interval_of_the_resamples_that_have_a_distance(sets, tmp_path):
    for name in ("00.wav", "01.wav", "02.wav"):
        (tmp_path / name).write_bytes((sets / "made" / name).read_bytes())
    result = evaluate({"ours": tmp_path}, sets / "real", PROTOCOLS["embedded"], EMBEDDED)
    kad = result.systems[0].metric("KAD-tagger")
    low, high = kad.ci_95
    assert low < kad.value < high
    assert 20 < kad.n_resamples < 40  # one in nine has one clip alone


def test_one_clip_and_silence_break_nothing(tmp_path):
    for folder in ("made", "real"):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / "a.wav", np.zeros(RATE_HZ), RATE_HZ)
    result = evaluate(
        {"ours": tmp_path / "made"}, tmp_path / "real", PROTOCOLS["embedded"], EMBEDDED
    )
    (system,) = result.systems
    assert system.metric("FD-tagger").value is None
    assert system.metric("KAD-tagger").value is None
    assert any("ours: 1 of 1 sounds is silent: a.wav" in note for note in result.notes)
    Evaluation.from_json(result.to_json(), "it")


def test_a_folder_of_one_sound_against_itself_has_reasons_instead_of_numbers(tmp_path):
    for n in range(12):
        soundfile.write(tmp_path / f"{n}.wav", np.zeros(RATE_HZ), RATE_HZ)
    (system,) = evaluate({"s": tmp_path}, tmp_path, PROTOCOLS["embedded"], EMBEDDED).systems
    assert system.metric("KAD-tagger").note == "half of the reference or more is one sound"
    assert system.metric("FD-tagger").value == 0.0
    flags = {row.name: set(row.flags) for row in system.rows}
    assert flags["0"] == {"silent", "in-reference"}
    assert flags["1"] == {"silent", "duplicate", "in-reference"}


def test_captions_replace_what_the_files_say(sets):
    captions = {"00": "a horn", "01": "a horn and wind", "zz": "nobody"}
    result = evaluate(
        {"ours": sets / "made"}, None, PROTOCOLS["embedded"], EMBEDDED, captions=captions
    )
    prompts = [row.prompt for row in result.systems[0].rows]
    assert prompts == ["a horn", "a horn and wind", *[None] * (N_CLIPS - 2)]
    assert "the list of prompts: 1 of 3 names in it belong to no sound: zz" in result.notes
    assert any(
        "ours: 19 of 21 sounds have no prompt in the list: 02.wav, 03.wav, 04.wav and 16 more"
        in note
        for note in result.notes
    )
    with pytest.raises(UsageError, match="names none of the 21 sounds"):
        evaluate(
            {"ours": sets / "made"}, None, PROTOCOLS["embedded"], EMBEDDED, captions={"x": "y"}
        )


def test_two_systems_share_the_reference_which_is_heard_once(sets, monkeypatch):
    heard = []
    embed = FakeClassifier.embed

    def counted(self, waveforms):
        heard.append(len(waveforms))
        return embed(self, waveforms)

    monkeypatch.setattr(FakeClassifier, "embed", counted)
    systems = {"a": sets / "made", "b": sets / "real"}
    result = evaluate(systems, sets / "real", PROTOCOLS["embedded"], EMBEDDED)
    assert [system.name for system in result.systems] == ["a", "b"]
    assert sum(heard) == 3 * N_CLIPS
    assert result.systems[0].clips.sha256 != result.systems[1].clips.sha256
    assert result.systems[1].clips.sha256 == result.reference.sha256


def test_features_come_from_the_cache_by_content(sets, tmp_path, monkeypatch):
    def run(folder):
        return evaluate({"x": folder}, None, PROTOCOLS["embedded"], EMBEDDED, cache=tmp_path / "c")

    first = run(sets / "made")
    monkeypatch.setattr(FakeClassifier, "embed", lambda *_: pytest.fail("heard again"))
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in (sets / "made").iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    again = run(moved)
    assert again.systems[0].metrics == first.systems[0].metrics
    assert replace(again.systems[0].clips, folder="") == replace(first.systems[0].clips, folder="")
