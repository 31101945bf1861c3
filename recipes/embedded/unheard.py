"""Which clips does a classifier that others trained not hear as what they are called?

    python recipes/embedded/unheard.py --data DATA --judge DIR -o recipes/embedded/unheard.txt

Every training clip of the kinds in `audioset.yaml` is laid alone in a scene, as it is learned from,
and heard by YAMNet (see measure_independent.py): as it is and, of kinds that `synthesised.py` can
make in its place, behind the embedded codec as well, since its latent is what is learned.
Recordings of which most clips do not have their kind among the first ten classes are listed;
`build_sounds.py` leaves them out of training. DATA is to be built with an empty `unheard.txt`, so
that all are heard.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from classifier import load_store
from measure_independent import SCENES, Sound, load_judge, load_table, through
from synthesised import KINDS, PACKAGE

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.training.scenes import lay_alone

N_FIRST = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train/")
    parser.add_argument("--judge", type=Path, required=True, help="yamnet.tflite and classes.csv")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a .txt file")
    args = parser.parse_args()
    table = load_table()
    judge = load_judge(args.judge, table)
    store = load_store(args.data, "train", list(table.classes))
    rows = (args.data / "train" / "metadata.jsonl").read_text("utf-8").splitlines()
    sources = {row["file_name"]: row["source"] for row in map(json.loads, rows)}
    codec = load_model("embedded", device="cpu").codec
    heard: dict[str, list[bool]] = {}
    kind_of = {}
    for index, clip in enumerate(store.clips):
        source = sources[f"clips/{clip.path.name}"]
        if source.startswith(f"{PACKAGE}:"):
            continue
        waveform = lay_alone(store, SCENES, index, index).waveform.numpy()
        sounds = [Sound((clip.kind,), waveform, source)]
        if clip.kind in KINDS:
            sounds += list(through(codec, sounds, True, index))
        rank = max(judge.hear(sound).ranks[0] for sound in sounds)
        heard.setdefault(source, []).append(rank <= N_FIRST)
        kind_of[source] = clip.kind
    left_out = sorted(source for source, clips in heard.items() if 2 * sum(clips) < len(clips))
    for kind, n in sorted(Counter(kind_of[source] for source in left_out).items()):
        print(f"{kind}: {n}")
    args.output.write_text("".join(f"{source}\n" for source in left_out), "utf-8")


if __name__ == "__main__":
    main()
