"""`auffusion config`: where the user's configuration is, and the presets that there are."""

from __future__ import annotations

from typing import Annotated

import typer

from auffusion_cli.cli import console, options
from auffusion_cli.errors import OutputExistsError


def register(app: typer.Typer) -> None:
    app.command()(config)


def config(
    init: Annotated[
        bool, typer.Option("--init", help="Write a configuration to start from, if there is none.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Show the configuration file and the presets of `auffusion generate --preset`.

    The file is TOML, in the platform's folder for configuration. A table [presets.NAME] has long
    options of `generate`, without their dashes; one of the same name replaces the program's own.

    \b
    Examples:
      auffusion config
      auffusion config --init
      auffusion generate "rain" --preset loop -o rain.wav
    """
    from auffusion_cli.cli.presets import BUILT_IN, EXAMPLE, config_path, read_presets

    path = config_path()
    if init:
        if path.exists():
            raise OutputExistsError(f"{path} exists", hint="Change it in a text editor.")
        from auffusion_cli.files import write_text

        write_text(path, EXAMPLE)
    presets = read_presets()
    if json:
        console.print_json({"file": str(path), "exists": path.is_file(), "presets": presets})
        return
    console.print_line(f"{path}{'' if path.is_file() else ' (not there yet: --init writes it)'}")
    console.print_line()
    rows = [
        (
            name,
            "auffusion" if presets[name] is BUILT_IN.get(name) else "yours",
            " ".join(_option(option, value) for option, value in values.items()),
        )
        for name, values in presets.items()
    ]
    console.print_table(("PRESET", "OF", "OPTIONS"), rows)


def _option(name: str, value: object) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name} {value}"
