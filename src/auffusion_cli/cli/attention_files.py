"""Files of `auffusion attention`: a picture, and numbers and a sound for each model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from auffusion_cli.cli.outputs import (
    as_template,
    check_distinct,
    check_free,
    check_writable,
    fill,
)
from auffusion_cli.signal.formats import WRITTEN

if TYPE_CHECKING:
    from auffusion_cli.cli.recorded import Origin


@dataclass(frozen=True)
class Files:
    """Paths of the results; data and sounds are one for each model, or none."""

    picture: Path
    data: list[Path]
    sounds: list[Path]

    def all(self) -> list[Path]:
        return [self.picture, *self.data, *self.sounds]

    def check(self, *, overwrite: bool) -> None:
        """Raise a UsageError where they would collide, cannot be written, or are there already."""
        for option, paths in (
            ("--output", [self.picture]),
            ("--data", self.data),
            ("--audio", self.sounds),
        ):
            check_distinct(paths, option, hint="Give a name with {model} in it.")
            check_writable(paths, option)
        if not overwrite:
            check_free(self.all())


def choose_files(
    output: str | None,
    data: str | None,
    audio: str | None,
    origin: Origin,
    models: Sequence[str],
) -> Files:
    """The files that the options --output, --data and --audio stand for."""
    fields = {
        "name": origin.name,
        "prompt": origin.request.prompt,
        "seed": origin.request.seed,
    }
    template = as_template(output, None, "{name}-attention", "--output", suffixes=(".png",))
    picture = fill(template, fields, "--output")

    def each(option: str, text: str | None, suffixes: Sequence[str]) -> list[Path]:
        if text is None:
            return []
        default = "{name}-attention" + ("-{model}" if len(models) > 1 else "")
        template = as_template(text, None, default, option, suffixes)
        return [fill(template, fields | {"model": Path(m).name}, option) for m in models]

    return Files(picture, each("--data", data, (".npz",)), each("--audio", audio, tuple(WRITTEN)))
