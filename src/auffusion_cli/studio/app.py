"""The studio as a web application: the HTTP API under /v1, and the page at /.

Everything that the page does goes through the API. Work waits in the queue (`jobs`); its progress
is told by server-sent events (WHATWG HTML, section 9.2), each event the whole state at its moment,
so that a slow reader misses nothing that counts and nothing piles up for it.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from auffusion_cli.errors import AuffusionError, UsageError
from auffusion_cli.parsing import decode, parse_json, plain
from auffusion_cli.studio import views
from auffusion_cli.studio.asks import ASKS, MAX_SOUND_S, read_ask, to_dict
from auffusion_cli.studio.command_line import TASK_OPTIONS, Loaded, command_line
from auffusion_cli.studio.files import MEDIA_TYPES, as_format, bring_in
from auffusion_cli.studio.guard import Access, Guard
from auffusion_cli.studio.history import Sound, State, UnknownSoundError
from auffusion_cli.studio.jobs import Job, JobQueue, QueueFullError
from auffusion_cli.studio.making import Maker
from auffusion_cli.studio.openapi import describe

STATIC = Path(__file__).parent / "static"
STATIC_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self';"
    " media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
MAX_BODY_BYTES = 1_000_000
"""Of JSON; recordings may have `files.MAX_UPLOAD_BYTES`."""
MAX_LISTED = 500
EVENT_INTERVAL_S = 0.1
SILENT_S = 15.0
"""After so long without an event a comment is sent, by which a reader that has gone is noticed."""
FOREVER = "private, max-age=31536000, immutable"


class Changes:
    """Wakes the readers of events; `announce` may be called on any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._readers: set[asyncio.Event] = set()

    def bind(self) -> None:
        """Belong to the running event loop."""
        self._loop = asyncio.get_running_loop()

    def announce(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(lambda: [one.set() for one in self._readers])

    async def watch(self, snapshot: Callable[[], Any]) -> AsyncIterator[Any]:
        """`snapshot()` now and whenever it may have changed; None after a long silence."""
        changed = asyncio.Event()
        self._readers.add(changed)
        try:
            while True:
                changed.clear()
                yield snapshot()
                await asyncio.sleep(EVENT_INTERVAL_S)
                while not changed.is_set():
                    with anyio.move_on_after(SILENT_S):
                        await changed.wait()
                    if not changed.is_set():
                        yield None
        finally:
            self._readers.discard(changed)


class Studio:
    """The endpoints, over one maker, its history and its queue."""

    def __init__(
        self,
        maker: Maker,
        model_name: str,
        access: Access | None = None,
        loaded: Loaded | None = None,
    ) -> None:
        self.loaded = loaded or Loaded(maker.defaults)
        self.maker, self.history, self.model_name = maker, maker.history, model_name
        self.changes = Changes()
        self.queue = JobQueue(maker.load, maker.work, self.changes.announce)
        self.static = {
            path.relative_to(STATIC).as_posix(): (path.read_bytes(), STATIC_TYPES[path.suffix])
            for path in STATIC.rglob("*")
            if path.suffix in STATIC_TYPES
        }
        self.app = Starlette(
            routes=self._routes(),
            middleware=[Middleware(Guard, access=access or Access())],
            exception_handlers={
                AuffusionError: _refuse,
                HTTPException: _refuse_route,
                ClientDisconnect: _refuse,
            },
            lifespan=self._lifespan,
        )

    def _routes(self) -> list[Route]:
        get, post = ["GET"], ["POST"]
        making = [
            Route(f"/v1/{task}", partial(self.make, task), methods=post, name=task) for task in ASKS
        ]
        return [
            Route("/", partial(self.page, "index.html"), methods=get),
            Route("/api", partial(self.page, "api.html"), methods=get),
            Route("/static/{name:path}", self.static_file, methods=get),
            Route("/openapi.json", self.openapi, methods=get),
            Route("/v1/info", self.info, methods=get),
            Route("/v1/events", self.events, methods=get),
            *making,
            Route("/v1/jobs", self.jobs, methods=get),
            Route("/v1/jobs/{id}", self.job, methods=get),
            Route("/v1/jobs/{id}", self.cancel, methods=["DELETE"]),
            Route("/v1/jobs/{id}/events", self.job_events, methods=get),
            Route("/v1/sounds", self.sounds, methods=get),
            Route("/v1/sounds", self.upload, methods=post),
            Route("/v1/sounds/{id}", self.sound, methods=get),
            Route("/v1/sounds/{id}", self.mark, methods=["PATCH"]),
            Route("/v1/sounds/{id}", self.delete, methods=["DELETE"]),
            Route("/v1/sounds/{id}/versions", self.versions, methods=get),
            Route("/v1/sounds/{id}/audio", self.audio, methods=get),
            Route("/v1/sounds/{id}/spectrogram.png", self.spectrogram, methods=get),
            Route("/v1/sounds/{id}/outline", self.outline, methods=get),
        ]

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        self.changes.bind()
        self.queue.start()
        try:
            yield
        finally:
            await run_in_threadpool(self.queue.stop)

    # --- the page and what describes the API

    def page(self, name: str, _request: Request) -> Response:
        content, media_type = self.static[name]
        nonce = secrets.token_urlsafe(16)
        return Response(
            content.replace(b"{{nonce}}", nonce.encode()),
            media_type=media_type,
            headers={
                "Content-Security-Policy": PAGE_POLICY.format(nonce=nonce),
                "Cache-Control": "no-store",
            },
        )

    def static_file(self, request: Request) -> Response:
        if (found := self.static.get(request.path_params["name"])) is None:
            raise HTTPException(404)
        return Response(found[0], media_type=found[1], headers={"Cache-Control": "no-cache"})

    def openapi(self, _request: Request) -> Response:
        return JSONResponse(describe())

    def info(self, _request: Request) -> Response:
        """The model and its defaults, and what the page needs to draw."""
        return JSONResponse(
            {
                "model": self.model_name,
                "loras": [Path(path).name for path in self.loaded.loras.values()],
                "defaults": plain(self.maker.defaults),
                "folder": str(self.history.folder),
                "max_duration_s": MAX_SOUND_S,
                "row_frequencies_hz": views.row_frequencies_hz(),
            }
        )

    # --- jobs

    async def make(self, task: str, request: Request) -> Response:
        """A new job; with `Accept: audio/wav` or `audio/flac` its sound, once it is made."""
        ask = read_ask(task, await _json_body(request))
        await run_in_threadpool(self.maker.check, ask)
        job = self.queue.add(ask)
        accepted = request.headers.get("accept", "").split(",")[0].split(";")[0].strip()
        wanted = next((name for name, kind in MEDIA_TYPES.items() if kind == accepted), None)
        if wanted is None:
            return JSONResponse(self._job(job), 202)
        async for _ in self.changes.watch(lambda: None):
            if job.is_finished:
                break
        if not job.sounds:
            return JSONResponse(self._job(job), 500 if job.status == "failed" else 409)
        return await run_in_threadpool(self._audio, self.history.find(job.sounds[0]), wanted)

    def jobs(self, _request: Request) -> Response:
        return JSONResponse(self._state())

    def job(self, request: Request) -> Response:
        return JSONResponse(self._job(self._find_job(request)))

    def cancel(self, request: Request) -> Response:
        job = self._find_job(request)
        self.queue.cancel(job)
        return JSONResponse(self._job(job))

    async def events(self, _request: Request) -> Response:
        """The state of model and queue, whenever it changes."""
        return _event_stream(self.changes.watch(self._state))

    async def job_events(self, request: Request) -> Response:
        """One job, whenever it changes, until it is finished."""
        job = self._find_job(request)

        async def until_finished() -> AsyncIterator[Any]:
            async for state in self.changes.watch(lambda: self._job(job)):
                yield state
                if state and state["status"] in ("done", "failed", "cancelled"):
                    return

        return _event_stream(until_finished())

    def _state(self) -> dict[str, Any]:
        return {
            "state": self.queue.state,
            "failure": self.queue.failure,
            "jobs": [job.to_dict() for job in self.queue.listed()],
        }

    def _job(self, job: Job) -> dict[str, Any]:
        return job.to_dict() | {"ask": to_dict(job.ask)}

    def _find_job(self, request: Request) -> Job:
        if (job := self.queue.find(request.path_params["id"])) is None:
            raise HTTPException(404, "there is no such job")
        return job

    # --- sounds

    def sounds(self, request: Request) -> Response:
        """The history, the newest first: ?q=words&state=kept&offset=0&limit=100."""
        query = request.query_params
        state = _value(State, query["state"], "state") if query.get("state") else None
        offset = _value(int, _number(query.get("offset", "0")), "offset")
        limit = _value(int, _number(query.get("limit", "100")), "limit")
        found = self.history.search(query.get("q", ""), state)
        shown = found[max(offset, 0) :][: max(0, min(limit, MAX_LISTED))]
        return JSONResponse({"n": len(found), "sounds": [self._sound(one) for one in shown]})

    async def upload(self, request: Request) -> Response:
        """Bring in a recording: its bytes are the body, ?name= is its file name."""
        name = request.query_params.get("name", "recording")
        sound = await bring_in(self.history, name, request.stream())
        return JSONResponse(self._sound(sound), 201)

    def sound(self, request: Request) -> Response:
        return JSONResponse(self._sound(self._find(request)))

    def versions(self, request: Request) -> Response:
        """The sound, what it was made from, and all that was made from these, the oldest first."""
        family = self.history.family(self._find(request))
        return JSONResponse({"sounds": [self._sound(one) for one in family]})

    async def mark(self, request: Request) -> Response:
        """Keep or discard a sound: {"state": "kept"}."""
        body = await _json_body(request)
        if not isinstance(body, dict) or set(body) != {"state"}:
            raise UsageError("the body is not an object with a state and nothing else")
        state = _value(State, body["state"], "state")
        marked = await run_in_threadpool(self.history.mark, request.path_params["id"], state)
        return JSONResponse(self._sound(marked))

    def delete(self, request: Request) -> Response:
        self.history.delete(request.path_params["id"])
        return Response(status_code=204)

    def audio(self, request: Request) -> Response:
        """The file as it is, or with ?format=wav or flac in that format."""
        wanted = request.query_params.get("format")
        if wanted is not None and wanted not in MEDIA_TYPES:
            raise UsageError(
                f"format {wanted[:20]!r} is not known", hint=f"Valid: {', '.join(MEDIA_TYPES)}."
            )
        return self._audio(self._find(request), wanted)

    def _audio(self, sound: Sound, wanted: str | None) -> Response:
        path = self.history.path(sound)
        headers = {
            "Cache-Control": FOREVER,
            "Auffusion-Sound": sound.id,
            "Content-Disposition": _attachment(path.stem, wanted or path.suffix[1:]),
        }
        if wanted in (None, path.suffix[1:].lower()):
            media_type = MEDIA_TYPES.get(path.suffix[1:].lower())
            return FileResponse(path, media_type=media_type, headers=headers)
        content = as_format(path, wanted)
        return Response(content, media_type=MEDIA_TYPES[wanted], headers=headers)

    def spectrogram(self, request: Request) -> Response:
        content = views.spectrogram_png(self.history.path(self._find(request)))
        return Response(content, media_type="image/png", headers={"Cache-Control": FOREVER})

    def outline(self, request: Request) -> Response:
        content = views.outline(self.history.path(self._find(request)))
        return JSONResponse(content, headers={"Cache-Control": FOREVER})

    def _find(self, request: Request) -> Sound:
        return self.history.find(request.path_params["id"])

    def _sound(self, sound: Sound) -> dict[str, Any]:
        """A sound with the command line that makes it again; None for what was brought in."""
        command = None
        if sound.record and sound.task in TASK_OPTIONS:
            source = self.history.source_path(sound)
            if sound.parent is None or source is not None:
                output = f"{Path(sound.file).stem.rpartition('-')[0]}{Path(sound.file).suffix}"
                command = command_line(sound.record, output, source, self.loaded)
        return plain(sound) | {"command": command}


# --- requests and answers


async def _json_body(request: Request) -> Any:
    """The JSON of a request.

    Raises:
        UsageError: it is none.
        HTTPException: it is too large, or not marked as JSON, as a form on a page elsewhere is not.
    """
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise HTTPException(415, "the content type has to be application/json")
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > MAX_BODY_BYTES:
            raise HTTPException(413, f"a request can have {MAX_BODY_BYTES:,} bytes")
    text = content.decode("utf-8", "replace")
    return parse_json(text, raising=UsageError, where="the request")


def _value(kind: Any, value: Any, name: str) -> Any:
    try:
        return decode(kind, value, name)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _number(text: str) -> Any:
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else text


def _attachment(stem: str, suffix: str) -> str:
    """A Content-Disposition (RFC 6266) that names the file, in any script."""
    return f"attachment; filename*=UTF-8''{quote(f'{stem}.{suffix}', safe='')}"


def _event_stream(states: AsyncIterator[Any]) -> Response:
    async def lines() -> AsyncIterator[str]:
        async for state in states:
            yield ": \n\n" if state is None else f"data: {json.dumps(state)}\n\n"

    return StreamingResponse(
        lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


def _refuse(_request: Request, error: Exception) -> Response:
    if isinstance(error, ClientDisconnect):
        return Response(status_code=400)
    status = {UnknownSoundError: 404, QueueFullError: 503}.get(type(error), 400)
    return JSONResponse({"error": error.message, "hint": error.hint}, status)


def _refuse_route(_request: Request, error: Exception) -> Response:
    return JSONResponse({"error": error.detail, "hint": None}, error.status_code)
