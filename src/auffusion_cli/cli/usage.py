"""Errors of the command line's parser as a `UsageError`: what is wrong, and what is valid."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperGroup

from auffusion_cli.errors import UsageError

# Of typer's own parser, or click's, whichever this version of typer is made of.
_parser = sys.modules[typer.BadParameter.__module__]
ParserError: type[Exception] = _parser.UsageError
HelpShown = getattr(_parser, "NoArgsIsHelpError", ())  # older parsers raise none

KINDS = {int: "whole numbers", float: "numbers"}
EXAMPLE = re.compile(r"^\s*Examples?:\n\s*((?:.+\\\n)*.+)$", re.MULTILINE)
CONTINUED = re.compile(r"\s*\\\n\s*")
EXTRA_ARGUMENTS = re.compile(r"unexpected extra arguments?(?:\(s\))? \((.*)\)", re.DOTALL)


class SuggestingGroup(TyperGroup):
    """A group that raises a `UsageError` for mistyped commands, options and values.

    Its help has the whole first sentence of each command, over as many lines as it takes.
    """

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            rows.append((name, command.get_short_help_str(limit=sys.maxsize)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: typer.Context):
        try:
            return super().invoke(ctx)
        except HelpShown:
            raise
        except ParserError as error:
            raise explain(error, ctx) from None

    def resolve_command(self, ctx: typer.Context, args: list[str]):
        name = args[0]
        if name.startswith("-") or ctx.resilient_parsing or self.get_command(ctx, name):
            return super().resolve_command(ctx, args)
        names = self.list_commands(ctx)
        begun = [known for known in names if known.startswith(name)]
        hint = _did_you_mean(begun or _nearest(name, names)) or f"Valid: {', '.join(names)}."
        if "generate" in names and not begun:  # it may be words
            sound = f'To make a sound of it: {ctx.command_path} generate "{name}".'
            hint = sound if " " in name else f"{hint} {sound}"
        raise UsageError(f"There is no command {name!r} of `{ctx.command_path}`", hint=hint)


def explain(error: Any, group: typer.Context | None) -> UsageError:
    """An error of typer's parser in the style of this program.

    `group` is the context in which the command was called; not every error carries it.
    """
    command, path = _command_of(error, group)
    options = {name: each for each in (command.params if command else ()) for name in each.opts}
    called = f"`{path}`"
    match error:
        case _parser.NoSuchOption():
            name = error.option_name
            near = _nearest(name, [known for known in options if known != "-"])
            hint = f"`{path} --help` lists them."
            takes_words = any(each.param_type_name == "argument" for each in options.values())
            if takes_words and not name.startswith("--"):  # it may be their first letter
                hint += f' Words that begin with "-" come after "--": {path} -- "{name}…".'
            return UsageError(f"{called} has no option {name!r}", hint=_did_you_mean(near) or hint)
        case _parser.BadOptionUsage():
            return _bad_usage(error, options.get(error.option_name))
        case _parser.MissingParameter():
            name = _name(error.param)
            return UsageError(f"{called}: {name} is missing", hint=_example(command))
        case _parser.BadParameter() if error.param is not None:
            return _bad_value(error, command)
    if extra := EXTRA_ARGUMENTS.search(error.format_message()):
        return UsageError(
            f"{called}: unexpected argument {extra[1]!r}",
            hint=f"Put words that belong together into quotes. {_example(command) or ''}".strip(),
        )
    return UsageError(error.format_message())


def _command_of(error: Any, group: typer.Context | None) -> tuple[Any, str]:
    """(the command, as it is called) of `error`; (None, …) where it is not known."""
    if error.ctx is not None:
        return error.ctx.command, error.ctx.command_path
    if group is None or group.invoked_subcommand is None:
        return None, "auffusion"
    name = group.invoked_subcommand
    return group.command.get_command(group, name), f"{group.command_path} {name}"


def _bad_usage(error: Any, option: Any) -> UsageError:
    """The error of an option without its value, or of a switch with one."""
    name = error.option_name
    if option is None:
        return UsageError(error.format_message())
    if option.is_flag:
        return UsageError(f"{name} is a switch and takes no value")
    n_values = "a value" if option.nargs == 1 else f"{option.nargs} values"
    usage = f"{name} {option.metavar}" if option.metavar else name
    return UsageError(f"{name} is given without {n_values}", hint=f"{usage}: {option.help}")


def _bad_value(error: Any, command: Any) -> UsageError:
    """The error of a value of the wrong type, or outside of its range."""
    kind, info = _declared(command.callback, error.param.name)
    name = _name(error.param)
    # The parser's message has the value, or else its cause does.
    causes = getattr(error.__cause__, "errors", lambda: [])()
    given = f"{name} {causes[0]['input']!r}" if causes else f"{name}: {error.message}"
    if get_origin(kind) is Literal:
        return UsageError(f"{given} is not known", hint=f"Valid: {', '.join(get_args(kind))}.")
    if kind not in KINDS:
        return UsageError(error.format_message())
    limits = ((" from", info.min), (" to", info.max))
    within = "".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)
    return UsageError(f"{given} is not possible", hint=f"Valid: {KINDS[kind]}{within}.")


def _declared(function: Any, name: str) -> tuple[Any, Any]:
    """(type of one value, typer's description) of a parameter."""
    kind, info = get_args(get_type_hints(function, include_extras=True)[name])[:2]
    while get_origin(kind) is not Literal and get_args(kind):
        kind = next(part for part in get_args(kind) if part is not type(None))
    return kind, info


def _name(parameter: Any) -> str:
    """A parameter's name as it is typed: the longest of an option, the metavar of an argument."""
    if parameter.param_type_name == "option":
        return max(parameter.opts, key=len)
    return parameter.metavar or parameter.name.upper()


def _example(command: Any) -> str | None:
    """The first example of the command's help."""
    found = EXAMPLE.search(command.help or "") if command else None
    return f"For example: {CONTINUED.sub(' ', found[1]).strip()}" if found else None


def _nearest(name: str, known: Iterable[str]) -> list[str]:
    return get_close_matches(name, known, n=2, cutoff=0.7)


def _did_you_mean(near: list[str]) -> str | None:
    return f"Did you mean {' or '.join(near)}?" if near else None
