"""Transfers from servers that send too much, too slowly, or elsewhere."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from auffusion_cli.checkpoints import download, listing, names, transfer
from auffusion_cli.checkpoints.transfer import OversizeError, TransferError, fetch_bytes, resume
from auffusion_cli.errors import DownloadError
from hub_server import COMMIT

TOKEN = {"authorization": "Bearer secret"}


class Server(ThreadingHTTPServer):
    """Answers every GET with `answer(handler)` and keeps the headers of all requests."""

    daemon_threads = True

    def __init__(self, answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.headers = answer, []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        try:
            self.server.answer(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def send(self, status=200, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def serve(monkeypatch):
    servers = []
    monkeypatch.setattr(transfer.time, "sleep", lambda _: None)

    def start(answer) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def endless(handler):
    handler.send()
    while True:
        handler.wfile.write(b"x" * 100_000)


def dripping(handler):
    handler.send()
    while True:
        handler.wfile.write(b"x")
        handler.wfile.flush()


def test_a_transfer_stops_at_the_announced_size(serve, tmp_path):
    with pytest.raises(OversizeError, match="more than 1,000 bytes"):
        resume(serve(endless).url, {}, tmp_path / "a", max_bytes=1_000, n_bytes=1_000)
    assert not (tmp_path / "a").exists()
    with pytest.raises(OversizeError, match="larger than 1,000 bytes"):
        fetch_bytes(serve(endless).url, {}, max_bytes=1_000)


def test_a_slow_server_is_given_up(serve, monkeypatch):
    monkeypatch.setattr(transfer, "SLOW_WINDOW_S", 0.05)
    monkeypatch.setattr(transfer, "MIN_BYTES_PER_WINDOW", 10**9)
    with pytest.raises(TransferError, match="too slow"):
        fetch_bytes(serve(dripping).url, {}, max_bytes=10**9)


def test_a_silent_server_is_given_up(serve, monkeypatch):
    monkeypatch.setattr(transfer, "SILENCE_S", 0.1)
    release = threading.Event()
    with pytest.raises(Exception, match=r"(?i)timed out"):
        fetch_bytes(serve(lambda _: release.wait()).url, {}, max_bytes=10)
    release.set()


def test_what_is_compressed_unasked_is_refused(serve):
    server = serve(lambda handler: handler.send(body=b"x", Content_Encoding="gzip"))
    with pytest.raises(TransferError, match="compressed"):
        fetch_bytes(server.url, {}, max_bytes=10**6)
    assert server.headers[0]["accept-encoding"] == "identity"


def test_the_token_goes_to_the_same_scheme_host_and_port_only(serve):
    other = serve(lambda handler: handler.send(body=b"content"))
    first = serve(lambda handler: handler.send(302, Location=f"{other.url}/file"))
    assert fetch_bytes(first.url, TOKEN, max_bytes=100) == b"content"
    assert first.headers[0]["authorization"] == "Bearer secret"
    assert "authorization" not in other.headers[0]

    def same(handler):
        if handler.path == "/b":
            handler.send(body=b"content")
        else:
            handler.send(307, Location="/b")

    server = serve(same)
    assert fetch_bytes(f"{server.url}/a", TOKEN, max_bytes=100) == b"content"
    assert [h["authorization"] for h in server.headers] == ["Bearer secret"] * 2


@pytest.mark.parametrize(
    ("location", "reason"), [("/again", "too often"), ("file:///etc/passwd", "else than HTTP")]
)
def test_redirects_are_bounded(serve, location, reason):
    server = serve(lambda handler: handler.send(302, Location=location))
    with pytest.raises(TransferError, match=reason):
        fetch_bytes(server.url, TOKEN, max_bytes=100)
    assert len(server.headers) <= transfer.MAX_REDIRECTS + 1


def test_a_server_without_ranges_sends_the_file_anew(serve, tmp_path):
    server = serve(lambda handler: handler.send(body=b"content"))
    (tmp_path / "a").write_bytes(b"old")
    counts = []
    resume(server.url, {}, tmp_path / "a", max_bytes=7, n_bytes=7, on_bytes=counts.append)
    assert (tmp_path / "a").read_bytes() == b"content" and sum(counts) == 7


def test_another_part_than_was_asked_for_is_refused(serve, tmp_path):
    server = serve(lambda handler: handler.send(206, b"tent", Content_Range="bytes 9-12/13"))
    (tmp_path / "a").write_bytes(b"con")
    with pytest.raises(TransferError, match="another part"):
        resume(server.url, {}, tmp_path / "a", max_bytes=7, n_bytes=7)


def test_a_server_that_always_ends_early_is_given_up(serve, tmp_path):
    server = serve(lambda handler: handler.send(body=b""))
    with pytest.raises(TransferError, match="ended early"):
        resume(server.url, {}, tmp_path / "a", max_bytes=7, n_bytes=7)


# --- The listing

FILES = [
    {"rfilename": "condition_config.json", "size": 2, "blobId": "0" * 40},
    {"rfilename": "unet/config.json", "size": 2, "blobId": "0" * 40},
]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"siblings": "abc"}, "no list of files"),
        ({"siblings": [5, {"rfilename": 5}]}, "not a checkpoint"),
        ({"siblings": [FILES[0] | {"size": "12"}]}, "no size for condition_config.json"),
        ({"siblings": [FILES[0] | {"size": -5}]}, "no size"),
        ({"siblings": [FILES[0] | {"lfs": {"a": 1}}]}, "no checksum"),
        ({"siblings": [FILES[0] | {"blobId": 5}]}, "no checksum"),
        ({"sha": 5}, "names no commit"),
        ({"sha": None}, "names no commit"),
        ({"sha": "../../../../tmp/evil"}, "names no commit"),
    ],
)
def test_wrong_types_in_a_listing(serve, monkeypatch, change, reason):
    body = json.dumps({"sha": COMMIT, "siblings": FILES} | change).encode()
    monkeypatch.setattr(constants, "ENDPOINT", serve(lambda h: h.send(body=body)).url)
    with pytest.raises(DownloadError, match=reason) as caught:
        listing.announced(names.parse_name("org/model"))
    assert "\n" not in caught.value.message and len(caught.value.message) < 300


@pytest.mark.parametrize(
    "body", [b"<html>", b"[1, 2]", b"[" * 1_000_000, b"\xff", b'{"siblings": 99}', b"9" * 5_000]
)
def test_a_listing_that_is_none(serve, monkeypatch, body):
    monkeypatch.setattr(constants, "ENDPOINT", serve(lambda h: h.send(body=body)).url)
    with pytest.raises(DownloadError, match="listing"):
        listing.announced(names.parse_name("org/model"))


def test_a_card_of_another_type_states_no_licence(serve, monkeypatch):
    body = json.dumps({"sha": COMMIT, "siblings": FILES, "cardData": [1]}).encode()
    monkeypatch.setattr(constants, "ENDPOINT", serve(lambda h: h.send(body=body)).url)
    assert listing.announced(names.parse_name("org/model"))[:2] == (COMMIT, None)


def test_a_listing_is_bounded(serve, monkeypatch):
    monkeypatch.setattr(listing, "MAX_LISTING_BYTES", 1_000)
    monkeypatch.setattr(constants, "ENDPOINT", serve(endless).url)
    with pytest.raises(DownloadError, match="larger than 1,000 bytes"):
        listing.announced(names.parse_name("org/model"))


def test_more_than_announced_is_one_line(serve, monkeypatch, tmp_path):
    body = json.dumps({"sha": COMMIT, "siblings": FILES}).encode()

    def answer(handler):
        handler.send(body=body) if handler.path.startswith("/api/") else endless(handler)

    server = serve(answer)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DownloadError, match="sends more than 2 bytes, as it announced"):
        download.resolve("org/model")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 2]
