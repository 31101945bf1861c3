"""Features of many clips: order, batches, the cache by content, faults."""

import itertools
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchaudio.functional import resample

from auffusion_cli.errors import AudioError, AuffusionWarning
from auffusion_cli.evaluation import features
from auffusion_cli.evaluation.embedders import ClipFeatures, by_length, identity
from auffusion_cli.evaluation.features import extract, prepare_clip, read_clip
from auffusion_cli.evaluation.protocols import CLAP_INPUT, FAD_2023, WAVE_DATASET, AudioInput
from auffusion_cli.signal.audio import write_audio

PLAIN = AudioInput("first", subtract_mean=False, sample_rate_hz=16_000)


class Meter:
    """An embedder that can be checked by hand: length and peak of each clip."""

    name, weights_sha256, embedding_dim, n_classes = "meter", "0" * 64, 2, 1
    device = torch.device("cpu")

    def __init__(self, audio_input: AudioInput = PLAIN) -> None:
        self.audio_input = audio_input
        self.batches: list[int] = []

    @property
    def n_embedded(self) -> int:
        return sum(self.batches)

    def embed(self, waveforms):
        self.batches.append(len(waveforms))
        return [
            ClipFeatures(
                np.array([[len(x), x.abs().max()]], np.float32), np.array([x[0]], np.float32)
            )
            for x in waveforms
        ]


@pytest.fixture
def clips(tmp_path) -> list[Path]:
    """40 clips, of 0.11 s to 0.5 s: more than two windows."""
    paths = []
    for i in range(40):
        path = tmp_path / f"{i:02}.wav"
        write_audio(path, torch.full((1600 + 160 * i,), (i + 1) / 64), 16_000)
        paths.append(path)
    return paths


def lengths(found) -> list[int]:
    return [int(clip.embeddings[0, 0]) for clip in found]


def test_in_the_order_of_the_files(clips):
    meter = Meter()
    found = list(extract(clips, meter, cache=None))
    assert lengths(found) == [1600 + 160 * i for i in range(40)]
    peaks = [clip.embeddings[0, 1] for clip in found]
    np.testing.assert_allclose(peaks, [(i + 1) / 64 for i in range(40)], atol=1e-4)
    assert meter.n_embedded == 40 and 4 <= max(meter.batches) <= features.WINDOW_CLIPS
    assert list(extract([], meter, cache=None)) == []


def test_only_what_is_asked_for_is_read(clips, monkeypatch):
    read = []
    monkeypatch.setattr(features, "read_clip", lambda path, _: read.append(path) or torch.ones(9))
    found = extract(
        itertools.islice(itertools.cycle(clips), 500), Meter(), cache=None, sha256s=["0" * 64] * 500
    )
    next(found)
    found.close()
    assert len(read) <= 2 * features.WINDOW_CLIPS


def test_of_long_files_fewer_are_read_ahead(clips, monkeypatch):
    """Two of the first files, or one of the last, which alone have more samples than allowed."""
    monkeypatch.setattr(features, "MAX_SAMPLES_AHEAD", 4_000)
    in_memory, most = set(), []

    def read_clip(path, _):
        in_memory.add(path)
        most.append(len(in_memory))
        return torch.full((9,), float(path.stem))

    class Tracker(Meter):
        def embed(self, waveforms):
            in_memory.difference_update(clips[int(x[0])] for x in waveforms)
            return super().embed(waveforms)

    monkeypatch.setattr(features, "read_clip", read_clip)
    tracker = Tracker()
    assert len(list(extract(clips, tracker, cache=None))) == 40
    assert max(tracker.batches) == 2 and tracker.batches[-1] == 1
    assert max(most) <= 4  # those in the network, and those that are read meanwhile


def test_what_a_network_raises_is_raised(clips):
    class Broken(Meter):
        def embed(self, waveforms):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        list(extract(clips, Broken(), cache=None))


def test_a_second_run_embeds_nothing(clips, tmp_path):
    cache = tmp_path / "cache"
    first = list(extract(clips, Meter(), cache=cache))
    moved = [path.rename(path.with_name(f"moved {path.name}")) for path in clips]
    meter = Meter()
    again = list(extract(moved, meter, cache=cache))
    assert meter.n_embedded == 0
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.embeddings, b.embeddings)
        np.testing.assert_array_equal(a.logits, b.logits)


def test_a_changed_file_is_embedded_again(clips, tmp_path):
    list(extract(clips, Meter(), cache=tmp_path))
    write_audio(clips[3], torch.ones(800) / 2, 16_000)
    meter = Meter()
    assert lengths(extract(clips, meter, cache=tmp_path))[2:5] == [1920, 800, 2240]
    assert meter.n_embedded == 1


@pytest.mark.parametrize(
    "change",
    [
        {"weights_sha256": "1" * 64},
        {"audio_input": replace(PLAIN, min_samples=32_000)},
        {"name": "another"},
    ],
)
def test_another_network_is_another_entry(clips, tmp_path, change):
    list(extract(clips[:2], Meter(), cache=tmp_path))
    meter = Meter()
    before = identity(meter)
    for name, value in change.items():
        setattr(meter, name, value)
    assert identity(meter) != before
    list(extract(clips[:2], meter, cache=tmp_path))
    assert meter.n_embedded == 2


def test_an_interrupted_run_goes_on(clips, tmp_path):
    run = extract(clips, Meter(), cache=tmp_path / "cache")
    for _ in range(17):
        next(run)
    run.close()
    meter = Meter()
    assert len(list(extract(clips, meter, cache=tmp_path / "cache"))) == 40
    assert meter.n_embedded == 8


def entry_of(folder: Path, path: Path) -> Path:
    (entry,) = folder.rglob(f"{features.hash_file(path)}.npz")
    return entry


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "other shape", "nan", "pickle"])
def test_a_damaged_entry_is_announced_and_made_again(clips, tmp_path, damage):
    cache = tmp_path / "cache"
    list(extract(clips[:3], Meter(), cache=cache))
    entry = entry_of(cache, clips[1])
    good = entry.read_bytes()
    if damage == "truncated":
        entry.write_bytes(good[: len(good) // 2])
    elif damage == "empty":
        entry.write_bytes(b"")
    elif damage == "text":
        entry.write_text("not an archive")
    elif damage == "other shape":
        np.savez(entry, embeddings=np.zeros((1, 3), np.float32), logits=np.zeros(1, np.float32))
    elif damage == "nan":
        np.savez(
            entry, embeddings=np.full((1, 2), np.nan, np.float32), logits=np.zeros(1, np.float32)
        )
    else:
        np.savez(entry, embeddings=np.array([{"a": 1}], dtype=object))
    meter = Meter()
    with pytest.warns(AuffusionWarning, match="damaged .* computed again"):
        found = list(extract(clips[:3], meter, cache=cache))
    assert lengths(found) == [1600, 1760, 1920] and meter.n_embedded == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(extract(clips[:3], meter, cache=cache))
    assert meter.n_embedded == 1


def test_a_cache_that_cannot_be_written_is_announced_once(clips, tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.warns(AuffusionWarning, match="cannot be written .* going on") as caught:
        found = list(extract(clips[:3], Meter(), cache=tmp_path / "cache"))
    assert len(found) == 3 and len([w for w in caught if "going on" in str(w.message)]) == 1


def test_nothing_half_written_stays(clips, tmp_path, monkeypatch):
    def fail(*_args, **_arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features.np, "savez", fail)
    with pytest.warns(AuffusionWarning, match="No space left"):
        list(extract(clips[:3], Meter(), cache=tmp_path / "cache"))
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_broken_file_is_named(clips, tmp_path):
    clips[20].write_bytes(b"RIFF nothing")
    run = extract(clips, Meter(), cache=None)
    with pytest.raises(AudioError, match=r"20\.wav"):
        list(run)


# --- what a network is given


def test_as_the_common_tool_loads():
    """First channel, mean away, torchaudio's resampler as it is, zeros up to 32,000 samples."""
    stereo = torch.randn(2, 44_100, generator=torch.Generator().manual_seed(0)) + 0.5
    found = prepare_clip(stereo, 44_100, WAVE_DATASET)
    expected = resample(stereo[0] - stereo[0].mean(), 44_100, 16_000)
    assert found.shape == (32_000,)
    torch.testing.assert_close(found[:16_000], expected)
    assert (found[16_000:] == 0).all()
    long = torch.randn(1, 40_000)
    torch.testing.assert_close(prepare_clip(long, 16_000, WAVE_DATASET), long[0] - long[0].mean())


def test_as_the_tool_of_2023_loads():
    stereo = torch.stack([torch.ones(8000), torch.zeros(8000)])
    found = prepare_clip(stereo, 16_000, FAD_2023)
    assert found.shape == (8000,) and (found == 0.5).all()
    # The two resamplers keep a tone in the middle of the band, and are not the same.
    tone = torch.sin(torch.arange(44_100) * (2 * torch.pi * 1000 / 44_100))[None]
    expected = torch.sin(torch.arange(16_000) * (2 * torch.pi * 1000 / 16_000))
    kaiser = prepare_clip(tone, 44_100, FAD_2023)
    torch.testing.assert_close(kaiser[500:-500], expected[500:-500], atol=1e-3, rtol=0)
    hann = prepare_clip(tone, 44_100, replace(FAD_2023, resampler="sinc_hann"))
    assert (kaiser - hann)[500:-500].abs().max() > 1e-6


def test_as_clap_wants_it():
    x = torch.linspace(-0.1, 0.2, 500_000).repeat(2, 1)
    found = prepare_clip(x, 48_000, CLAP_INPUT)
    assert found.shape == (480_000,)
    torch.testing.assert_close(found, x[0, :480_000] / 0.2)  # its peak is in what is cut
    silence = prepare_clip(torch.zeros(1, 100), 48_000, CLAP_INPUT)
    assert silence.isfinite().all() and (silence == 0).all()


def test_reads_24_bit_stereo_at_96_khz(tmp_path):
    write_audio(tmp_path / "a.wav", torch.rand(2, 96_000) - 0.5, 96_000, subtype="pcm24")
    assert read_clip(tmp_path / "a.wav", WAVE_DATASET).shape == (32_000,)


@given(st.lists(st.integers(0, 5), max_size=12), st.integers(1, 12))
def test_batches_hold_equal_lengths_and_every_clip_once(sizes, max_samples):
    clips = [torch.full((n,), float(i)) for i, n in enumerate(sizes)]
    seen = []
    for indices, batch in by_length(clips, max_samples):
        assert len(indices) == 1 or batch.numel() <= max_samples
        for index, row in zip(indices, batch, strict=True):
            assert torch.equal(row, clips[index])
        seen += indices
    assert sorted(seen) == list(range(len(sizes)))
