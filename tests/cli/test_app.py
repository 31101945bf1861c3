"""The entry point: help, version, and what users see when something fails."""

from __future__ import annotations

import errno
import os
import resource
import shlex
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from auffusion_cli import __version__
from auffusion_cli.cli import app as entry
from auffusion_cli.cli.app import COMMANDS, build_app, called_commands
from auffusion_cli.errors import AudioError, AuffusionWarning, UsageError

AUFFUSION = str(Path(sys.executable).with_name("auffusion"))
HELP_LIMIT_S = 0.4


def run_with(body, *arguments: str):
    """Run `auffusion … probe`, a command that does `body()`, and return typer's result."""
    app = build_app()
    app.command("probe")(lambda: body())
    return CliRunner().invoke(app, [*arguments, "probe"], prog_name="auffusion")


def raise_(error: BaseException):
    raise error


def test_help_lists_every_command():
    help_text = CliRunner().invoke(build_app(), ["--help"]).stdout
    assert all(f"\n  {name} " in help_text for name in COMMANDS)
    assert "..." not in help_text.split("Commands:")[1]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("generate rain --help", ["generate"]),
        ("--debug models list", ["models"]),
        ("genrate rain", COMMANDS),  # a suggestion is looked for among all of them
        ("--help", COMMANDS),
        ("", COMMANDS),
    ],
)
def test_only_the_command_that_is_called_is_imported(line, names):
    assert called_commands(line.split()) == names
    app = build_app(names)
    assert len(app.registered_commands) + len(app.registered_groups) == len(names)


def test_no_arguments_show_the_help():
    result = CliRunner().invoke(build_app(), [], prog_name="auffusion")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: auffusion")


def test_help_imports_nothing_heavy():
    script = (
        "import sys; sys.argv = ['auffusion', '--help']\n"
        "from auffusion_cli.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'diffusers', 'transformers', 'huggingface_hub', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert process.stderr.strip() == "[]"


def test_help_is_quick():
    """Measured in processor time, so that a busy machine does not fail it."""

    def cpu_time_s() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([AUFFUSION, "--help"], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cpu_time_s() for _ in range(4)) <= HELP_LIMIT_S


def test_version():
    process = subprocess.run([AUFFUSION, "--version"], capture_output=True, text=True)
    assert process.stdout == f"auffusion {__version__}\n"


def test_a_command_without_words_is_not_told_how_to_give_them():
    result = CliRunner().invoke(build_app(), ["doctor", "-x"], prog_name="auffusion")
    assert result.exit_code == 2
    assert result.stderr.endswith("hint: `auffusion doctor --help` lists them.\n")


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("docter", "There is no command 'docter' of `auffusion`", "Did you mean doctor? To make"),
        ("rain", "There is no command 'rain'", "train? To make a sound of it: auffusion generate"),
        ("gen rain", "There is no command 'gen'", "Did you mean generate?"),
        ("zzz", "There is no command 'zzz'", "Valid: generate, "),
        ("'a dog barks'", "no command 'a dog barks'", 'auffusion generate "a dog barks".'),
        ("models lst", "no command 'lst' of `auffusion models`", "Did you mean list?"),
        ("--debgu info a", "`auffusion` has no option '--debgu'", "Did you mean --debug?"),
        ("generate x --stepz 3", "`auffusion generate` has no option '--stepz'", "--steps?"),
        ("generate -rain", "`auffusion generate` has no option '-r'", 'generate -- "-r…"'),
        ("generate x --zzz", "no option '--zzz'", "`auffusion generate --help` lists them."),
        ("generate x --steps abc", "--steps 'abc' is neither a whole number nor auto", None),
        ("generate x --seed 1.5", "--seed '1.5' is not possible", "Valid: whole numbers."),
        ("generate x -n 0", "-n '0' is not possible", "Valid: whole numbers from 1 to 100000."),
        ("generate x --guidance much", "--guidance 'much' is not possible", "Valid: numbers."),
        ("generate x --scheduler plms", "--scheduler 'plms' is not known", "Valid: pndm, ddim"),
        ("reproduce a --device gpu", "--device 'gpu' is not known", "Valid: auto, cpu, cuda"),
        ("generate x -o", "-o is given without a value", "-o FILE|FOLDER|TEMPLATE: Where to"),
        ("models convert a -o", "-o is given without a value", "-o: The folder to write."),
        ("evaluate --compare a", "--compare is given without 2 values", "A.json B.json"),
        ("generate x --dry-run=3", "--dry-run is a switch and takes no value", None),
        ("inpaint", "`auffusion inpaint`: FILE is missing", "auffusion inpaint clip.wav --mask"),
        ("style-transfer a.wav", "PROMPT is missing", 'dog.wav "a cat meowing"'),
        ("codec a.wav", "`auffusion codec`: --output is missing", "For example: auffusion codec"),
        ("models compose", "--unet is missing", " --vocoder auffusion --text-encoder google/flan"),
        ("style-transfer a.wav a cat", "unexpected argument 'cat'", "into quotes."),
        (
            "generate x --steps '\x1b[2J'",
            r"--steps '\x1b[2J' is neither a whole number nor auto",
            None,
        ),
    ],
)
def test_what_cannot_be_parsed_is_told_like_any_mistake(line, message, hint):
    result = CliRunner().invoke(build_app(), shlex.split(line), prog_name="auffusion")
    assert result.exit_code == 2 and result.stdout == ""
    error, *hints = result.stderr.splitlines()
    assert error.startswith("error: ") and message in error
    assert len(hints) == (hint is not None)
    if hint:
        assert hints[0].startswith("hint: ") and hint in hints[0]


def test_a_group_without_a_command_shows_its_help():
    result = CliRunner().invoke(build_app(), ["models"], prog_name="auffusion")
    assert result.exit_code == 2 and "Usage: auffusion models" in result.stderr


def test_a_run_is_ended_by_a_signal_as_by_ctrl_c():
    script = (
        "import signal, sys, time; sys.argv = ['auffusion', 'probe']\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # nohup leaves it ignored
        "from auffusion_cli.cli import app as a\n"
        "app = a.build_app(['config'])\n"
        "app.command('probe')(lambda: (print('ready', flush=True), time.sleep(60)))\n"
        "a.build_app = lambda names: app\n"
        "a.main()\n"
    )
    command = [sys.executable, "-c", script]
    processes = {
        number: subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for number in (signal.SIGTERM, signal.SIGHUP)
    }
    for number, process in processes.items():
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.communicate(timeout=20)[1] == b"error: stopped\n"
        assert process.returncode == 130


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("auffusion doc", ["doctor"]), ("auffusion generate --model em", ["embedded"])],
)
def test_completion(typed, offered):
    environment = os.environ | {
        "_AUFFUSION_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    process = subprocess.run([AUFFUSION], env=environment, capture_output=True, text=True)
    assert process.stdout.split() == offered


@pytest.mark.parametrize(
    ("error", "exit_code", "shown"),
    [
        (
            AudioError("a.wav: not audio", hint="try wav"),
            1,
            "error: a.wav: not audio\nhint: try wav\n",
        ),
        (UsageError("--steps 0 is below 1"), 2, "error: --steps 0 is below 1\n"),
        (KeyboardInterrupt(), 130, "error: stopped\n"),
        (typer.Abort(), 130, "error: stopped\n"),
        (
            OSError(errno.ENOSPC, "No space left", "a.wav"),
            1,
            "error: no space left on the disk: a.wav",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "a.wav"),
            1,
            "error: Permission denied: a.wav\n",
        ),
        (EOFError("Ran out of input"), 1, "error: a file ends before it is complete: Ran out"),
        (AudioError(f"{'a' * 400}.wav: not audio"), 1, f"error: {'a' * 51} … {'a' * 21}.wav: not"),
        (AudioError("a.wav: \x1b]0;x\x07 \u202e\nb"), 1, r"error: a.wav: \x1b]0;x\x07 \u202e b"),
        (MemoryError(), 1, "error: out of memory\n"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "error: out of memory\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_failures_become_messages(error, exit_code, shown):
    result = run_with(lambda: raise_(error))
    assert result.exit_code == exit_code
    assert result.stderr.startswith(shown)
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_gpu_out_of_memory_is_a_message():
    torch = pytest.importorskip("torch")
    result = run_with(lambda: raise_(torch.OutOfMemoryError("CUDA out of memory")))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: out of memory\n")


def test_debug_shows_the_traceback():
    result = run_with(lambda: raise_(AudioError("a.wav: not audio")), "--debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "error: a.wav: not audio" in result.stderr


def test_a_command_chooses_its_exit_code():
    assert run_with(lambda: raise_(typer.Exit(3))).exit_code == 3


@pytest.mark.parametrize("debug", [False, True])
def test_a_bug_is_called_one(monkeypatch, capsys, debug):
    from auffusion_cli.cli import app as app_module

    monkeypatch.setattr(sys, "argv", ["auffusion", *(["--debug"] if debug else []), "probe"])
    built = build_app()
    built.command("probe")(lambda: raise_(ZeroDivisionError("division by zero")))
    monkeypatch.setattr(app_module, "build_app", lambda names: built)
    if debug:
        with pytest.raises(ZeroDivisionError):
            app_module.main()
    else:
        with pytest.raises(SystemExit, match="1"):
            app_module.main()
        assert "unexpected ZeroDivisionError: division by zero" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error():
    script = (
        "import sys; sys.argv = ['auffusion', 'probe']\n"
        "from auffusion_cli.cli import app as a\n"
        "app = a.build_app()\n"
        "app.command('probe')(lambda: [print('x' * 1000, flush=True) for _ in range(1000)])\n"
        "a.build_app = lambda names: app\n"
        "a.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


def warn_twice():
    warnings.warn("using Griffin-Lim", AuffusionWarning, stacklevel=1)
    warnings.warn("will change in version 9", FutureWarning, stacklevel=1)


def test_own_warnings_are_shown_and_others_are_not():
    assert run_with(warn_twice).stderr == "warning: using Griffin-Lim\n"


def test_debug_shows_the_warnings_of_others():
    assert "will change in version 9" in run_with(warn_twice, "--debug").stderr


def test_nohup_goes_on():
    script = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from auffusion_cli.cli.app import end_like_ctrl_c\n"
        "end_like_ctrl_c()\n"
        "signal.raise_signal(signal.SIGHUP)\n"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.parametrize("asked", [None, "ACTIVE"])
def test_waiting_threads_sleep_unless_the_user_lets_them_spin(monkeypatch, asked):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if asked:
        monkeypatch.setenv("OMP_WAIT_POLICY", asked)
    script = (
        "import os, sys; sys.argv = ['auffusion', 'probe']\n"
        "from auffusion_cli.cli import app as a\n"
        "app = a.build_app()\n"
        "probe = lambda: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)\n"
        "app.command('probe')(probe)\n"
        "a.build_app = lambda names: app\n"
        "a.main()\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout == f"{asked or 'PASSIVE'} False\n"


@pytest.mark.parametrize(("asked", "expected"), [(None, "2"), ("3", "3")])
def test_openmp_starts_no_more_threads_than_a_container_may_run(monkeypatch, asked, expected):
    monkeypatch.setattr(entry, "usable_cores", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("OMP_NUM_THREADS", asked or "")
    if not asked:
        monkeypatch.delenv("OMP_NUM_THREADS")
    entry.share_processors()
    assert os.environ["OMP_NUM_THREADS"] == expected
