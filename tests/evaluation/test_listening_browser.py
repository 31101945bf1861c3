"""The page of a listening test in a browser: it plays, keeps, and gives back what was rated."""

import time

import pytest

from auffusion_cli.evaluation.captions import read_captions
from auffusion_cli.evaluation.listening import read_answers, read_key
from auffusion_cli.evaluation.listening_page import key_path, pair_clips, write_test
from browsers import CONTRAST, chromium
from listening_sets import SYSTEMS, make_sounds


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("listening")
    make_sounds(root, n_clips=1)
    systems = {name: root / name for name in SYSTEMS}
    clips, _ = pair_clips(systems, read_captions(root / "captions.csv"))
    output = root / "a #1 test"
    write_test(clips, output, title="Street <sounds>", n_catch=2, n_clips_each=1)
    return output


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, folder, request):
    """The page, opened from the disk; whatever it complained of fails the test."""
    complaints = []
    context = browser.new_context(color_scheme=getattr(request, "param", "light"))
    page = context.new_page()
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((folder / "index.html").as_uri())
    yield page
    context.close()
    assert complaints == []


def wait_for(page, condition):
    """Until `condition` holds; Playwright's own wait would need `eval`, which the page forbids."""
    deadline_s = time.monotonic() + 20
    while not page.evaluate(condition):
        assert time.monotonic() < deadline_s, condition
        page.wait_for_timeout(20)


def hear(page):
    page.keyboard.press("Space")
    wait_for(page, "!document.querySelector('#ovl').disabled")


def shown(page, selector):
    return page.locator(selector).inner_text()


def test_a_listener_needs_no_mouse_and_may_come_back(page, folder, tmp_path):
    key = read_key(key_path(folder))
    page.keyboard.press("Enter")
    given = {}
    for i in range(5):
        assert shown(page, "#count") == f"Sound {i + 1} of 5"
        assert page.locator("#next").is_disabled() and page.locator("#ovl").is_disabled()
        hear(page)
        page.keyboard.press(str(i + 1))
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("0")
        page.keyboard.press("ArrowLeft")
        assert (shown(page, "#ovl-value"), shown(page, "#rel-value")) == (f"{10 * i + 11}", "99")
        trial = page.evaluate("document.querySelector('#sound').src").split("/")[-1][:16]
        given[trial] = (10 * i + 11, 99)
        if i == 2:
            page.reload()
            assert shown(page, "#count") == "Sound 3 of 5"
            assert shown(page, "#ovl-value") == "31"
        page.keyboard.press("Enter")
    page.reload()
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    download.value.save_as(tmp_path / "answers.json")
    answers = read_answers(tmp_path / "answers.json", key)
    assert {a.trial: (a.ovl, a.rel) for a in answers.answers} == given
    assert set(given) == set(key.by_id)


def test_ratings_can_be_changed_and_the_next_listener_begins_anew(page):
    page.click("#begin")
    first = shown(page, "#words")
    assert "</script><b>" in first or "check of attention" in first
    for _ in range(5):
        page.click("#play")
        wait_for(page, "!document.querySelector('#ovl').disabled")
        page.click("#ovl")  # where it stands already
        page.click("#rel", position={"x": 2, "y": 10})
        assert (shown(page, "#ovl-value"), shown(page, "#rel-value")) == ("50", "1")
        page.click("#next")
    assert page.locator("#end").is_visible()
    page.on("dialog", lambda dialog: dialog.accept())
    page.click("#again")
    assert page.locator("#welcome").is_visible()
    page.click("#begin")
    assert shown(page, "#ovl-value") == "–"
    hear(page)
    page.keyboard.press("5")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("5")
    page.keyboard.press("Enter")
    page.click("#back")
    assert shown(page, "#count") == "Sound 1 of 5" and shown(page, "#rel-value") == "50"


@pytest.mark.parametrize("page", ["light", "dark"], indirect=True)
def test_everything_can_be_read(page):
    assert shown(page, "h1 >> nth=0") == "Street <sounds>"
    assert page.evaluate(CONTRAST) == []
    page.keyboard.press("Enter")
    assert page.evaluate(CONTRAST) == []
    hear(page)
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_sound_that_is_missing_is_told(browser, folder, tmp_path):
    (tmp_path / "index.html").write_bytes((folder / "index.html").read_bytes())
    with browser.new_context() as context:
        page = context.new_page()
        page.goto((tmp_path / "index.html").as_uri())
        page.keyboard.press("Enter")
        wait_for(page, "!document.querySelector('#broken').hidden")
        assert page.locator("#next").is_disabled()
