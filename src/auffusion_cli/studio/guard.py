"""The border of the studio's server: who may ask, and what browsers may do with its answers.

A page elsewhere on the web can make a browser send requests to 127.0.0.1, and by DNS rebinding read
the answers, as if it were of the same origin. So the Host has to be one that the server goes by,
and an Origin, where there is one, the server's own. Where it listens beyond this machine a token is
needed, which a page elsewhere does not have.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "auffusion_token"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Of every answer; a page has a policy of its own."""


@dataclass(frozen=True)
class Access:
    """Who may ask."""

    token: str | None = None
    """Needed if given; the Host may then be any, as the server cannot know all of its names."""

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """(status, reason) where a request is to be refused."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.token is None and _host_name(host) not in LOOPBACK:
            return 403, "this server answers to 127.0.0.1 and localhost only"
        origin = headers.get("origin")
        if origin is not None and origin != f"{scope['scheme']}://{host}":
            return 403, "requests from pages of other origins are refused"
        is_visit = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not is_visit:
            return 403, "requests from pages of other origins are refused"
        if self.token is not None and not self._has_token(Request(scope)):
            return 401, "a token is needed: Authorization: Bearer TOKEN"
        return None

    def _has_token(self, request: Request) -> bool:
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = bearer if scheme.lower() == "bearer" else request.cookies.get(COOKIE, "")
        return hmac.compare_digest(given.encode(), self.token.encode())

    def sign_in(self, request: Request) -> Response | None:
        """The answer to a visit with ?token=…: the token as a cookie, and out of the address."""
        given = request.query_params.get("token", "")
        if self.token is None or not hmac.compare_digest(given.encode(), self.token.encode()):
            return None
        answer = RedirectResponse("/", status_code=303)
        answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
        return answer


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


class Guard:
    """ASGI middleware that refuses what `access` refuses, and adds `HEADERS` to every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer: ASGIApp = self.app
        if refusal := self.access.refusal(scope):
            status, reason = refusal
            signed_in = scope["path"] == "/" and status == 401
            answer = (signed_in and self.access.sign_in(Request(scope))) or JSONResponse(
                {"error": reason}, status
            )
        await answer(scope, receive, send_with_headers)
