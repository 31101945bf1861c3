"""Draw the pictures of docs/sweep.md and docs/report.md: a sweep, and a report of two of its cells.

    python docs/make_evaluation_pictures.py --data data/embedded-sounds/test --work runs/sweep

`--data` has the held-out clips of the embedded model (recipes/embedded/README.md), one of each kind
below as the reference. The report is drawn by a Chromium on the PATH. A sweep in `--work` is kept
and resumed.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright
from typer.testing import CliRunner

from auffusion_cli.cli.app import build_app

IMAGES = Path(__file__).parent / "images"
N_COLOURS = 64
KINDS = (
    *("duck_quacking", "radio_static", "rain", "waves", "thunder", "dog_barking"),
    *("rooster_crowing", "car_engine", "telephone", "crickets"),
)
SHOWN = "quack"
"""Clips in the report's picture, whose real sounds are in the public domain."""
FEW, MANY = "dpm++-steps4-guidance3", "dpm++-steps16-guidance3"


def run(*arguments: object) -> None:
    result = CliRunner().invoke(build_app(), [str(argument) for argument in arguments])
    if result.exit_code != 0:
        sys.exit(result.output)
    print(result.stdout)


def choose_clips(data: Path, work: Path, kinds: Sequence[str]) -> None:
    """Copy a clip of each of `kinds` into `work`/real, and their prompts into `work`/list.csv."""
    (work / "real").mkdir(parents=True, exist_ok=True)
    chosen: dict[str, tuple[str, str]] = {}
    for line in (data / "metadata.jsonl").read_text("utf-8").splitlines():
        clip = json.loads(line)
        if clip["kind"] in kinds and clip["kind"] not in chosen:
            path = data / clip["file_name"]
            shutil.copy(path, work / "real" / path.name)
            chosen[clip["kind"]] = (path.stem, clip["text"][0])
    with (work / "list.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("name", "prompt"), *sorted(chosen.values())])


def photograph(page: Path, picture: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        view = browser.new_page(viewport={"width": 1180, "height": 1000})
        view.goto(page.resolve().as_uri())
        view.fill("#filter", SHOWN)
        view.evaluate("document.querySelector('[aria-labelledby=guards-title]').hidden = true")
        view.wait_for_timeout(1000)
        view.screenshot(path=picture, full_page=True)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=len(KINDS), help="fewer are quicker")
    options = parser.parse_args()
    choose_clips(options.data, options.work, KINDS[: options.clips])
    work = options.work
    curves, report = IMAGES / "sweep.png", IMAGES / "report.png"
    run(
        *("sweep", "--prompts", work / "list.csv", "-o", work / "cells", "--overwrite"),
        *("--steps", "4,8,16", "--guidance", "1,3", "--scheduler", "dpm++"),
        *("--reference", work / "real", "--picture", curves, "--csv", work / "study.csv"),
    )
    run(
        *("evaluate", "--system", f"4 steps={work / 'cells' / FEW}"),
        *("--system", f"16 steps={work / 'cells' / MANY}", "--reference", work / "real"),
        *("--report", work / "report.html", "--overwrite"),
    )
    photograph(work / "report.html", report)
    for picture in (curves, report):
        Image.open(picture).convert("RGB").quantize(N_COLOURS).save(picture, optimize=True)


if __name__ == "__main__":
    main()
