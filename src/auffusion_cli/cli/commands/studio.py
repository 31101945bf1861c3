"""`auffusion studio`: a local page to make and edit sounds in, and an HTTP API."""

from __future__ import annotations

import secrets
import webbrowser
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from auffusion_cli.cli import console, options
from auffusion_cli.errors import AuffusionError, UsageError

if TYPE_CHECKING:
    from auffusion_cli.cli.making import Setup
    from auffusion_cli.model import Model
    from auffusion_cli.studio.command_line import Loaded

DEFAULT_PORT = 8420
DEFAULT_FOLDER = Path("~/auffusion-studio")


def register(app: typer.Typer) -> None:
    app.command()(options.grouped(studio))


def studio(
    folder: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where everything that is made is kept.")
    ] = DEFAULT_FOLDER,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="To listen on; 0 is any free one.")
    ] = DEFAULT_PORT,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but 127.0.0.1 needs the token.")
    ] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(
            envvar="AUFFUSION_TOKEN",
            help="What others have to send; by default one is drawn where one is needed.",
        ),
    ] = None,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Do not open the browser.", show_default=False)
    ] = False,
    *,
    loading: options.Loading,
    yes: options.Yes = False,
) -> None:
    """Open a page to make, hear, change and keep sounds in.

    The model is loaded once and stays warm. Everything that is made stays in --folder, as ordinary
    sound files that carry their records. The same server is an HTTP API: /openapi.json describes
    it. End it with Ctrl-C.

    \b
    Examples:
      auffusion studio
      auffusion studio --folder game-sounds --port 0
      auffusion studio --lora bells.safetensors:0.8
      auffusion studio --host 0.0.0.0 --no-open
    """
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise AuffusionError(
            "the studio needs Starlette and uvicorn",
            hint='Install them: pip install "auffusion[studio]".',
        )
    from auffusion_cli.cli.making import set_up
    from auffusion_cli.files import exclusive_use
    from auffusion_cli.studio.app import Studio
    from auffusion_cli.studio.guard import LOOPBACK, Access
    from auffusion_cli.studio.history import History
    from auffusion_cli.studio.making import Maker
    from auffusion_cli.studio.server import listen, serve

    if token == "":  # as of a variable that is not set
        raise UsageError("--token is empty, and would let everybody in", hint="Leave it out.")
    if host not in LOOPBACK and token is None:
        token = secrets.token_urlsafe(16)
    setup = set_up(loading, {}, options.Run(yes=yes))
    folder = folder.expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive_use(folder), listen(host, port) as listener:
        history = History(folder)

        def load_model_of_words(model: Model) -> Model:
            if model.networks.engine == "torch":
                return model
            return set_up(loading, {}, options.Run(yes=yes), needs_torch="edit").load()

        maker = Maker(setup.load, setup.defaults, history, load_model_of_words)
        shown_host = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        shown_host = f"[{shown_host}]" if ":" in shown_host else shown_host
        address = f"http://{shown_host}:{listener.getsockname()[1]}/"
        if token is not None:
            address += f"?token={quote(token, safe='')}"

        def on_ready() -> None:
            console.print_line(address)
            console.note(f"sounds are kept in {folder}; Ctrl-C ends the studio")
            if not no_open:
                webbrowser.open(address)

        with suppress(KeyboardInterrupt):
            studio = Studio(maker, loading.model, Access(token), _loaded(setup))
            serve(studio.app, listener, on_ready)


def _loaded(setup: Setup) -> Loaded:
    """What commands have to ask for, so that they make the same."""
    from auffusion_cli.requests.loras import parse_loras
    from auffusion_cli.studio.command_line import Loaded

    loading = setup.loading
    files = [lora.find().absolute() for lora in parse_loras(loading.lora)]
    loras = {record.sha256: str(file) for record, file in zip(setup.loras, files, strict=True)}
    asked = {name: getattr(loading, name) for name in ("vocoder", "engine", "device", "dtype")}
    given = [(f"--{name}", value) for name, value in asked.items() if value != "auto"]
    return Loaded(setup.defaults, loras, tuple(part for pair in given for part in pair))
