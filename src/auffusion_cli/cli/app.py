"""The entry point: global options, the list of commands, and the message for each failure.

A command is a module of `commands` with `register(app)`, imported to build `--help`: it imports
nothing heavy (torch, diffusers, transformers, rich) before its body runs.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from auffusion_cli import __version__
from auffusion_cli.cli import console
from auffusion_cli.cli.usage import ParserError, SuggestingGroup, explain
from auffusion_cli.cores import usable_cores
from auffusion_cli.errors import AuffusionError

COMMANDS = (
    "generate",
    "watch",
    "inpaint",
    "extend",
    "style-transfer",
    "edit",
    "mix",
    "finish",
    "attention",
    "info",
    "reproduce",
    "studio",
    "evaluate",
    "listen",
    "sweep",
    "models",
    "codec",
    "train",
    "config",
    "doctor",
)
"""In the order in which `--help` lists them; each is a module of `commands`."""

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


class FailureReportingGroup(SuggestingGroup):
    """Turns the exceptions of the parser and of commands into messages and exit codes.

    It stands here rather than in `main` so that tests through typer's `CliRunner` see the messages
    of users.
    """

    def list_commands(self, ctx: typer.Context) -> list[str]:
        """Names of the commands, in the order of `COMMANDS`; typer puts groups last."""
        return [name for name in COMMANDS if name in self.commands]

    def make_context(self, *args, **kwargs) -> typer.Context:
        try:
            return super().make_context(*args, **kwargs)
        except ParserError as error:
            raise typer.Exit(report_failure(explain(error, None), debug=False)) from None

    def invoke(self, ctx: typer.Context):
        try:
            return super().invoke(ctx)
        except typer.Abort:  # Ctrl-C, or the end of the input, where a question was asked
            raise typer.Exit(report_failure(KeyboardInterrupt(), debug=False)) from None
        # EOFError: typer would print "Aborted!" for it, and exit.
        except (AuffusionError, OSError, EOFError, MemoryError, KeyboardInterrupt) as error:
            raise typer.Exit(report_failure(error, debug=ctx.params["debug"])) from None
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise typer.Exit(report_failure(error, debug=ctx.params["debug"])) from None


def report_failure(error: BaseException, *, debug: bool) -> int:
    """Print the message of an exception on stderr and return the exit code.

    This is the one table of them. An exception that is not listed is a bug and reaches `main`.
    """
    if debug and not isinstance(error, BrokenPipeError):
        traceback.print_exception(error)
    match error:
        case AuffusionError():
            console.error(error.message, hint=error.hint)
            return error.exit_code
        case KeyboardInterrupt():
            console.error("stopped")
            return EXIT_INTERRUPTED
        case BrokenPipeError():
            # The reader of stdout has gone (`| head`). Python flushes stdout at exit: give it a
            # place where that cannot fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())
            return EXIT_BROKEN_PIPE
        case OSError(errno=errno.ENOSPC):
            console.error(
                f"no space left on the disk{_named_file(error)}",
                hint="Free some space; `auffusion doctor` shows the size of the caches.",
            )
            return 1
        case OSError():
            console.error(f"{error.strerror or error}{_named_file(error)}")
            return 1
        case EOFError():
            console.error(
                f"a file ends before it is complete{f': {error}' if str(error) else ''}",
                hint="`auffusion --debug …` shows which one.",
            )
            return 1
        case _ if is_out_of_memory(error):
            console.error(
                "out of memory",
                hint="Try a smaller --batch-size, a shorter --duration or --device cpu.",
            )
            return 1
    raise AssertionError(f"no message for {type(error).__name__}")


def is_out_of_memory(error: BaseException) -> bool:
    """True if Python, a GPU, or torch's CPU allocator ran out of memory."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")  # if it was never imported, the error is not torch's
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _named_file(error: OSError) -> str:
    return f": {error.filename}" if error.filename else ""


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"auffusion {__version__}")
        raise typer.Exit()


def _root(
    ctx: typer.Context,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show tracebacks, and messages of the libraries used."),
    ] = False,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Sound from words, offline.

    \b
    Examples:
      auffusion generate "dog barking in rain" -o rain.wav
      auffusion info rain.wav
      auffusion models list
    """
    ctx.with_resource(warnings.catch_warnings())
    console.show_warnings(debug=debug)
    if not debug:
        console.silence_libraries()
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def build_app(names: Sequence[str] = COMMANDS) -> typer.Typer:
    """The application with the commands of these names."""
    app = typer.Typer(
        name="auffusion",
        cls=FailureReportingGroup,
        # Plain help: importing what typer needs for boxes and colours takes longer than all else.
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    app.callback(invoke_without_command=True)(_root)
    for name in names:
        import_module(f"auffusion_cli.cli.commands.{name.replace('-', '_')}").register(app)
    return app


def called_commands(arguments: Sequence[str]) -> Sequence[str]:
    """The commands that a command line needs: the one it calls; all, where it calls none."""
    words = [word for word in arguments if not word.startswith("-")]
    return words[:1] if words and words[0] in COMMANDS else COMMANDS


def end_like_ctrl_c() -> None:
    """Let `kill`, `timeout` and a terminal that closes end a run as cleanly as Ctrl-C does."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # `nohup` ignores SIGHUP beforehand, and that stays.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def share_processors() -> None:
    """Use the cores that are free for us, and let threads that wait for each other sleep.

    Beside another program they would spin for a thread that is not scheduled, and two runs started
    together slow each other down (`benchmarks/busy.py`). OpenMP reads the variables when torch is
    imported; what a user has set stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    n_cores = usable_cores()
    if n_cores < (os.cpu_count() or 1):  # a container's quota, which OpenMP does not know of
        os.environ.setdefault("OMP_NUM_THREADS", str(n_cores))


def end_at_once() -> None:
    """Let the interpreter end without a last search for garbage.

    After torch, transformers and diffusers it would walk a million objects for two seconds, to free
    memory that the process is about to give back.
    """
    gc.disable()
    gc.freeze()


def main() -> None:
    """Run the command line on `sys.argv`."""
    end_like_ctrl_c()
    share_processors()
    try:
        build_app(called_commands(sys.argv[1:]))(prog_name="auffusion")
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        console.error(
            f"unexpected {type(error).__name__}: {error}",
            hint="This is a bug; the same command with `auffusion --debug …` shows where it is.",
        )
        sys.exit(1)
    except KeyboardInterrupt:  # while importing, before a command runs
        sys.exit(report_failure(KeyboardInterrupt(), debug=False))
    finally:
        end_at_once()
