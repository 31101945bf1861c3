"""Formats of written sounds, as `--format` names them."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Format = Literal["wav", "wav24", "wavfloat", "flac", "ogg", "mp3"]
FormatOption = Annotated[
    Format | None,
    typer.Option("--format", help="Of the files; by default as the output's name says."),
]
SUFFIX_AND_SUBTYPE: dict[str | None, tuple[str | None, str]] = {
    None: (None, "pcm16"),
    "wav": (".wav", "pcm16"),
    "wav24": (".wav", "pcm24"),
    "wavfloat": (".wav", "float"),
    "flac": (".flac", "pcm16"),
    "ogg": (".ogg", "pcm16"),
    "mp3": (".mp3", "pcm16"),
}
