"""Generate one list with several systems, measure each against the same real sounds, print a table.

    python recipes/comparison/compare.py test.csv --reference real/ -o runs/comparison

Stopped at any moment, the same command continues: sounds that are there are not made again, and
features that are known are not computed again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from auffusion_cli.cli.app import build_app
from auffusion_cli.errors import AuffusionError, UsageError

MODELS = (
    "audioldm",
    "audioldm-m-full",
    "audioldm2",
    "audioldm2-large",
    "tango",
    "tango2",
    "stable-audio-open",
    "stable-audio-3-small-sfx",
    "stable-audio-3-medium",
    "auffusion",
    "auffusion-full",
)
"""Systems of the paper's main table that are published; Tango 2 and the Stable Audios, which came
later."""
SEED = 1


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts", type=Path, help="list with the columns name and prompt")
    parser.add_argument("--reference", type=Path, required=True, help="folder: NAME.wav of each")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the comparison")
    parser.add_argument(
        "--model", action="append", help=f"instead of {', '.join(MODELS)}; repeatable"
    )
    parser.add_argument("--backbone", default="published", help="what `evaluate` measures with")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda …")
    parser.add_argument("--steps", type=int, help="of every system, instead of its own")
    parser.add_argument("--yes", action="store_true", help="agree to downloads and licences")
    options = parser.parse_args(arguments)
    try:
        systems = named(options.model or MODELS)
        for name, model in systems.items():
            generate(model, options.output / "sounds" / name, options)
        evaluate(systems, options)
    except AuffusionError as error:
        sys.exit(f"error: {error.message}")


def named(models: Sequence[str]) -> dict[str, str]:
    """A column's name, which is a folder's too, for each model.

    Raises:
        UsageError: two would be called the same.
    """
    systems: dict[str, str] = {}
    for model in models:
        name = Path(model).name.replace("@", "-")
        if name in systems:
            raise UsageError(f"--model {model}: another is called {name!r}, too")
        systems[name] = model
    return systems


def generate(model: str, folder: Path, options: argparse.Namespace) -> None:
    """Make the sounds that are not there, one for each line and of its seed in all systems."""
    auffusion(
        *("generate", "--prompts", options.prompts, "--model", model, "--seed", SEED),
        *("--device", options.device, "-o", folder / "{name}.flac"),
        # As the papers measure: whole windows, and the first sound of a seed.
        *("--no-trim", "--no-guards"),
        *(["--steps", options.steps] if options.steps else []),
        *(["--yes"] if options.yes else []),
    )


def evaluate(systems: dict[str, str], options: argparse.Namespace) -> None:
    """Print the table, and write the result and a page with all sounds."""
    auffusion(
        *("evaluate", "--reference", options.reference, "--prompts", options.prompts),
        *("--backbone", options.backbone, "--device", options.device, "--overwrite"),
        *("-o", options.output / "result.json", "--report", options.output / "report.html"),
        *(["--yes"] if options.yes else []),
        *(f"--system={name}={options.output / 'sounds' / name}" for name in systems),
    )


def auffusion(*arguments: object) -> None:
    """Run a command of the package; where it fails the comparison ends with its exit code."""
    texts = list(map(str, arguments))
    if code := build_app()(texts, prog_name="auffusion", standalone_mode=False):
        sys.exit(code)


if __name__ == "__main__":
    main()
