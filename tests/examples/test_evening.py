"""The commands of the designer's evening ask for what its page says."""

import json
import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from auffusion_cli.cli.app import build_app

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "evening" / "evening.sh"


def test_it_makes_37_sounds_for_a_project(tmp_path):
    text = SCRIPT.read_text().replace("\\\n", " ")
    variables = {"root": str(ROOT), "folder": str(tmp_path)}
    variables["project"] = re.search(r'^project="(.*)"$', text, re.MULTILINE)[1]
    n_sounds = 0
    for line in re.findall(r"^auffusion (.*)$", text, re.MULTILINE):
        for name, value in variables.items():
            line = line.replace(f"${name}", value)
        assert "--rate 48000 --channels 2" in line or "--preset loop" in line
        planned = CliRunner().invoke(build_app(), [*shlex.split(line), "--dry-run", "--json"])
        assert planned.exit_code == 0, planned.output
        n_sounds += len(json.loads(planned.stdout)["sounds"])
    assert n_sounds == 37
