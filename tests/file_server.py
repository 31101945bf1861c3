"""A server of one file, as its publisher's would be, on this machine."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer(ThreadingHTTPServer):
    """Serves `content` everywhere, by ranges; the first answers break off after `cuts` bytes."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.cuts, self.ranges, self.status = content, [], [], 200

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_error):
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def log_message(self, *_):
        pass

    def do_GET(self):
        header = self.headers.get("Range")
        self.server.ranges.append(header)
        start = int(header.removeprefix("bytes=").removesuffix("-")) if header else 0
        body = self.server.content[start:]
        status = self.server.status if self.server.status != 200 else (206 if header else 200)
        if header and not body:
            status = 416
        self.send_response(status)
        n_total = len(self.server.content)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{n_total - 1}/{n_total}")
        self.send_header("Content-Length", str(len(body) if status < 300 else 0))
        self.end_headers()
        if status < 300:
            self.wfile.write(body[: self.server.cuts.pop(0) if self.server.cuts else None])
