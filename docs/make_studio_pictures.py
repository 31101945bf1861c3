"""Draw the pictures of docs/studio.md: the studio with the embedded model, in Chromium.

    python docs/make_studio_pictures.py

Needs the `dev` extra, for Playwright, and a Chromium on the PATH.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).parent
IMAGES, FROGS = DOCS / "images", DOCS / "sounds" / "frogs.flac"
N_COLOURS = 128
PATIENCE_MS = 600_000
SELECTED = (0.4, 0.62)
"""Shares of the width, from where to where the mouse drags."""


def make(page: Page, picture: Path) -> None:
    """Candidates for a prompt, one of them kept."""
    page.fill("#make-form [name=prompt]", "a dog barking")
    page.fill("#make-form [name=n]", "6")
    page.fill("#make-form [name=duration_s]", "4")
    page.fill("#make-form [name=seed]", "1")
    page.click("#make-form button.main")
    page.locator(".batch .card").nth(5).wait_for()
    page.locator(".batch .card").nth(1).get_by_role("button", name="Keep").click()
    page.locator("#queue").wait_for(state="hidden")
    page.wait_for_timeout(1000)
    page.screenshot(path=picture)


def edit(page: Page, picture: Path) -> None:
    """Frogs, with a dog put among them, and a next part selected."""
    page.click("nav a[href='#edit']")
    page.set_input_files("#file", FROGS)
    page.locator("#versions [aria-current]").wait_for()
    for edge, value in {"start": "2", "end": "4", "prompt": "a dog barking"}.items():
        page.fill(f"#fill-form [name={edge}]", value)
    page.click("#edit-settings summary")
    page.fill("#edit-settings [name=seed]", "1")
    page.click("#edit-settings summary")
    page.click("#fill-form button")
    page.locator("#versions li:nth-child(2) [aria-current]").wait_for()
    page.wait_for_timeout(2000)
    page.evaluate("scrollTo(0, 0)")
    page.check("#fill-form [value=rectangle]")
    page.locator("#picture .canvas").scroll_into_view_if_needed()
    box = page.locator("#picture .canvas").bounding_box()
    left, right = (box["x"] + share * box["width"] for share in SELECTED)
    page.mouse.move(left, box["y"] + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(right, box["y"] + 0.5 * box["height"], steps=4)
    page.mouse.up()
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.wait_for_timeout(500)
    page.screenshot(path=picture)


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        command = ["-m", "auffusion_cli", "studio", "--folder", folder, "--port", "0", "--no-open"]
        with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE) as studio:
            browser = playwright.chromium.launch(executable_path=chromium)
            page = browser.new_page(viewport={"width": 1180, "height": 980})
            page.set_default_timeout(PATIENCE_MS)
            page.goto(studio.stdout.readline().decode().strip())
            page.locator("#model[data-state=ready]").wait_for()
            for name, draw in {"studio-make": make, "studio-edit": edit}.items():
                picture = IMAGES / f"{name}.png"
                draw(page, picture)
                Image.open(picture).convert("RGB").quantize(N_COLOURS).save(picture, optimize=True)
                print(picture.relative_to(DOCS.parent))
            browser.close()
            studio.terminate()


if __name__ == "__main__":
    main()
