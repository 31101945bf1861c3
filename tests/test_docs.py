"""The documentation is true: links resolve, commands exist, the reference is current."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

import auffusion_cli
from auffusion_cli.cli.app import build_app

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "benchmarks", "recipes", "weights")
PAGES = [ROOT / "README.md"] + [p for name in FOLDERS for p in sorted((ROOT / name).rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
SHELL_BLOCK = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def page_name(value) -> str | None:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else None


def shown_commands(page: Path) -> list[list[str]]:
    """The words of every `auffusion …` line in shell blocks, up to a pipe or redirect."""
    script = "\n".join(SHELL_BLOCK.findall(page.read_text("utf-8"))).replace("\\\n", " ")
    commands = []
    for line in script.splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # VARIABLE=value before the command
            words.pop(0)
        if words[:1] == ["auffusion"]:
            end = next((i for i, word in enumerate(words) if word in {"|", ">", "&&"}), len(words))
            commands.append(words[1:end])
    return commands


def unknown_word(words: list[str]) -> str | None:
    """The first command or option in `words` that does not exist."""
    command = get_command(build_app())
    options = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
    for word in words:
        if re.match(r"-[^\d]", word):  # others are a file, or a value such as -16LUFS
            if word.split("=")[0] not in options | {"--help", "-h"}:
                return word
        elif hasattr(command, "commands"):
            if word not in command.commands:
                return word
            command = command.commands[word]
            options = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
    return None


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_relative_links_resolve(page):
    text = page.read_text("utf-8")
    targets = [link.split("#")[0] for link in LINK.findall(text) if "://" not in link]
    missing = [target for target in targets if target and not (page.parent / target).exists()]
    assert missing == []


def anchors(page: Path) -> set[str]:
    """The fragments by which GitHub links to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_linked_headings_exist(page):
    links = [link for link in LINK.findall(page.read_text("utf-8")) if "://" not in link]
    linked = [link.partition("#") for link in links if "#" in link]
    missing = [
        f"{target}#{anchor}"
        for target, _, anchor in linked
        if anchor not in anchors(page.parent / target if target else page)
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_shown_commands_exist(page):
    wrong = [(words, unknown_word(words)) for words in shown_commands(page)]
    assert [(words, word) for words, word in wrong if word is not None] == []


def test_the_readme_shows_commands():
    """So that the test above cannot pass because it found none."""
    shown = {words[0] for words in shown_commands(ROOT / "README.md")}
    assert {"generate", "info", "reproduce", "models", "codec", "train"} <= shown


def test_an_unknown_option_would_be_found():
    assert unknown_word(["doctor", "--json"]) is None
    assert unknown_word(["doctor", "--jsn"]) == "--jsn"
    assert unknown_word(["docter"]) == "docter"


def test_readme_targets_are_in_the_makefile():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    readme = (ROOT / "README.md").read_text("utf-8")
    named = re.findall(r"(?:^|`)make ([a-z]+)", readme, re.MULTILINE)
    assert set(named) <= set(targets)
    assert "test" in named


def test_the_readme_uses_the_python_api_that_is_there():
    readme = (ROOT / "README.md").read_text("utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    names = re.findall(r"\bauffusion\.(\w+)", code)
    assert names
    for name in names:
        assert getattr(auffusion_cli, name) is not None


def test_reference_is_current():
    path = ROOT / "docs" / "make_reference.py"
    spec = importlib.util.spec_from_file_location("make_reference", path)
    make_reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_reference)
    written = make_reference.REFERENCE.read_text("utf-8")
    assert written == make_reference.render(build_app()), "run `make docs`"
