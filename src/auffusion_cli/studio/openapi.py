"""The description of the API (OpenAPI 3.1), made of the dataclasses of its requests."""

from __future__ import annotations

import inspect
import types
import typing
from dataclasses import MISSING, Field, fields
from typing import Any, Literal

from auffusion_cli import __version__
from auffusion_cli.studio.asks import ASKS, AnyAsk
from auffusion_cli.studio.files import MEDIA_TYPES
from auffusion_cli.studio.history import Sound

PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean"}
JOB = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "task": {"type": "string"},
        "title": {"type": "string"},
        "status": {"enum": ["waiting", "running", "done", "failed", "cancelled"]},
        "n_done": {"type": "integer", "description": "Denoising steps done."},
        "n_steps": {"type": "integer", "description": "Of all; 0 while it is not known."},
        "sounds": {"type": "array", "items": {"type": "string"}, "description": "Ids."},
        "remarks": {"type": "array", "items": {"type": "string"}},
        "error": {"type": ["string", "null"]},
        "ask": {"type": "object", "description": "What was asked for, with the seed."},
    },
}
ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}, "hint": {"type": ["string", "null"]}},
}


def describe() -> dict[str, Any]:
    """The whole document."""
    schemas = {ask.__name__: _object(ask) for ask in ASKS.values()}
    schemas |= {"Sound": _object(Sound), "Job": JOB, "Error": ERROR}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "auffusion studio",
            "version": __version__,
            "description": "Sounds from words, and recordings changed by them. A token, where the"
            " server needs one, is sent as Authorization: Bearer TOKEN.",
        },
        "paths": {f"/v1/{task}": {"post": _making(ask)} for task, ask in ASKS.items()} | _paths(),
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _making(ask: type[AnyAsk]) -> dict[str, Any]:
    audio = {
        kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES.values()
    }
    return {
        "summary": _first_line(ask),
        "description": "Answers with a job at once, or, with Accept: audio/wav or audio/flac, with"
        " the sound once it is made.",
        "requestBody": {"required": True, "content": _json(f"#/components/schemas/{ask.__name__}")},
        "responses": {
            "202": {"description": "The job.", "content": _json("#/components/schemas/Job")},
            "200": {"description": "The sound.", "content": audio},
            "400": {"description": "Impossible.", "content": _json("#/components/schemas/Error")},
            "404": {"description": "No such source."},
            "503": {"description": "Too many jobs wait."},
        },
    }


def _paths() -> dict[str, Any]:
    job, sound = "#/components/schemas/Job", "#/components/schemas/Sound"
    by_id = [_parameter("id", "path")]
    return {
        "/v1/info": {"get": _answer("The model and its defaults.", None)},
        "/v1/events": {"get": _answer("Model and queue, as server-sent events.", None)},
        "/v1/jobs": {"get": _answer("Model and queue, once.", None)},
        "/v1/jobs/{id}": {
            "parameters": by_id,
            "get": _answer("One job.", job),
            "delete": _answer("Cancel it; one that runs ends after its step.", job),
        },
        "/v1/jobs/{id}/events": {
            "parameters": by_id,
            "get": _answer("One job until it is finished, as server-sent events.", None),
        },
        "/v1/sounds": {
            "get": _answer("The history, the newest first.", None)
            | {"parameters": [_parameter(name) for name in ("q", "state", "offset", "limit")]},
            "post": _answer("Bring in a recording; its bytes are the body.", sound, "201")
            | {
                "parameters": [_parameter("name")],
                "requestBody": {"content": {"application/octet-stream": {}}},
            },
        },
        "/v1/sounds/{id}": {
            "parameters": by_id,
            "get": _answer("One sound, with its record.", sound),
            "patch": _answer('Keep or discard it: {"state": "kept"}.', sound),
            "delete": _answer("Delete its files.", None, "204"),
        },
        "/v1/sounds/{id}/versions": {
            "parameters": by_id,
            "get": _answer("It, and all that it was made from or that was made from it.", None),
        },
        "/v1/sounds/{id}/audio": {
            "parameters": [*by_id, _parameter("format")],
            "get": _answer("Its file, or with ?format=wav or flac in that format.", None),
        },
        "/v1/sounds/{id}/spectrogram.png": {
            "parameters": by_id,
            "get": _answer("Its mel spectrogram, without axes.", None),
        },
        "/v1/sounds/{id}/outline": {
            "parameters": by_id,
            "get": _answer("Peaks of its waveform, and its loudness in dB.", None),
        },
    }


def _answer(summary: str, schema: str | None, status: str = "200") -> dict[str, Any]:
    content = {"content": _json(schema)} if schema else {}
    return {"summary": summary, "responses": {status: {"description": summary, **content}}}


def _parameter(name: str, place: str = "query") -> dict[str, Any]:
    required = place == "path"
    return {"name": name, "in": place, "required": required, "schema": {"type": "string"}}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": schema}}}


def _object(owner: type) -> dict[str, Any]:
    hints = typing.get_type_hints(owner)
    return {
        "type": "object",
        "description": _first_line(owner),
        "properties": {one.name: _property(hints[one.name], one) for one in fields(owner)},
        "required": [one.name for one in fields(owner) if one.default is MISSING],
        "additionalProperties": False,
    }


def _property(kind: Any, field: Field) -> dict[str, Any]:
    schema = _schema(kind)
    if field.default is not MISSING:
        schema["default"] = list(field.default) if field.default == () else field.default
    return schema


def _schema(kind: Any) -> dict[str, Any]:
    """The JSON schema of an annotation that `parsing.decode` reads."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (types.UnionType, typing.Union):
        options = [_schema(one) for one in arguments if one is not types.NoneType]
        return {"anyOf": [*options, {"type": "null"}]}
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0])}
    return {"type": PLAIN.get(kind, "object")}


def _first_line(owner: type) -> str:
    return inspect.getdoc(owner).splitlines()[0]
