"""A real browser for tests: Debian's `chromium`, any other on the PATH, or Playwright's own."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CONTRAST = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.slice(0, 3).map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const rgba = numbers(getComputedStyle(e).backgroundColor);
      if (rgba.length < 4 || rgba[3] > 0) return rgba;
    }
  };
  const weak = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest("script, .skip")) continue;
    if (element.matches(":disabled")) continue;
    const [x, y] = [numbers(getComputedStyle(element).color), behind(element)].map(light);
    const ratio = (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
    if (ratio < 4.5) weak.push(`${element.tagName}.${element.className}: ${ratio.toFixed(2)}`);
  }
  return weak;
}"""
"""Script: the elements whose text has less contrast than WCAG 2.2 asks for (1.4.3, level AA)."""


@contextmanager
def chromium():
    """The browser, or the test that asks for it is skipped."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="no Playwright: `make test` installs it"
    )
    found = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    with sync_api.sync_playwright() as playwright:
        if found is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip(
                "no Chromium: `apt-get install chromium`, or any other on the PATH, or"
                " `.venv/bin/playwright install --with-deps chromium`"
            )
        with playwright.chromium.launch(executable_path=found) as browser:
            yield browser
