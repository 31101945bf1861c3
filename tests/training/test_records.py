"""Tar and parquet files read from end to end: what is in them, and what must not be believed."""

import json
import os
import ssl
import subprocess
import sys
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from auffusion_cli.errors import AuffusionError, DataError, UsageError
from auffusion_cli.training import records as records_module
from auffusion_cli.training.data import Problem
from auffusion_cli.training.list_values import Reading
from auffusion_cli.training.records import Record, find_records
from tar_files import sound, write_tar


def read(data, split="train", reading=Reading(), part=0):  # noqa: B008
    return list(find_records(str(data), split, reading).records(part))


PAIR = {"a/01.flac": sound(1), "a/01.json": json.dumps({"text": ["A dog", "Woof"]}).encode()}


@pytest.mark.parametrize(("name", "mode"), [("x.tar", "w"), ("x.tar.gz", "w:gz")])
def test_a_webdataset(tmp_path, name, mode):
    files = PAIR | {
        "a/02.flac": sound(2),
        "a/02.txt": b"Rain\nHeavy rain\n",
        "a/02.jpg": b"x",
        "b/02.flac": sound(3),
        "c/03.m4a": b"y",
        "c/03.txt": b"no",
    }
    path = write_tar(tmp_path / name, files, mode)
    one, two, lone, foreign = read(path)
    assert one == Record(f"{path}: a/01.flac", sound(1), ("A dog", "Woof"))
    assert two.audio == sound(2) and two.captions == ("Rain", "Heavy rain")
    assert isinstance(lone, Problem) and lone.reason == "captionless"
    assert foreign.reason == "unreadable" and ".m4a" in foreign.detail
    with pytest.raises(DataError, match="'nothing'"):
        read(path, reading=Reading(caption_column="nothing"))


def test_parts_by_pattern_and_folder(tmp_path):
    for name in ("train-00.tar", "train-01.tar", "val/7.tar", "extra.tar"):
        write_tar(tmp_path / name, PAIR)

    def parts(data, split="train"):
        return [Path(part).name for part in find_records(str(data), split, Reading()).parts]

    assert parts(f"{tmp_path}/train-{{00..01}}.tar") == ["train-00.tar", "train-01.tar"]
    assert parts(f"{tmp_path}/*.tar") == ["extra.tar", "train-00.tar", "train-01.tar"]
    assert parts(tmp_path) == ["train-00.tar", "train-01.tar"]
    assert parts(tmp_path, "val") == ["7.tar"]
    assert parts("https://host.example/a-{8..10}.tar?x=1")[2] == "a-10.tar?x=1"
    assert find_records(str(tmp_path / "list.csv"), "train", Reading()) is None
    with pytest.raises(DataError, match="no 'test'"):
        parts(tmp_path, "test")
    for wrong in ("/a-{9..1}.tar", "/a-{0..999999999}.tar", "/none.tar"):
        with pytest.raises(UsageError):
            parts(f"{tmp_path}{wrong}")


def test_a_tar_is_read_within_bounds_and_nothing_is_extracted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tar(tmp_path / "in/x.tar", {"../../evil.flac": sound(), "../../evil.txt": b"a dog"})
    (record,) = read(tmp_path / "in/x.tar")
    assert record.captions == ("a dog",) and list(tmp_path.iterdir()) == [tmp_path / "in"]
    monkeypatch.setattr(records_module, "MAX_SOUND_BYTES", 100)
    (problem,) = read(tmp_path / "in/x.tar")
    assert problem.reason == "unreadable" and "larger than 100" in problem.detail


def test_of_the_files_of_one_sound_only_those_that_count_are_read(tmp_path, monkeypatch):
    read_names, extract = [], tarfile.TarFile.extractfile

    def extractfile(tar, member):
        read_names.append(member.name)
        return extract(tar, member)

    monkeypatch.setattr(tarfile.TarFile, "extractfile", extractfile)
    others = {f"1.{n}.flac": sound(n) for n in range(3)} | {"1.more.json": b"{}", "1.png": b"1"}
    path = write_tar(tmp_path / "x.tar", {"1.flac": sound(7), **others, "1.txt": b"a dog"})
    (record,) = read(path)
    assert record.audio == sound(7) and record.captions == ("a dog",)
    assert read_names == ["1.flac", "1.txt"]


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[1]", b'{"text": 3}', b"\xff", b'{"text"'])
def test_captions_that_are_none(tmp_path, content):
    path = write_tar(tmp_path / "x.tar", {"1.flac": sound(), "1.json": content})
    with pytest.raises(DataError, match=r"1\.flac"):
        read(path)


@pytest.mark.parametrize("keep", [700, 3000, 5000])
def test_a_tar_that_was_cut_short(tmp_path, keep):
    path = write_tar(tmp_path / "x.tar", {"1.flac": sound(1), "2.flac": sound(2)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="damaged or cut short"):
        read(path)


def test_parquet_as_datasets_writes_it(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = {
        "id": [1, 2, 3, 4],
        "audio": [
            {"bytes": sound(1, "WAV"), "path": "1.wav"},
            {"bytes": None, "path": "here.wav"},
            {"bytes": None, "path": None},
            {"bytes": sound(4), "path": None},
        ],
        "text": ["A dog", "Rain", "x", ""],
        "many": [["a", "b"], ["c"], [], []],
    }
    path = tmp_path / "data/train-00000-of-00001.parquet"
    path.parent.mkdir()
    (path.parent / "here.wav").write_bytes(sound(2))
    parquet.write_table(pyarrow.table(rows), path, row_group_size=2)
    one, two, missing, captionless = read(tmp_path)
    assert (one.audio, one.captions) == (sound(1, "WAV"), ("A dog",))
    assert (two.audio, two.captions) == (sound(2), ("Rain",))
    assert (missing.reason, captionless.reason) == ("missing", "captionless")
    assert read(tmp_path, reading=Reading(caption_column="many"))[0].captions == ("a", "b")
    with pytest.raises(DataError, match="no column other"):
        read(path, reading=Reading(caption_column="other"))

    numbered = {"audio": rows["audio"], "caption_1": rows["text"], "caption_2": ["second"] * 4}
    parquet.write_table(pyarrow.table(numbered), path)
    assert read(path)[0].captions == ("A dog", "second")

    rows["audio"][1]["path"] = "../../etc/passwd"
    parquet.write_table(pyarrow.table(rows), path)
    with pytest.raises(DataError, match="leaves the data folder"):
        read(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(AuffusionError, match=r"damaged|cannot be read"):
        read(path)


def test_a_url_by_fsspec(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    local = write_tar(tmp_path / "x.tar", PAIR)
    with fsspec.open("memory://set/0.tar", "wb") as file:
        file.write(local.read_bytes())
    (record,) = read("memory://set/{0..0}.tar")
    assert record.captions == ("A dog", "Woof")
    with pytest.raises(DataError, match=r"memory://set/9\.tar: cannot be read: no such file"):
        read("memory://set/9.tar")


class FolderByHttp(SimpleHTTPRequestHandler):
    """Files by ranges, as stores of data sets give them; seeking in parquet asks for these."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        first, last = 0, len(content) - 1
        asked = self.headers.get("Range")
        if asked:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end or last), last)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(content[first : last + 1])


def test_parts_by_url(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for number in range(2):
        write_tar(tmp_path / f"{number}.tar", {"a.flac": sound(number), "a.txt": b"A dog"})
    rows = {"audio": [{"bytes": sound(i), "path": "x"} for i in range(3)], "text": ["A dog"] * 3}
    parquet.write_table(pyarrow.table(rows), tmp_path / "0.parquet", row_group_size=1)
    handler = partial(FolderByHttp, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        tars = find_records(f"{url}/{{0..1}}.tar", "train", Reading())
        assert [one.audio for part in (0, 1) for one in tars.records(part)] == [sound(0), sound(1)]
        assert [one.audio for one in read(f"{url}/0.parquet")] == [sound(i) for i in range(3)]
        with pytest.raises(DataError, match=r"7\.tar: cannot be read: 404"):
            read(f"{url}/7.tar")
        server.shutdown()


def test_https_needs_a_certificate_that_is_trusted(tmp_path):
    """In programs of their own, since an HTTP library reads the environment once."""
    trustme = pytest.importorskip("trustme")
    pytest.importorskip("aiohttp")
    write_tar(tmp_path / "0.tar", {"a.flac": sound(0), "a.txt": b"A dog"})
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    handler = partial(FolderByHttp, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"https://127.0.0.1:{server.server_port}/0.tar"
        others = {key: value for key, value in os.environ.items() if key != "SSL_CERT_FILE"}
        trusting = {"SSL_CERT_FILE": str(tmp_path / "authority.pem")}
        readers = [
            subprocess.Popen(
                [sys.executable, "-c", READ_AND_PRINT, url],
                env=others | more,
                stdout=subprocess.PIPE,
                text=True,
            )
            for more in (trusting, {})
        ]
        (read_it, _), (refused, _) = (reader.communicate(timeout=100) for reader in readers)
        server.shutdown()
    assert read_it == "('A dog',)\n"
    assert f"{url}: cannot be read: " in refused and "certificate verify failed" in refused
    assert "SSL_CERT_FILE" in refused


READ_AND_PRINT = """
import sys
from auffusion_cli.errors import DataError
from auffusion_cli.training.list_values import Reading
from auffusion_cli.training.records import find_records

try:
    (record,) = find_records(sys.argv[1], "train", Reading()).records(0)
    print(record.captions)
except DataError as error:
    print(error.message, error.hint)
"""
