"""Playing a sound with a player of the system."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from auffusion_cli.errors import AuffusionError, UsageError

PLAYERS: dict[str, tuple[str, ...]] = {
    "ffplay": ("-nodisp", "-autoexit", "-loglevel", "error"),
    "afplay": (),
    "pw-play": (),
    "paplay": (),
    "aplay": ("-q",),
}
"""Program -> its options, in order of preference."""
WAV_ONLY = ("aplay",)


def find_player(suffix: str) -> list[str]:
    """The command that plays files of this kind, but for the file.

    Raises:
        UsageError: none of the players is installed.
    """
    for name, options in PLAYERS.items():
        program = shutil.which(name)
        if program and (suffix == ".wav" or name not in WAV_ONLY):
            return [program, *options]
    raise UsageError(
        f"--play: no player for {suffix} files was found",
        hint=f"Install one of {', '.join(PLAYERS)}, or leave --play out.",
    )


def play(player: list[str], path: Path) -> None:
    """Play a file to its end."""
    command = [*player, str(path.resolve())]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()
        raise AuffusionError(
            f"{path} was written, but {Path(player[0]).name} could not play it:"
            f" {reason[-1] if reason else f'exit code {done.returncode}'}"
        )
