"""Results: to JSON and back, and what is refused."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auffusion_cli.errors import DataError
from auffusion_cli.evaluation.compare import compare
from auffusion_cli.evaluation.result import (
    BackboneRecord,
    ClipSet,
    Evaluation,
    FlaggedFile,
    Metric,
    ScoredClip,
    System,
)


def clip(name, kl=1.0, prompt="rain", n_events=1):
    return ScoredClip(
        name, f"{name}.wav", "ab", 1.5, f"{name}.wav", prompt, n_events, {"KL": kl}, ()
    )


def evaluation(name="ours", rows=None, fd=10.0, **changes):
    rows = rows or (clip("a"), clip("b", 2.0), clip("c", 3.0))
    kl = sum(row.scores["KL"] for row in rows) / len(rows)
    finding = FlaggedFile("silent", "a.wav", "nothing above -60 dBFS", excluded=False)
    metrics = (
        Metric("FD", fd, (fd - 1, fd + 1), 100, len(rows), "lower", "", "cnn14"),
        Metric("KL", kl, (0.5, 3.5), 500, len(rows), "lower", "nats", "cnn14"),
        Metric("KL", kl, None, 0, len(rows), "lower", "nats", "cnn14", subset="1 event"),
        Metric("CLAP", None, None, 0, 0, "higher", "cosine", "clap", note="no prompts"),
    )
    made = ClipSet("made", 3, 3, "c0", (finding,))
    whole = Evaluation(
        protocol="auffusion-2024",
        settings={"bootstrap_seed": 0, "prompts_from": "files"},
        backbones={"cnn14": BackboneRecord("cnn14", "cnn14", "d0", "e0", 16_000)},
        reference=ClipSet("real", 4, 4, "f0", ()),
        systems=(System(name, made, "aa", metrics, tuple(rows), ("d.wav",)),),
        versions={"auffusion": "1"},
        notes=("mind this",),
    )
    return replace(whole, **changes)


def test_a_result_comes_back_from_its_file(tmp_path):
    path = tmp_path / "deep/result.json"
    evaluation().save(path)
    assert Evaluation.load(path) == evaluation()
    assert list(path.parent.iterdir()) == [path]


def test_a_metric_is_found_by_name_and_subset():
    (system,) = evaluation().systems
    assert system.metric("KL").n_resamples == 500
    assert system.metric("KL", "1 event").ci_95 is None
    assert system.metric("FAD") is None


def test_numbers_that_json_has_not_are_refused():
    with pytest.raises(ValueError, match="JSON"):
        evaluation(fd=float("nan")).to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(format_version=2), "format 1"),
        (lambda r: r.pop("protocol"), "protocol is missing"),
        (lambda r: r.update(more=1), "more: unknown name"),
        (lambda r: r.update(systems={}), "systems is {}, not a list"),
        (
            lambda r: r["systems"][0]["metrics"][0].update(better="up"),
            'better is "up", not one of higher, lower',
        ),
        (
            lambda r: r["systems"][0]["metrics"][0].update(value="10"),
            'value is "10", not a finite number',
        ),
        (
            lambda r: r["systems"][0]["metrics"][0].update(value=True),
            "value is true, not a finite number",
        ),
        (
            lambda r: r["systems"][0]["metrics"][0].update(ci_95=[1]),
            r"ci_95 is \[1\], not a list of 2",
        ),
        (
            lambda r: r["systems"][0]["rows"][0].update(flags=["x"]),
            r'flags\[0\] is "x", not one of unreadable',
        ),
        (
            lambda r: r["systems"][0]["rows"][0].update(n_events=1.5),
            "n_events is 1.5, not a whole number",
        ),
        (lambda r: r["settings"].update(seed=[]), r"settings.seed is \[\]"),
    ],
)
def test_results_of_another_form_are_refused_with_the_place(tmp_path, change, message):
    record = json.loads(evaluation().to_json())
    change(record)
    (tmp_path / "r.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=message):
        Evaluation.load(tmp_path / "r.json")


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    st.sampled_from(["systems", "reference", "settings", "backbones", "notes"]),
)
def test_any_json_is_a_result_or_an_error(value, field):
    record = json.loads(evaluation().to_json()) | {field: value}
    try:
        assert Evaluation.from_json(json.dumps(record), "x").format_version == 1
    except DataError as error:
        assert "x: not a result" in str(error)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000, b'{"a": NaN}'])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(DataError):
        Evaluation.load(tmp_path / "r.json")


# --- two results


def test_differences_have_an_interval_clip_by_clip_where_there_are_scores():
    better = tuple(clip(name, kl) for name, kl in (("a", 0.8), ("b", 1.8), ("c", 2.8)))
    (differences,) = compare(evaluation(), evaluation("theirs", better, fd=9.0)).values()
    fd, kl, kl_single, clap = differences
    assert fd.change == -1.0
    # Two intervals of ±1 that know nothing of each other.
    assert fd.ci_95 == pytest.approx((-1 - 2**0.5, -1 + 2**0.5))
    # Each clip is better by 0.2, so there is no doubt about the mean, for all that clips differ.
    assert kl.change == pytest.approx(-0.2)
    assert kl.ci_95 == pytest.approx((-0.2, -0.2))
    assert kl_single.subset == "1 event" and kl_single.ci_95 == pytest.approx((-0.2, -0.2))
    assert clap.change is None and clap.ci_95 is None


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (evaluation(protocol="tango"), "the protocols are auffusion-2024 and tango"),
        (evaluation(reference=None), "only one has a reference"),
        (
            evaluation(reference=ClipSet("real", 4, 4, "00", ())),
            r"references real \(4 files, f0\) and real \(4 files, 00\) are not the same",
        ),
        (
            evaluation(backbones={"cnn14": BackboneRecord("cnn14", "cnn14", "99", "e1", 16_000)}),
            "the weights of cnn14 differ",
        ),
        (
            evaluation(rows=(clip("a"), clip("b"), clip("z"))),
            r"1 clips \(c\) in ours and not in ours; 1 clips \(z\)",
        ),
        (
            evaluation(rows=(clip("a"), clip("b"), clip("c", prompt="wind"))),
            r"other prompts for 1 clips \(c\)",
        ),
    ],
)
def test_results_on_different_sets_are_not_compared(other, message):
    with pytest.raises(DataError, match=message):
        compare(evaluation(), other)


def test_of_several_systems_those_of_one_name_are_compared():
    ours, theirs = evaluation("ours").systems[0], evaluation("theirs").systems[0]
    both = evaluation(systems=(ours, theirs))
    assert list(compare(both, evaluation("theirs"))) == ["theirs → theirs"]
    with pytest.raises(DataError, match="share no system: one has ours, theirs, one has other"):
        compare(both, evaluation("other"))
