"""One list, several processes: shards, launches, claims, and a manifest that survives `kill -9`."""

import hashlib
import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from auffusion_cli.cli import batch
from auffusion_cli.cli.app import build_app
from auffusion_cli.tasks import generate as task

PROMPTS = ("dog", "rain", "birds", "wind", "sea", "bell")


@pytest.fixture
def run(tiny_checkpoint, tiny_model, tmp_path, monkeypatch):
    """Run `auffusion generate --prompts list.txt -o out ...` in this process, an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("auffusion_cli.checkpoints.load.load_model", lambda *a, **k: tiny_model)
    monkeypatch.setattr(batch, "LOOK_AGAIN_S", 0.05)
    Path("list.txt").write_text("\n".join(PROMPTS))

    def run(*arguments, output="out", list="list.txt", **options):
        command = ("generate", "--prompts", list, "-o", output, "--device", "cpu")
        model = ("--model", str(tiny_checkpoint))
        return CliRunner().invoke(build_app(), [*command, *model, *arguments], **options)

    return run


def in_a_process(run, *arguments, environment=(), before=lambda: None, **options) -> int:
    """The same in a new process, which writes its outcome into `PID.json`; its id."""
    if child := os.fork():
        return child
    torch.set_num_threads(1)  # OpenMP's threads do not come along
    os.environ.update(environment)
    before()
    result = run(*arguments, **options)
    outcome = {"code": result.exit_code, "stdout": result.stdout, "stderr": result.stderr}
    Path(f"{os.getpid()}.json").write_text(json.dumps(outcome))
    os._exit(0)


def outcome_of(child: int) -> dict:
    os.waitpid(child, 0)
    return json.loads(Path(f"{child}.json").read_text())


def sounds(folder="out") -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).glob("*.wav"))
    }


def manifest(folder="out") -> list[dict]:
    parts = sorted(Path(folder).glob("manifest*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def slowly(seconds=0.15):
    """Every sound takes a while, so that processes meet."""
    real = task.decode

    def decode(*args, **options):
        time.sleep(seconds)
        return real(*args, **options)

    task.decode = decode


def test_a_file_has_the_same_name_and_content_whatever_the_number_of_shards(run):
    assert run("--seed", "1", output="whole").exit_code == 0
    for index in range(1, 5):  # the last two have one sound less
        result = run("--seed", "1", "--shard", f"{index}/4")
        assert result.exit_code == 0, result.output
        assert len(result.stdout.splitlines()) == (2 if index <= 2 else 1)
    assert sounds() == sounds("whole")
    whole, parts = manifest("whole"), manifest()
    assert [line["line"] for line in whole] == [1, 2, 3, 4, 5, 6]
    without_time = [{k: v for k, v in line.items() if k != "made_in_s"} for line in whole + parts]
    by_line = sorted(without_time, key=lambda line: line["line"])
    assert by_line[::2] == by_line[1::2]
    assert {line["file"]: line["sha256"] for line in parts} == sounds()
    assert [line["prompt"] for line in whole] == list(PROMPTS)
    assert all(line["duration_s"] == 1.0 and line["made_in_s"] > 0 for line in whole)
    assert run("--seed", "1", "--shard", "7/9").exit_code == 0  # nothing is left for it


@pytest.mark.parametrize(
    ("arguments", "options", "told"),
    [
        (("--seed", "1", "--shard", "/4"), {}, "SLURM_ARRAY_TASK_ID"),
        (("--seed", "1", "--shard", ""), {}, "SLURM_ARRAY_TASK_ID"),
        (("--seed", "1", "--shard", "5/4"), {}, "no such part"),
        (("--shard", "1/4"), {}, "--seed is missing"),
        ((), {"env": {"RANK": "0", "WORLD_SIZE": "2"}}, "--seed is missing"),
        (("--seed", "1"), {"env": {"RANK": "2", "WORLD_SIZE": "2"}}, "RANK is 2"),
        (("--seed", "1"), {"env": {"RANK": "x", "WORLD_SIZE": "2"}}, "not numbers"),
        (("--seed", "1"), {"env": {"RANK": "0", "WORLD_SIZE": "2"}, "list": "-"}, "cannot all"),
    ],
)
def test_what_cannot_be_shared_is_refused(run, monkeypatch, arguments, options, told):
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "1")
    result = run(*arguments, "--dry-run", **options)
    assert result.exit_code == 2 and told in result.stderr


def test_a_manifest_of_something_else_is_left_alone(run):
    Path("out").mkdir()
    Path("out/manifest.jsonl").write_text('{"audio_filepath": "a.wav", "text": "a dog"}\n')
    result = run("--seed", "1")
    assert result.exit_code == 2 and "is not a manifest of generated sounds" in result.stderr
    assert sounds() == {}


def test_a_manifest_is_completed_after_a_kill(run):
    """The last line was cut, and the one before it never written."""
    assert run("--seed", "1").exit_code == 0
    before = manifest()
    path = Path("out/manifest.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:4]) + lines[5][:20])
    assert run("--seed", "1").exit_code == 0
    after = manifest()
    assert after[:4] == before[:4]
    assert after[4:] == [line | {"made_in_s": None} for line in before[4:]]
    assert run("--seed", "1").exit_code == 0 and manifest() == after


def test_two_processes_never_make_a_line_twice(run):
    children = [in_a_process(run, "--seed", "1", "--json", before=slowly) for _ in range(2)]
    outcomes = [outcome_of(child) for child in children]
    assert [each["code"] for each in outcomes] == [0, 0], outcomes
    lines = [json.loads(line) for each in outcomes for line in each["stdout"].splitlines()]
    made = sorted(line["line"] for line in lines if line["status"] == "made")
    assert made == [1, 2, 3, 4, 5, 6]
    assert len(lines) == 12 and len(manifest()) == 6
    assert {line["file"]: line["sha256"] for line in manifest()} == sounds()
    assert not list(Path("out").glob(".*"))


def test_what_a_killed_process_was_making_is_taken_over(run):
    def stop_at_the_third():
        made = []

        def decode(*args, **options):
            made.append(args)
            time.sleep(0.05 if len(made) < 3 else 60)
            return real(*args, **options)

        real, task.decode = task.decode, decode

    doomed = in_a_process(run, "--seed", "1", before=stop_at_the_third)
    give_up_s = time.monotonic() + 60
    while len(sounds()) < 2 or not list(Path("out").glob(".*.claim")):
        assert time.monotonic() < give_up_s
        time.sleep(0.02)
    heir = in_a_process(run, "--seed", "1", "--json", before=lambda: slowly(0.01))
    while len(sounds()) < 5:  # all but the one that the first is making
        assert time.monotonic() < give_up_s
        time.sleep(0.02)
    os.kill(doomed, signal.SIGKILL)
    os.waitpid(doomed, 0)
    outcome = outcome_of(heir)
    assert outcome["code"] == 0 and "waiting for sounds that other runs" in outcome["stderr"]
    lines = [json.loads(line) for line in outcome["stdout"].splitlines()]
    assert [line["line"] for line in lines if line["status"] == "made"] == [4, 5, 6, 3]
    assert len(sounds()) == 6 and not list(Path("out").glob(".*"))
    assert sorted(line["line"] for line in manifest()) == [1, 2, 3, 4, 5, 6]


def test_the_processes_of_a_launch_share_a_list_and_one_reports(run):
    Path("list.txt").write_text("dog\nrain\n" + "x" * 10_001 + "\n")
    assert run("--seed", "1", output="whole").exit_code == 1
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "3"}
    children = [
        in_a_process(run, "--seed", "1", environment={**common, "RANK": str(rank)})
        for rank in (1, 2, 0)
    ]
    *others, main = [outcome_of(child) for child in children]
    assert [each["code"] for each in others] == [0, 0] and main["code"] == 1, (others, main)
    assert "2 made, 0 skipped, 1 failed" in main["stderr"]
    assert "list.txt, line 3: the prompt is too long" in main["stderr"]
    assert not any("made" in each["stderr"] or "loading" in each["stderr"] for each in others)
    parts = sorted(path.name for path in Path("out").glob("*.jsonl"))
    assert parts == [f"manifest-{index}-of-3.jsonl" for index in (1, 2)]
    assert {line["file"]: line["sha256"] for line in manifest()} == sounds()
    seeds = [{line["file"]: line["seed"] for line in manifest(each)} for each in ("out", "whole")]
    assert seeds[0] == seeds[1]
