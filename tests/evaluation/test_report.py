"""The page of an evaluation: what is in it, what is kept out, and that it is whole or absent."""

import base64
import dataclasses
import hashlib
import json
import re
import warnings
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from auffusion_cli.errors import (
    AuffusionWarning,
    DataError,
    OutputExistsError,
    UsageError,
)
from auffusion_cli.evaluation import report
from auffusion_cli.evaluation.pages import shown
from auffusion_cli.evaluation.report import files_folder, write_report
from auffusion_cli.evaluation.report_html import stands_apart
from auffusion_cli.evaluation.result import Evaluation, FlaggedFile, Metric
from auffusion_cli.signal.audio import read_audio
from report_sets import HOSTILE, make_evaluation


class Page(HTMLParser):
    """The elements of a page, in order, and the text of each kind."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.texts, self._inside = [], {}, []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "input"):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data):
        if self._inside:
            self.texts.setdefault(self._inside[-1], []).append(data)


def clips_of(path):
    """The data that the page draws, with the file in each sound."""
    data = json.loads(Page(path.read_text("utf-8")).texts["script"][0])
    for clip in data["clips"]:
        for sound in filter(None, [*clip["sounds"], clip["reference"]]):
            sound |= data["files"][sound["file"]]
    return data


def content_of(address):
    return base64.b64decode(address.partition("base64,")[2])


@pytest.fixture
def evaluation(tmp_path):
    return make_evaluation(tmp_path / "sets", n_clips=3)


def test_a_small_set_is_one_file_with_the_measured_sounds_inside(evaluation, tmp_path):
    path = tmp_path / "out" / "report.html"
    written = write_report(evaluation, path)
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    assert (written.page, written.folder, written.n_bytes) == (path, None, path.stat().st_size)

    data = clips_of(path)
    assert data["systems"] == ["ours", "tango"] and len(data["clips"]) == 3
    for clip, row in zip(data["clips"], evaluation.systems[0].rows, strict=True):
        assert (clip["name"], clip["prompt"]) == (row.name, row.prompt)
        ours = clip["sounds"][0]
        assert ours["scores"] == row.scores
        source = tmp_path / "sets" / "ours" / row.path
        assert content_of(ours["sound"]) == source.read_bytes()
        real = tmp_path / "sets" / "reference" / row.reference_path
        assert content_of(clip["reference"]["sound"]) == real.read_bytes()
        assert ours["duration"] == pytest.approx(row.duration_s, abs=1e-3)
        picture = Image.open(BytesIO(content_of(ours["picture"])))
        assert picture.format == "WEBP" and picture.height == report.PICTURE_HEIGHT_PX


def test_maps_of_attention_are_inside_with_their_prompts(evaluation, tmp_path):
    drawn = tmp_path / "map.png"
    Image.new("RGB", (3, 2), "blue").save(drawn)
    attention = [(HOSTILE[0], drawn), ("rain", drawn)]
    write_report(evaluation, tmp_path / "page.html", attention=attention)
    page = Page((tmp_path / "page.html").read_text("utf-8"))
    images = [content_of(each["src"]) for tag, each in page.elements if tag == "img"]
    assert images == [drawn.read_bytes()] * 2
    regions = [each["aria-label"] for _, each in page.elements if "aria-label" in each]
    assert regions[-2:] == [HOSTILE[0], "rain"]


def test_nothing_is_fetched_from_elsewhere(evaluation, tmp_path):
    path = tmp_path / "report.html"
    write_report(evaluation, path)
    source = path.read_text("utf-8")
    for tag, attributes in Page(source).elements:
        for name in ("src", "href", "srcset", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    assert not re.search(r"https?://|@import|url\(", source.replace("data:,", ""))
    policy = next(a["content"] for _, a in Page(source).elements if "http-equiv" in a)
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy


def test_numbers_stand_in_the_page_without_a_script(evaluation, tmp_path):
    path = tmp_path / "report.html"
    write_report(evaluation, path)
    source = path.read_text("utf-8")
    assert "31.40" in source and "29.10 to 33.70" in source and "n = 3" in source
    assert "lower is better" in source and "compare with nothing else" in source
    assert source.count("<svg") == len(evaluation.systems[0].metrics)


def test_a_number_stands_apart_only_without_overlap():
    def metric(value, low, high, better="lower"):
        return Metric("FD", value, (low, high), 100, 10, better, "", "tagger")

    best, near, far = metric(10, 9, 11), metric(11.5, 10.5, 12), metric(20, 18, 22)
    assert stands_apart(best, [best, far])
    assert not stands_apart(best, [best, near])
    assert not stands_apart(far, [best, far])
    assert not stands_apart(best, [best])
    assert not stands_apart(best, [best, None])
    high = dataclasses.replace(far, better="higher")
    assert stands_apart(high, [dataclasses.replace(best, better="higher"), high])
    assert not stands_apart(best, [best, dataclasses.replace(far, ci_95=None)])


def test_numbers_close_together_are_shown_apart_and_zero_has_no_sign(evaluation, tmp_path):
    def system(name, value, low, high):
        zero = Metric("KL-tagger", -1e-17, (-1e-17, -0.0), 100, 3, "lower", "nats", "t")
        entropy = Metric("attention-entropy", value, (low, high), 100, 3, "lower", "", "t")
        rows = [
            dataclasses.replace(row, scores={"attention-entropy": value + i / 10_000})
            for i, row in enumerate(evaluation.systems[0].rows)
        ]
        return dataclasses.replace(
            evaluation.systems[0], name=name, metrics=(zero, entropy), rows=tuple(rows)
        )

    systems = (system("a", 0.99712, 0.9966, 0.9978), system("b", 0.99734, 0.9968, 0.998))
    path = tmp_path / "report.html"
    write_report(dataclasses.replace(evaluation, systems=systems), path)
    source = path.read_text("utf-8")
    assert "0.9966 to 0.9978" in source and "0.9971<" in source and "0.9973<" in source
    assert "0.000 to 0.000" in source and "−0.000" not in source
    assert clips_of(path)["scores"][0]["decimals"] == 5


def test_a_note_on_some_systems_names_them(evaluation, tmp_path):
    ours, tango = evaluation.systems
    kl = ours.metric("KL-tagger")
    ours = dataclasses.replace(ours, metrics=(dataclasses.replace(kl, note="about one"),))
    tango = dataclasses.replace(tango, metrics=(dataclasses.replace(kl, note="about another"),))
    path = tmp_path / "report.html"
    write_report(dataclasses.replace(evaluation, systems=(ours, tango)), path)
    remarks = re.findall(r'<span class="remark">(.*?)</span>', path.read_text("utf-8"))
    assert [re.sub("<.*?>", "", remark) for remark in remarks] == [
        "ours: about one",
        "tango: about another",
    ]
    write_report(evaluation, path, overwrite=True)
    assert "ours: compare with" not in re.sub("<.*?>", "", path.read_text("utf-8"))


def test_the_title_is_text(evaluation, tmp_path):
    path = tmp_path / "report.html"
    write_report(evaluation, path)
    assert Page(path.read_text("utf-8")).texts["title"][0] == "ours and tango against reference"


def test_what_the_guards_found_is_listed(evaluation, tmp_path):
    found = (
        FlaggedFile("silent", "0001.wav", "nothing above -60 dBFS", False),
        FlaggedFile("unreadable", "x<y>.wav", "not audio", True),
    )
    ours = evaluation.systems[0]
    clips = dataclasses.replace(ours.clips, n_files=4, n_used=3, findings=found)
    ours = dataclasses.replace(ours, clips=clips, reference_without_partner=("alone.wav",))
    path = tmp_path / "report.html"
    write_report(dataclasses.replace(evaluation, systems=(ours,)), path)
    source = path.read_text("utf-8")
    for words in ("3 of 4 files measured, 1 left out", "x&lt;y&gt;.wav", "alone.wav", "-60 dBFS"):
        assert words in source


# --- hostile texts and paths


@pytest.mark.parametrize("words", HOSTILE)
def test_a_hostile_text_stays_text_wherever_it_stands(evaluation, tmp_path, words):
    plain = tmp_path / "plain.html"
    write_report(evaluation, plain)
    ours, other = evaluation.systems
    row = dataclasses.replace(ours.rows[0], prompt=words, name=words)
    metric = dataclasses.replace(ours.metrics[0], note=words)
    finding = FlaggedFile("silent", words, words, False)
    findings = dataclasses.replace(ours.clips, findings=(finding,))
    ours = dataclasses.replace(
        ours, name=words, rows=(row, *ours.rows[1:]), metrics=(metric,), clips=findings
    )
    hostile = dataclasses.replace(
        evaluation,
        systems=(ours, other),
        protocol=words,
        notes=(words,),
        settings={words: words},
        versions={words: words},
    )
    path = tmp_path / "hostile.html"
    write_report(hostile, path)
    data = clips_of(path)
    assert shown(words) in [clip["prompt"] for clip in data["clips"]]
    page, before = Page(path.read_text("utf-8")), Page(plain.read_text("utf-8"))
    # Only elements that the plain page has as well, and as many scripts and styles as there.
    assert {tag for tag, _ in page.elements} <= {t for t, _ in before.elements} | {
        "ul",
        "details",
    } | {"summary"}
    for tag in ("script", "style", "img", "iframe", "link", "meta"):
        assert [t for t, _ in page.elements].count(tag) == [t for t, _ in before.elements].count(
            tag
        )
    names = {name for _, attributes in page.elements for name in attributes}
    assert not any(name.startswith("on") for name in names)


def test_what_cannot_be_seen_is_spelled_out():
    assert shown("a\u202egnp.wav") == "a\\u202egnp.wav"
    assert shown("\udc80") == "\\udc80"  # a name of a file that is not UTF-8
    for words in ("ünï 👩‍🚀 דבר", "\u200fדבר!\u200e"):
        assert shown(words) == words


@pytest.mark.parametrize(
    "name", ["../secret.wav", "/etc/secret.wav", "a/../../secret.wav", "..\\secret.wav"]
)
@pytest.mark.parametrize("field", ["path", "reference_path"])
def test_a_path_out_of_its_folder_is_refused(evaluation, tmp_path, field, name):
    ours = evaluation.systems[0]
    row = dataclasses.replace(ours.rows[0], **{field: name})
    ours = dataclasses.replace(ours, rows=(row,))
    path = tmp_path / "out" / "report.html"
    with pytest.raises(DataError, match="cannot be one of its sounds"):
        write_report(dataclasses.replace(evaluation, systems=(ours,)), path)
    assert not path.parent.exists()


@pytest.mark.parametrize("name", ["C:\\a.wav", "C:a.wav", "\\\\host\\a.wav", "a\0.wav", "passwd"])
def test_other_ways_out_are_refused(name):
    with pytest.raises(DataError):
        report._inside(name)


def test_only_the_sound_that_was_measured_is_shown(evaluation, tmp_path):
    folder = tmp_path / "sets" / "ours"
    first, second, third = evaluation.systems[0].rows
    (folder / first.path).write_bytes((folder / second.path).read_bytes())
    (folder / second.path).unlink()
    (folder / third.path).write_bytes(b"RIFF")
    path = tmp_path / "report.html"
    with pytest.warns(AuffusionWarning, match="3 sounds are missing"):
        write_report(evaluation, path)
    ours = [clip["sounds"][0] for clip in clips_of(path)["clips"]]
    assert ours[0]["problem"] == "has changed since it was measured"
    assert all(sound["problem"] and sound["sound"] is None for sound in ours)


# --- whole, or not there


def test_a_large_set_has_its_sounds_in_a_folder_beside(evaluation, tmp_path):
    path = tmp_path / "out" / "a #1?.html"
    written = write_report(evaluation, path, embedded_bytes=1000)
    folder = files_folder(path)
    assert written.folder == folder and folder.is_dir()
    assert "in the folder" in path.read_text("utf-8")
    clip = clips_of(path)["clips"][0]
    address = clip["sounds"][0]["sound"]
    assert address.startswith("a%20%231%3F-files/")
    copy = folder / address.rpartition("/")[2]
    source = tmp_path / "sets" / "ours" / evaluation.systems[0].rows[0].path
    assert copy.read_bytes() == source.read_bytes()
    # Three clips of two systems and a reference, each a sound and a picture.
    assert len(list(folder.iterdir())) == 3 * 3 * 2
    assert written.n_bytes == path.stat().st_size + sum(f.stat().st_size for f in folder.iterdir())


def test_sounds_that_no_browser_plays_become_flac(evaluation, tmp_path):
    ours = evaluation.systems[0]
    wav = Path(ours.clips.folder, ours.rows[0].path)
    samples, rate_hz = soundfile.read(wav)
    soundfile.write(wav.with_suffix(".aiff"), samples, rate_hz)
    digest = hashlib.sha256(wav.with_suffix(".aiff").read_bytes()).hexdigest()
    row = dataclasses.replace(ours.rows[0], path=f"{wav.stem}.aiff", sha256=digest)
    ours = dataclasses.replace(ours, rows=(row,))
    path = tmp_path / "report.html"
    write_report(dataclasses.replace(evaluation, systems=(ours,)), path, embedded_bytes=0)
    (flac,) = files_folder(path).glob("*.flac")
    np.testing.assert_array_equal(soundfile.read(flac)[0], samples)


def test_nothing_is_replaced_unless_asked(evaluation, tmp_path):
    path = tmp_path / "report.html"
    write_report(evaluation, path, embedded_bytes=0)
    before = path.read_bytes()
    with pytest.raises(OutputExistsError, match="exists"):
        write_report(evaluation, path)
    assert path.read_bytes() == before
    path.unlink()
    with pytest.raises(OutputExistsError, match="report-files exists"):
        write_report(evaluation, path)
    write_report(evaluation, path, overwrite=True)  # fits inside: the old folder goes
    assert not files_folder(path).exists()
    write_report(evaluation, path, overwrite=True, embedded_bytes=0)
    assert files_folder(path).exists()


def test_a_folder_with_other_files_is_never_replaced(evaluation, tmp_path):
    path = tmp_path / "report.html"
    files_folder(path).mkdir()
    (files_folder(path) / "thesis.doc").write_text("three years")
    with pytest.raises(OutputExistsError, match="no report has written"):
        write_report(evaluation, path, overwrite=True, embedded_bytes=0)
    assert (files_folder(path) / "thesis.doc").exists()


@pytest.mark.parametrize("name", ["report.txt", "report", "folder.html"])
def test_names_that_cannot_be_are_told(evaluation, tmp_path, name):
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UsageError, match="--report"):
        write_report(evaluation, tmp_path / name)


@pytest.mark.parametrize("where", ["draw", "render", "rename"])
def test_what_is_stopped_leaves_everything_as_it_was(evaluation, tmp_path, monkeypatch, where):
    path = tmp_path / "out" / "report.html"
    write_report(evaluation, path, embedded_bytes=0)
    before = {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    if where == "rename":
        monkeypatch.setattr(report.os, "replace", stop)
    else:
        monkeypatch.setattr(report, where, stop)
    with pytest.raises(KeyboardInterrupt):
        write_report(evaluation, path, overwrite=True, embedded_bytes=0)
    assert {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()} == before
    assert len(list(path.parent.iterdir())) == 2


# --- pictures and shapes of results


def test_silence_is_drawn_dark_and_a_click_can_be_drawn():
    silence = Image.open(BytesIO(report.draw(torch.zeros(16000)))).convert("L")
    noise = Image.open(BytesIO(report.draw(torch.rand(16000) - 0.5))).convert("L")
    assert np.max(silence) < 20 < 100 < np.mean(noise)
    assert Image.open(BytesIO(report.draw(torch.ones(3)))).width == report.MIN_PICTURE_WIDTH_PX


def test_systems_need_not_have_the_same_clips_prompts_or_a_reference(evaluation, tmp_path):
    ours, other = evaluation.systems
    alone = dataclasses.replace(
        ours.rows[0], prompt=None, n_events=None, reference_path=None, scores={}
    )
    evaluation = dataclasses.replace(
        evaluation,
        reference=None,
        systems=(
            dataclasses.replace(ours, rows=(alone,)),
            dataclasses.replace(other, rows=other.rows[1:], metrics=other.metrics[:1]),
        ),
    )
    path = tmp_path / "report.html"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(evaluation, path)
    clips = clips_of(path)["clips"]
    assert [[s is not None for s in clip["sounds"]] for clip in clips] == [
        [True, False],
        [False, True],
        [False, True],
    ]
    assert all(clip["reference"] is None for clip in clips)


def test_a_result_read_back_gives_the_same_page(evaluation, tmp_path):
    again = Evaluation.from_json(evaluation.to_json(), "result.json")
    write_report(evaluation, tmp_path / "a.html")
    write_report(again, tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_progress_counts_every_sound(evaluation, tmp_path):
    told = []
    write_report(evaluation, tmp_path / "a.html", on_sound=lambda done, n: told.append((done, n)))
    assert told == [(i, 9) for i in range(1, 10)]


def test_the_sounds_of_the_sets_are_left_alone(evaluation, tmp_path):
    before = {p: p.read_bytes() for p in (tmp_path / "sets").rglob("*.wav")}
    write_report(evaluation, tmp_path / "a.html", embedded_bytes=0)
    assert {p: p.read_bytes() for p in (tmp_path / "sets").rglob("*.wav")} == before
    assert read_audio(next(iter(before)))[1] == 16000
