"""`studio` as a user starts it, but for the serving itself."""

from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner

from auffusion_cli.cli.app import build_app
from auffusion_cli.studio import server


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run `auffusion studio ...`, which says where it answers, and ends."""
    monkeypatch.delenv("AUFFUSION_TOKEN", raising=False)
    monkeypatch.setattr(server, "serve", lambda app, listener, on_ready: on_ready())
    asked = ("studio", "--no-open", "--port", "0", "--folder", tmp_path / "sounds")
    return lambda *options: CliRunner().invoke(build_app(), [str(o) for o in (*asked, *options)])


def test_an_empty_token_is_none(run, tmp_path):
    result = run("--host", "0.0.0.0", "--token", "")
    assert result.exit_code == 2 and "--token is empty" in result.stderr
    assert not (tmp_path / "sounds").exists()


@pytest.mark.parametrize("token", ["secret", "a&b=c #%"])
def test_the_address_holds_the_token_as_it_is(run, token):
    address = run("--token", token).stdout.strip()
    assert parse_qs(urlsplit(address).query) == {"token": [token]}


def test_whoever_is_elsewhere_needs_a_token(run):
    assert "?token=" in run("--host", "0.0.0.0").stdout
    assert "?token=" not in run().stdout
