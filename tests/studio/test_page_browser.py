"""The studio in a real browser, over the real command: from words to an edited, downloaded file."""

import os
import re
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from auffusion_cli.signal.recording import read_recording
from auffusion_cli.signal.sound_file import read_record
from browsers import CONTRAST, chromium

PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("studio") / "sounds"


@pytest.fixture(scope="module")
def address(folder, tiny_checkpoint):
    """Where `auffusion studio` listens; it ends by Ctrl-C, without a complaint."""
    command = (sys.executable, "-m", "auffusion_cli", "studio", "--no-open", "--port", "0")
    options = ("--folder", folder, "--model", tiny_checkpoint, "--device", "cpu")
    with subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        errors = []
        reader = threading.Thread(target=lambda: errors.extend(process.stderr))
        reader.start()
        try:
            address = process.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address), errors
            yield address
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(30)
            reader.join()
        assert code == 0 and not any("error" in line.lower() for line in errors), errors


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def complaints():
    """What the browser complained of."""
    return []


@pytest.fixture
def open_page(browser, address, complaints):
    """Open the studio in a context of its own; what it complained of fails the test."""
    contexts, addresses = [], []

    def open_page(room="", **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: addresses.append(request.url))
        page.goto(address + room)
        page.locator("#model[data-state=ready]").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert all(one.startswith((address, "blob:" + address)) for one in addresses)


def make(page, words, n=2):
    """The cards of the candidates."""
    page.fill("#make-form [name=prompt]", words)
    page.fill("#make-form [name=n]", str(n))
    page.fill("#make-form [name=duration_s]", "1")
    page.press("#make-form [name=prompt]", "Enter")
    cards = page.locator(".batch").first.filter(has_text=words).locator(".card")
    cards.nth(n - 1).wait_for()
    return cards


def saved(page, button, path):
    with page.expect_download() as download:
        button.click()
    download.value.save_as(path)
    return path


def test_from_words_to_an_edited_downloaded_file(open_page, tmp_path):
    page = open_page()
    cards = make(page, "rain", n=3)
    first = cards.first
    first.locator(".spectrogram").wait_for()
    page.wait_for_function("() => document.querySelector('.card img').naturalHeight === 256")
    first.get_by_role("button", name="Play").click()
    assert first.get_by_role("button", name="Stop").get_attribute("aria-pressed") == "true"
    first.get_by_role("button", name="Keep").click()
    page.locator(".card[data-state=kept]").first.wait_for()
    first.get_by_role("button", name="Edit").click()

    canvas = page.locator("#picture .canvas")
    canvas.wait_for()
    page.check("#fill-form [value=rectangle]")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.75 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"], steps=3)
    page.mouse.up()
    start, end, low, high = (
        float(page.input_value(f"#fill-form [name={edge}]"))
        for edge in ("start", "end", "low", "high")
    )
    assert (start, end) == pytest.approx((0.25, 0.5), abs=0.02) and 0 < low < high < 4000
    page.fill("#fill-form [name=prompt]", "a dog")
    page.click("#fill-form button")
    page.locator("#versions [aria-current]", has_text="filled: a dog").wait_for()

    path = saved(page, page.locator("#edit-files a").first, tmp_path / "edited.wav")
    record = read_record(path).request
    assert record.masks == (f"{start:g}-{end:g}",) and record.bands == (f"{low:g}-{high:g}",)
    before = saved_source(page, tmp_path)
    edited = read_recording(path).samples
    assert np.array_equal(edited[: int(start * 16000) - 1], before[: int(start * 16000) - 1])
    assert not np.array_equal(edited, before)
    page.click("nav a[href='#make']")
    page.get_by_role("button", name="Best first").click()
    page.locator(".batch .card:first-child:focus").wait_for()
    page.go_back()
    assert "auffusion inpaint" in page.locator("#edit-command code").text_content()


def saved_source(page, folder):
    """The samples of the version before, which Undo leads to."""
    page.click("#undo")
    page.locator("#versions li:first-child [aria-current]").wait_for()
    path = saved(page, page.locator("#edit-files a").first, folder / "before.wav")
    page.click("#redo")
    page.locator("#versions li:nth-child(2) [aria-current]").wait_for()
    return read_recording(path).samples


def test_a_dropped_recording_is_extended_turned_and_compared(open_page, tmp_path, recording_file):
    page = open_page("#edit")
    page.set_input_files("#file", recording_file)
    page.locator("#versions [aria-current]", has_text="a clip").wait_for()
    handle = page.locator("#pull")
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 150, box["y"] + 20, steps=3)
    page.mouse.up()
    by_s = page.input_value("#extend-form [name=by_s]")
    assert float(by_s) == float(handle.get_attribute("aria-valuenow")) > 0
    page.click("#extend-form button")
    page.locator("#versions [aria-current]", has_text="extended").wait_for()
    page.click("#undo")
    page.locator("#redo:enabled").wait_for()
    page.fill("#turn-form [name=prompt]", "a drum")
    page.locator("#turn-form [name=strength]").fill("0.7")
    page.click("#turn-form button")
    page.locator("#versions [aria-current]", has_text="turned into: a drum").wait_for()
    assert page.locator("#versions li").count() == 3

    page.click("#compare")
    page.locator("#compare[aria-pressed=true]").wait_for()
    page.click("#compare")
    page.locator("#edit-play[aria-pressed=true]").wait_for()


def test_everything_can_be_done_by_keyboard(open_page, folder):
    page = open_page()
    make(page, "wind", n=3)
    page.locator(".card").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    second = page.locator(".card").nth(1)
    second.locator(".play[aria-pressed=true]").wait_for()
    page.keyboard.press("Space")
    second.locator(".play[aria-pressed=false]").wait_for()
    page.keyboard.press("Enter")
    page.locator(".card:nth-child(2)[data-state=kept]").wait_for()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Delete")
    page.locator("#notice", has_text="discarded: wind").wait_for()
    assert page.locator(".batch").first.locator(".card").count() == 2
    page.locator("#notice button").press("Enter")
    page.locator(".card:focus").wait_for()
    page.keyboard.press("e")
    page.locator("#picture").focus()
    page.fill("#fill-form [name=start]", "0.2")
    page.fill("#fill-form [name=end]", "0.5")
    assert page.locator(".selection").is_visible()
    page.press("#fill-form [name=end]", "Enter")
    page.locator("#versions li:nth-child(2) [aria-current]").wait_for()
    page.locator("#picture").focus()
    page.keyboard.press("z")
    page.locator("#versions li:nth-child(1) [aria-current]").wait_for()
    page.locator("#pull").press("ArrowRight")
    assert page.input_value("#extend-form [name=by_s]") == "0.5"


def test_words_are_swapped_and_weighed_by_clicking_on_them(open_page):
    page = open_page()
    cards = make(page, "a dog and a dog", n=1)
    cards.first.get_by_role("button", name="Edit").click()
    words = page.locator("#prompt-words button")
    words.nth(4).click()
    page.fill("#words-form [name=swap]", "big cat")
    words.nth(2).press("Enter")
    assert page.input_value("#words-form [name=swap]") == ""
    page.locator("#weight").fill("1.5")
    assert page.locator("#prompt-words").text_content() == "a dog and ×1.5 a dog → big cat"
    page.click("#words-form .main")
    page.locator("#versions [aria-current]", has_text="other words: a dog and a big cat").wait_for()
    command = page.locator("#edit-command code").text_content()
    assert "--swap 'dog#2=big cat' --reweight and=1.5" in command
    assert page.locator("#words-form").is_hidden()


def test_a_timeline_is_made_of_blocks_that_are_dragged(open_page):
    page = open_page()
    page.fill("#make-form [name=duration_s]", "2")
    page.fill("#make-form [name=n]", "1")
    page.click("#timeline summary")
    page.get_by_role("button", name="Add a sound").click()
    page.keyboard.type("a dog; barks")
    page.get_by_role("button", name="Add a sound").click()
    page.keyboard.type("rain")
    first, second = page.locator(".block").all()
    first.scroll_into_view_if_needed()
    lane, box = page.locator(".lane").bounding_box(), first.bounding_box()
    drag(page, box["x"] + box["width"] - 3, box["y"] + 10, lane["width"] * 0.25)
    drag(page, box["x"] + box["width"] / 2, box["y"] + 10, lane["width"] * 0.1)
    second.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    start, end, *_ = (
        float(field.input_value()) for field in page.locator("#timeline [type=number]").all()
    )
    assert (start, end) == pytest.approx((0.2, 1.4), abs=0.11)
    page.click("#make-form .main")
    card = page.locator(".batch .card").first
    card.filter(has_text="timeline").wait_for()
    command = card.locator("code").text_content()
    assert f"--timeline '{start:g}-{end:g}s a dog barks; 1-1.8s rain'" in command
    for _ in range(2):
        page.get_by_role("button", name="Remove").first.click()
    page.check("#make-form [name=loop]")
    make(page, "a river", n=1)
    assert "--loop" in page.locator(".batch .card code").first.text_content()


def drag(page, x, y, by):
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + by, y, steps=3)
    page.mouse.up()


def test_all_is_still_there_when_the_page_is_opened_again(open_page):
    page = open_page()
    make(page, "thunder <b>far</b> away", n=1)
    page = open_page("#history")
    page.fill("#search [name=q]", "THUNDER far")
    page.locator("#found", has_text=re.compile("^1 sound$")).wait_for()
    card = page.locator("#found-sounds .card")
    assert "<b>far</b>" in card.text_content()
    card.get_by_role("button", name="Discard").click()
    page.select_option("#search [name=state]", "discarded")
    page.locator("#found-sounds [data-state=discarded]").wait_for()
    assert card.count() == 1
    page.get_by_role("button", name="Delete for good").click()
    page.locator("#found-sounds .card").wait_for(state="detached")


def test_an_impossible_wish_is_answered_in_words(open_page, complaints):
    page = open_page()
    page.fill("#make-form [name=prompt]", "rain")
    page.get_by_text("Steps and guidance").click()
    page.fill("#make-form [name=guidance_scale]", "1")
    page.evaluate("document.querySelector('#make-form [name=n]').removeAttribute('max')")
    page.fill("#make-form [name=n]", "65")
    page.click("#make-form button.main")
    page.locator("#notice", has_text="65 candidates are not possible").wait_for()
    (complaint,) = complaints
    assert "400" in complaint
    complaints.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_and_used_on_a_phone(open_page, scheme):
    page = open_page(color_scheme=scheme, viewport={"width": 360, "height": 740})
    make(page, "rain", n=1)
    for room in ("make", "history", "edit"):
        if room == "edit":
            page.locator(".card:visible").first.get_by_role("button", name="Edit").click()
            page.locator("#edit-play").wait_for()
        elif room == "make":
            page.click("#timeline summary")
            page.get_by_role("button", name="Add a sound").click()
        else:
            page.click(f"nav a[href='#{room}']")
            page.locator(".card:visible").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, room
        assert page.evaluate(CONTRAST) == [], room
        assert page.evaluate(UNNAMED) == [], room


UNNAMED = """() => [...document.querySelectorAll("button, a, input, select, [role=slider], img")]
  .filter((e) => e.checkVisibility())
  .filter((e) => !(e.ariaLabel || e.alt || e.textContent.trim() || e.labels?.length))
  .map((e) => e.outerHTML)"""
"""Script: what is seen and has no name for a screen reader."""


def test_the_api_is_described_on_a_page(open_page, address):
    page = open_page()
    page.goto(address + "api")
    page.get_by_role("heading", name="POST /v1/inpaint").wait_for()
