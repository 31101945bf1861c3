"""Time of a designer's evening: in the studio's page by a browser, then by commands in a terminal.

30 one-shots, 4 loops and 3 edited recordings, at 48 kHz in stereo.

python benchmarks/designers_evening.py [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import soundfile
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
GAME, RECORDINGS = ROOT / "examples" / "game", ROOT / "docs" / "sounds"
N_EACH, LOOP_S = 3, "8"
PATIENCE_MS = 600_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the sounds stay")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="auffusion-") as temporary:
        folder = options.folder or Path(temporary)
        with _timed("in the page"):
            _work_in_the_page(folder / "page")
        with _timed("in the terminal"):
            _work_in_the_terminal(folder / "terminal")
        _check(folder / "page", 34 + 3 + 3 + 37)  # made, brought in, changed; and all finished
        _check(folder / "terminal", 37)
    return 0


@contextmanager
def _timed(what: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - begin:.0f} s", flush=True)


def _check(folder: Path, n_sounds: int) -> None:
    """End with an error unless the sounds are there, 37 of them or more at 48 kHz in stereo."""
    infos = [
        soundfile.info(path) for path in folder.rglob("*.*") if path.suffix in (".wav", ".flac")
    ]
    n_finished = sum((info.samplerate, info.channels) == (48000, 2) for info in infos)
    print(f"{folder.name}: {len(infos)} files, {n_finished} at 48 kHz in stereo")
    if len(infos) != n_sounds or n_finished < 37:
        sys.exit("a sound is missing")


def _work_in_the_terminal(folder: Path) -> None:
    script = ROOT / "examples" / "evening" / "evening.sh"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["sh", script, folder], check=True, env=os.environ | {"PATH": path})


def _work_in_the_page(folder: Path) -> None:
    command = ["-m", "auffusion_cli", "studio", "--folder", folder, "--port", "0", "--no-open"]
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE) as studio:
        try:
            address = studio.stdout.readline().decode().strip()
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
                page = browser.new_page()
                page.set_default_timeout(PATIENCE_MS)
                page.goto(address)
                page.locator("#model[data-state=ready]").wait_for()
                _make_and_finish(page)
                _change_recordings(page)
        finally:
            studio.terminate()


def _make_and_finish(page: Page) -> None:
    """Three of each one-shot and one of each loop, all of them finished."""
    ids = []
    for line in csv.DictReader((GAME / "one-shots.csv").open()):
        ids += _make(page, line["prompt"], N_EACH, line["duration"])
    page.check("#make-form [name=loop]")
    for line in csv.DictReader((GAME / "loops.csv").open()):
        ids += _make(page, line["prompt"], 1, LOOP_S)
    for one in ids:
        page.evaluate("(id) => { location.hash = `edit/${id}`; }", one)
        page.locator(f'#edit-files a[href*="{one}"]').first.wait_for()
        _finish(page)


def _make(page: Page, words: str, n: int, duration_s: str) -> list[str]:
    """Ids of the candidates for `words`."""
    page.fill("#make-form [name=prompt]", words)
    page.fill("#make-form [name=n]", str(n))
    page.fill("#make-form [name=duration_s]", duration_s)
    page.press("#make-form [name=prompt]", "Enter")
    cards = page.locator(".batch").filter(has=page.get_by_role("heading", name=words, exact=True))
    links = cards.locator(".card a[href$='format=wav']")
    links.nth(n - 1).wait_for()
    hrefs = links.evaluate_all("(links) => links.map((link) => link.getAttribute('href'))")
    return [href.split("/")[3] for href in hrefs]


def _change_recordings(page: Page) -> None:
    """A dog among frogs; a longer river; frogs turned into rain."""
    _bring(page, "frogs.flac")
    for edge, value in {"start": "2", "end": "4", "prompt": "a dog barking"}.items():
        page.fill(f"#fill-form [name={edge}]", value)
    _submit(page, "fill", "filled")
    _finish(page)
    _bring(page, "river.flac")
    page.fill("#extend-form [name=by_s]", "4")
    _submit(page, "extend", "extended")
    _finish(page)
    _bring(page, "frogs.flac")
    page.fill("#turn-form [name=prompt]", "rain")
    _submit(page, "turn", "turned into")
    _finish(page)


def _bring(page: Page, name: str) -> None:
    page.evaluate("location.hash = 'edit'")
    before = page.url
    page.set_input_files("#file", RECORDINGS / name)
    page.wait_for_url(lambda address: address != before)
    page.locator("#versions li:only-child [aria-current=true]").wait_for()


def _finish(page: Page) -> None:
    page.select_option("#finish-form [name=rate_hz]", "48000")
    page.select_option("#finish-form [name=channels]", "2")
    _submit(page, "finish", "finished")


def _submit(page: Page, form: str, verb: str) -> None:
    page.click(f"#{form}-form button[type=submit]")
    page.locator("#versions [aria-current=true]", has_text=f"{verb}: ").wait_for()


if __name__ == "__main__":
    sys.exit(main())
