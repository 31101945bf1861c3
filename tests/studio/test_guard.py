"""Pages elsewhere on the web reach nothing; beyond this machine a token is needed."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from auffusion_cli.studio.guard import COOKIE, HEADERS, Access, Guard


def client_of(access, base_url="http://127.0.0.1:8420"):
    routes = [Route(path, lambda request: PlainTextResponse("ok")) for path in ("/", "/v1/sounds")]
    return TestClient(Guard(Starlette(routes=routes), access), base_url=base_url)


@pytest.mark.parametrize("host", ["127.0.0.1:8420", "localhost:8420", "localhost", "[::1]:8420"])
def test_it_answers_to_its_own_names(host):
    answer = client_of(Access()).get("/v1/sounds", headers={"Host": host})
    assert answer.status_code == 200
    assert HEADERS.items() <= {key.title(): value for key, value in answer.headers.items()}.items()


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8420",
        "",
        "[",
        "a@127.0.0.1b",
    ],
)
def test_a_name_that_was_rebound_is_refused(host):
    answer = client_of(Access()).get("/v1/sounds", headers={"Host": host})
    assert answer.status_code == 403
    assert HEADERS["Content-Security-Policy"] == answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1:8420"},
        {"Origin": "http://127.0.0.1:9000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
    ],
)
def test_pages_of_other_origins_are_refused(headers):
    client = client_of(Access())
    assert client.get("/v1/sounds", headers=headers).status_code == 403
    assert client.post("/v1/sounds", headers=headers).status_code == 403


def test_its_own_page_and_a_link_to_it_are_not_refused():
    client = client_of(Access())
    own = {"Origin": "http://127.0.0.1:8420", "Sec-Fetch-Site": "same-origin"}
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/v1/sounds", headers=own).status_code == 200
    assert client.get("/", headers=link).status_code == 200
    assert client.post("/", headers=link).status_code == 403


def test_a_token_opens_the_door():
    client = client_of(Access("secret"), "http://studio.lan:8420")
    assert client.get("/v1/sounds").status_code == 401
    assert client.get("/").status_code == 401
    for wrong in ("Bearer other", "Basic secret", "Bearer ", "secret", "Bearer sécret"):
        headers = {"Authorization": wrong.encode()}
        assert client.get("/v1/sounds", headers=headers).status_code == 401
    right = {"Authorization": "Bearer secret"}
    assert client.get("/v1/sounds", headers=right).status_code == 200


def test_a_visit_with_the_token_becomes_a_cookie_that_scripts_cannot_read():
    client = client_of(Access("secret"), "http://studio.lan:8420")
    assert client.get("/?token=other").status_code == 401
    assert client.get("/v1/sounds?token=secret").status_code == 401
    answer = client.get("/?token=secret", follow_redirects=False)
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith(f"{COOKIE}=secret") and "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/v1/sounds").status_code == 200  # the client keeps cookies
