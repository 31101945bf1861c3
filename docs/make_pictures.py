"""Draw the pictures of sounds in the documentation, with the current embedded model.

    python docs/make_pictures.py [NAME...]

Each is drawn by a command that the documentation shows; the sounds are not kept.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from PIL import Image
from typer.testing import CliRunner

import auffusion_cli as auffusion
from auffusion_cli.cli.app import build_app
from auffusion_cli.pictures.spectrogram import save_comparison

DOCS = Path(__file__).parent
IMAGES, SOUNDS = DOCS / "images", DOCS / "sounds"
N_COLOURS = 64
"""A palette of this size reduces the files to a fifth."""

FROGS, RIVER = str(SOUNDS / "frogs.flac"), str(SOUNDS / "river.flac")
COMMANDS = {
    "dog-barking-in-rain": ["generate", "dog barking in rain", "--seed", "3"],
    "frogs-inpainted": [
        *("inpaint", FROGS, "--mask", "2-4s", "--prompt", "a dog barking", "--seed", "1"),
    ],
    "frogs-style-transfer": [
        *("style-transfer", FROGS, "a dog barking", "--strengths", "0.4,0.6,0.8", "--seed", "1"),
    ],
    "rooster-edited": [
        *("edit", "--prompt", "a rooster crowing", "--seed", "1"),
        *("--swap", "rooster crowing=wolf howling"),
    ],
    "attention": ["attention", "dog barking in rain", "--seed", "3"],
    "river-extended": [
        *("extend", RIVER, "--by", "2s", "--seed", "1"),
    ],
}
TIMELINE = "0-3.2s a dog barking; 3.2-6.4s birds singing"
ONE_PROMPT = "a dog barking, then birds singing"


def draw_command(arguments: list[str], picture: Path, folder: str) -> None:
    outputs = ["-o", f"{folder}/", "--spectrogram", str(picture)]
    if arguments[0] == "attention":  # the picture is its result
        outputs = ["-o", str(picture)]
    result = CliRunner().invoke(build_app(), [*arguments, *outputs, "--overwrite"])
    if result.exit_code != 0:
        sys.exit(result.output)


def draw_timeline(picture: Path) -> None:
    model = auffusion.load_model(engine="torch")
    in_one = replace(model, vocabulary=None)  # with it the prompt is made as a timeline, too
    sounds = [
        auffusion.generate(model, timeline=TIMELINE, seed=2),
        auffusion.generate(in_one, ONE_PROMPT, seed=2, duration_s=6.4),
    ]
    titles = [TIMELINE, ONE_PROMPT]
    save_comparison([(t, s.log_mel) for t, s in zip(titles, sounds, strict=True)], picture)


def main() -> None:
    names = sys.argv[1:] or [*COMMANDS, "timeline"]
    for name in names:
        picture = IMAGES / f"{name}.png"
        if name == "timeline":
            draw_timeline(picture)
        else:
            with tempfile.TemporaryDirectory() as folder:
                draw_command(COMMANDS[name], picture, folder)
        # The strips of words have colours of their own.
        n_colours = 256 if name == "attention" else N_COLOURS
        Image.open(picture).quantize(n_colours).save(picture, optimize=True)
        print(picture.relative_to(DOCS.parent))


if __name__ == "__main__":
    main()
