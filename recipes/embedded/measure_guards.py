"""How often do the guards find fault with real recordings, and with the model's own sounds?

    python recipes/embedded/measure_guards.py --data data/embedded-sounds
    python recipes/embedded/measure_guards.py --sounds made/

The first counts held-out clips of DATA/test with each fault, under a prompt that is their kind: a
recording with a fault is a false alarm. Clips in which people speak, asked for as something else,
show how many the guard against speech would find. The second counts the faults of files that
`auffusion generate --no-guards` made. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from auffusion_cli.evaluation.judge import SPEAKERS, asks_for_voices, load_kind_judge
from auffusion_cli.signal.audio import read_audio
from auffusion_cli.signal.guards import find_fault
from auffusion_cli.signal.sound_file import read_record

RATE_HZ = 16_000
MIN_S = 0.3
"""Shorter clips are parts of sounds, such as a single step."""


def clips(data: Path) -> Iterator[tuple[Path, str]]:
    """(file, its kind as words) of the held-out clips."""
    for line in (data / "test" / "metadata.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        if row["duration_s"] >= MIN_S:
            yield data / "test" / row["file_name"], row["kind"].replace("_", " ")


def made(folder: Path) -> Iterator[tuple[Path, str]]:
    """(file, its prompt) of generated sounds."""
    for path in sorted(folder.rglob("*.wav")):
        yield path, read_record(path).request.prompt


def count(sounds: Iterable[tuple[Path, str]]) -> dict:
    """Sounds with each fault, and in which words they are."""
    judge, n, n_speech, n_found = load_kind_judge(), 0, 0, 0
    faults: Counter[str] = Counter()
    words_of: dict[str, Counter[str]] = defaultdict(Counter)
    for path, words in sounds:
        waveform = read_audio(path, RATE_HZ, mono=True)[0][0]
        n += 1
        fault = find_fault(waveform, words)
        speech = judge.hears_speech(waveform)
        if words.replace(" ", "_") in SPEAKERS:
            n_speech += 1
            n_found += speech
        if fault is None and speech and not asks_for_voices(words):
            fault = "speech"
        if fault:
            faults[fault] += 1
            words_of[fault][words] += 1
    return {
        "sounds": n,
        "faults": dict(faults),
        "of": {fault: dict(counts.most_common()) for fault, counts in words_of.items()},
        "speech": {"clips": n_speech, "found": n_found},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--data", type=Path, help="data set with test/")
    group.add_argument("--sounds", type=Path, help="folder of generated sounds")
    args = parser.parse_args()
    print(json.dumps(count(clips(args.data) if args.data else made(args.sounds)), indent=1))


if __name__ == "__main__":
    main()
