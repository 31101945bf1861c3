"""The page of an evaluation in a browser: it plays, sorts, filters, and complains of nothing."""

import dataclasses
import time

import pytest

from auffusion_cli.evaluation.pages import shown
from auffusion_cli.evaluation.report import write_report
from auffusion_cli.evaluation.result import ClassProbability, WordAttention
from browsers import CONTRAST, chromium
from report_sets import HOSTILE, make_evaluation


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser):
    """Open a page in a context of its own; at the end, whatever it complained of fails the test."""
    contexts, complaints, addresses = [], [], []

    def open_page(path, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("requestfailed", lambda request: complaints.append(request.url[:200]))
        page.on("request", lambda request: addresses.append(request.url[:200]))
        page.goto(path.as_uri())
        page.evaluate("document.querySelector('#clips').scrollIntoView()")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert {address.partition(":")[0] for address in addresses} <= {"file", "data"}


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    return make_evaluation(tmp_path_factory.mktemp("sets"), n_clips=5, duration_s=2.0)


@pytest.fixture(scope="module", params=["inside", "beside"])
def report(request, evaluation, tmp_path_factory):
    path = tmp_path_factory.mktemp("reports") / f"a #1 {request.param}.html"
    write_report(evaluation, path, embedded_bytes=10**9 if request.param == "inside" else 0)
    return path


@pytest.fixture(scope="module")
def inside(evaluation, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(evaluation, path)
    return path


def wait_for(page, condition):
    """Until `condition` holds; Playwright's own wait would need `eval`, which the page forbids."""
    deadline_s = time.monotonic() + 10
    while not page.evaluate(condition):
        assert time.monotonic() < deadline_s, condition
        page.wait_for_timeout(20)


def names(page):
    """The clips that are shown, in their order."""
    return page.locator(".clip:not([hidden]) .facts bdi").all_text_contents()


def scores(evaluation, system, score):
    return {clip.name: clip.scores[score] for clip in evaluation.systems[system].rows}


def test_sounds_play_one_at_a_time(report, open_page):
    page = open_page(report)
    first = page.locator(".clip").first
    ours, tango, real = first.locator(".sound").all()
    ours.locator(".play").click()
    wait_for(page, "audio.currentTime > 0.2 && !audio.paused")
    assert ours.locator(".play").get_attribute("aria-pressed") == "true"
    assert page.evaluate("audio.duration") == pytest.approx(2.0, abs=0.01)
    assert ours.locator(".head").is_visible()

    real.locator(".play").click()
    wait_for(page, "audio.currentTime > 0.1 && !audio.paused")
    assert ours.locator(".play").get_attribute("aria-pressed") == "false"
    assert real.locator(".play").get_attribute("aria-pressed") == "true"
    real.locator(".play").click()
    assert page.evaluate("audio.paused")

    box = tango.locator(".strip").bounding_box()
    tango.locator(".strip").click(position={"x": box["width"] * 0.8, "y": 10})
    wait_for(page, "audio.currentTime > 1.55 && !audio.paused")
    wait_for(page, "audio.paused")  # it ends by itself and goes back to the start
    assert tango.locator(".time").inner_text() == "0.0 / 2.0 s"
    loaded = "[...document.querySelectorAll('.clip img')].every((i) => i.naturalHeight === 128)"
    wait_for(page, loaded)


def test_clips_are_sorted_by_each_score_worst_first(inside, evaluation, open_page):
    page = open_page(inside)
    kl = [scores(evaluation, i, "KL-tagger") for i in (0, 1)]
    worst = [(kl[0][name] + kl[1][name], name) for name in kl[0]]
    assert names(page)[0] == max(worst)[1]

    page.select_option("#system", label="ours")
    assert names(page) == sorted(kl[0], key=kl[0].get, reverse=True)
    page.select_option("#score", "CLAP")
    clap = scores(evaluation, 0, "CLAP")
    assert [clap[name] for name in names(page)] == sorted(clap.values())
    page.click("#order")
    assert page.inner_text("#order") == "Best first"
    assert [clap[name] for name in names(page)] == sorted(clap.values(), reverse=True)
    page.select_option("#system", "gap")
    assert page.inner_text("#order") == "Narrowest first"
    other = scores(evaluation, 1, "CLAP")
    gaps = [abs(clap[name] - other[name]) for name in names(page)]
    assert gaps == sorted(gaps)
    page.select_option("#score", "")
    assert names(page) == sorted(clap, reverse=True)


def test_clips_are_filtered_by_words_names_and_flags(inside, open_page):
    page = open_page(inside)
    page.fill("#filter", "DOOR bell")
    assert names(page) == ["0002"]
    assert page.inner_text("#count") == "1 of 5"
    page.fill("#filter", "clipped")
    assert names(page) == ["0001"]
    page.fill("#filter", "0004")
    assert names(page) == ["0004"]
    page.fill("#filter", "0003.WAV")
    assert names(page) == ["0003"]
    page.fill("#filter", "no such words")
    assert names(page) == [] and page.locator("#none").is_visible()
    page.fill("#filter", "")
    assert len(names(page)) == 5 and page.inner_text("#count") == "5 clips"


def test_everything_can_be_done_by_keyboard(inside, open_page):
    page = open_page(inside)
    page.keyboard.press("/")
    page.keyboard.type("rain 1")  # digits and letters in the field are text, not shortcuts
    assert page.input_value("#filter") == "rain 1" and page.evaluate("audio.paused")
    page.fill("#filter", "")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement === document.querySelectorAll('.clip')[1]")
    page.keyboard.press("3")
    wait_for(page, "audio.currentTime > 0.1 && !audio.paused")
    second = page.locator(".clip").nth(1)
    assert second.locator(".reference .play").get_attribute("aria-pressed") == "true"
    page.keyboard.press("Escape")
    assert page.evaluate("audio.paused")

    page.keyboard.press("Tab")
    strip = second.locator(".strip").first
    assert strip.evaluate("element => element === document.activeElement")
    page.keyboard.press("ArrowRight")
    assert strip.get_attribute("aria-valuenow") == "0.5"
    assert strip.get_attribute("aria-valuetext") == "0.5 of 2.0 s"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    wait_for(page, "audio.currentTime > 0.5 && !audio.paused")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_system_and_can_be_read(inside, open_page, scheme):
    page = open_page(inside, color_scheme=scheme)
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(250, 249, 247)", "rgb(19, 20, 23)"
    assert page.evaluate(background) == (light if scheme == "light" else dark)
    assert page.evaluate(CONTRAST) == []
    page.get_by_text("Dark", exact=True).click()
    assert page.evaluate(background) == dark
    page.get_by_text("Light", exact=True).click()
    assert page.evaluate(background) == light
    page.reload()
    assert page.evaluate(background) == light
    page.get_by_text("Auto", exact=True).click()
    assert page.evaluate(background) == (light if scheme == "light" else dark)


def test_a_phone_shows_it_without_scrolling_sideways(inside, open_page):
    page = open_page(inside, viewport={"width": 360, "height": 740}, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.locator(".wide").evaluate("e => e.scrollWidth <= e.clientWidth")
    page.locator(".play").first.tap()
    wait_for(page, "audio.currentTime > 0.1")


def test_the_classes_of_a_sound_stand_below_it_and_are_found(evaluation, open_page, tmp_path):
    classes = (ClassProbability("Bark", 0.912), ClassProbability("<i>Dog", 0.4))
    ours = evaluation.systems[0]
    rows = (dataclasses.replace(ours.rows[0], classes=classes), *ours.rows[1:])
    ours = dataclasses.replace(ours, rows=rows)
    path = tmp_path / "report.html"
    write_report(dataclasses.replace(evaluation, systems=(ours,)), path)
    page = open_page(path)
    page.fill("#filter", "bark")
    assert names(page) == ["0000"]
    assert page.get_by_text("Below a sound: the most probable classes").is_visible()
    (listed,) = page.locator(".words").all()
    assert listed.inner_text().split("\n") == ["Bark", "0.91", "<i>Dog", "0.40"]


def test_the_attention_of_words_stands_below_their_sound(evaluation, open_page, tmp_path):
    words = (WordAttention("dog", 0.99712, 0.83, True), WordAttention("<b>", 0.99734, 0.5, False))
    ours = evaluation.systems[0]
    rows = (dataclasses.replace(ours.rows[0], words=words), *ours.rows[1:])
    path = tmp_path / "report.html"
    write_report(
        dataclasses.replace(evaluation, systems=(dataclasses.replace(ours, rows=rows),)), path
    )
    page = open_page(path)
    page.fill("#filter", "0000")
    assert page.get_by_text("Below a sound: the attention-entropy").is_visible()
    (listed,) = page.locator(".words").all()
    assert listed.inner_text().split("\n") == ["dog", "0.99712, 0.83", "<b>", "0.99734, 0.50"]
    strips = [
        strip.bounding_box()["y"] for strip in page.locator(".clip:not([hidden]) .strip").all()
    ]
    assert len(strips) == 2 and strips[0] == strips[1]


def test_three_systems_and_a_reference_stand_side_by_side(open_page, tmp_path):
    evaluation = make_evaluation(tmp_path / "sets", n_clips=1, names=("a", "b", "c"))
    path = tmp_path / "report.html"
    write_report(evaluation, path)
    for width, n_rows in ((1300, 1), (400, 4)):
        page = open_page(path, viewport={"width": width, "height": 800})
        boxes = [each.bounding_box() for each in page.locator(".sound").all()]
        assert len(boxes) == 4 and len({round(box["y"]) for box in boxes}) == n_rows
        assert all(box["x"] + box["width"] <= width for box in boxes)


def test_a_note_on_a_name_from_right_to_left_is_read_from_the_left(evaluation, open_page, tmp_path):
    name = "דבר"
    ours = dataclasses.replace(evaluation.systems[0], name=name)
    notes = (f"{name}: 3 of 5 sounds are silent",)
    path = tmp_path / "report.html"
    write_report(dataclasses.replace(evaluation, systems=(ours,), notes=notes), path)
    page = open_page(path)
    isolated, words = page.locator(".note li bdi").all()
    assert (isolated.inner_text(), words.inner_text()) == (name, "3 of 5 sounds are silent")
    assert isolated.bounding_box()["x"] < words.bounding_box()["x"]
    assert (
        page.evaluate("getComputedStyle(document.querySelectorAll('.note bdi')[1]).direction")
        == "ltr"
    )


def test_hostile_prompts_are_shown_and_do_nothing(evaluation, open_page, tmp_path):
    ours, tango = evaluation.systems
    rows = [
        dataclasses.replace(ours.rows[0], name=f"{i:02d}", prompt=words)
        for i, words in enumerate(HOSTILE)
    ]
    named = dataclasses.replace(ours.rows[0], name=HOSTILE[0])
    ours = dataclasses.replace(ours, name=HOSTILE[1], rows=(*rows, named))
    path = tmp_path / "hostile.html"
    write_report(dataclasses.replace(evaluation, systems=(ours, tango), notes=HOSTILE), path)
    page = open_page(path)
    page.select_option("#score", "")
    prompts = page.locator(".clip h3").evaluate_all("all => all.map((h) => h.textContent)")
    assert {shown(words) for words in HOSTILE} <= set(prompts)
    page.locator(".play").first.click()
    wait_for(page, "audio.currentTime > 0.1")  # that no dialog opened is for `open_page`


def test_a_thousand_clips_stay_usable(evaluation, open_page, tmp_path):
    systems = [
        dataclasses.replace(
            system,
            rows=tuple(
                dataclasses.replace(system.rows[i % 5], name=f"{i:04d}", scores={"CLAP": i / 1000})
                for i in range(1000)
            ),
        )
        for system in evaluation.systems
    ]
    path = tmp_path / "many.html"
    write_report(dataclasses.replace(evaluation, systems=tuple(systems)), path)
    page = open_page(path)
    assert page.locator(".clip").count() == 1000
    n_built = page.locator(".strip").count()
    assert 0 < n_built < 100  # only what is near the view
    page.click("#order")
    page.locator(".clip").last.scroll_into_view_if_needed()
    wait_for(page, f"document.querySelectorAll('.strip').length > {n_built}")
    took_ms = page.evaluate(
        "() => { const t = performance.now(); filter.value = '0999'; applyFilter(); sort();"
        " document.body.offsetHeight; return performance.now() - t; }"
    )
    assert names(page) == ["0999"]
    assert took_ms < 2000
