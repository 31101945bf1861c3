"""`auffusion doctor` finds what is wrong and says what to do."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from importlib import metadata

import pytest
from typer.testing import CliRunner

from auffusion_cli.checkpoints import names
from auffusion_cli.cli import checks
from auffusion_cli.cli.app import build_app
from auffusion_cli.errors import CheckpointError

CPU_PROBE = {
    "onnxruntime": "1.32.0",
    "providers": ["AzureExecutionProvider", "CPUExecutionProvider"],
    "torch": "2.9.0",
    "cpu_threads": 2,
    "cpu_capability": "AVX2",
    "cpu_bf16": False,
    "cuda": [],
    "mps": False,
    "torchaudio": "2.9.0",
}


@pytest.fixture
def embedded(tmp_path, monkeypatch):
    """An embedded model of two files with a right list of checksums."""
    monkeypatch.setattr(names, "embedded_folder", lambda: tmp_path)
    lines = []
    for name, content in {"unet.safetensors": b"weights", "config.json": b"{}"}.items():
        (tmp_path / name).write_bytes(content)
        lines.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
    (tmp_path / "SHA256SUMS").write_text("".join(lines))
    return tmp_path


@pytest.fixture
def healthy(monkeypatch, embedded):
    """A machine on which torch works, as the probe would tell."""
    monkeypatch.setattr(checks, "run_probe", lambda: checks.Probe(CPU_PROBE, ""))
    monkeypatch.setattr(checks, "check_versions", lambda: checks.Section("versions"))
    return embedded


def whats(section: checks.Section, level: str = "problem") -> list[str]:
    return [finding.what for finding in section.findings if finding.level == level]


def test_healthy_machine_exits_0(healthy):
    result = CliRunner().invoke(build_app(), ["doctor"])
    assert result.exit_code == 0, result.output
    assert "fits torch (2.9.0)" in result.stdout


def test_json_tells_a_damaged_file_and_exits_1(healthy):
    (healthy / "unet.safetensors").write_bytes(b"weight")
    result = CliRunner().invoke(build_app(), ["doctor", "--json"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["ok"] is False
    findings = [finding for section in report["sections"] for finding in section["findings"]]
    [problem] = [finding for finding in findings if finding["level"] == "problem"]
    assert problem["what"] == "unet.safetensors is damaged: it has another checksum"
    assert problem["do"]


def test_missing_embedded_file_is_a_problem(embedded):
    (embedded / "config.json").unlink()
    section = checks.check_embedded_model()
    assert whats(section) == ["config.json cannot be read: No such file or directory"]


def test_missing_embedded_model_is_a_problem(monkeypatch):
    def missing():
        raise CheckpointError("the embedded model is missing")

    monkeypatch.setattr(names, "embedded_folder", missing)
    assert whats(checks.check_embedded_model()) == ["the embedded model is missing"]


def test_missing_checksums_are_a_problem(embedded):
    (embedded / "SHA256SUMS").unlink()
    [what] = whats(checks.check_embedded_model())
    assert what.startswith("the list of checksums cannot be read")


def test_the_probe_runs_for_real():
    """torch and torchaudio work together where these tests run."""
    probe = checks.run_probe()
    assert probe.found["torch"].startswith(metadata.version("torch"))
    assert "torchaudio" in probe.found, probe.last_words
    assert whats(checks.check_torch(probe)) == []
    assert "cpu" in checks.check_devices(probe).facts


def test_a_probe_that_dies_names_the_library(monkeypatch):
    line = json.dumps({key: CPU_PROBE[key] for key in CPU_PROBE if key != "torchaudio"})
    died = subprocess.CompletedProcess([], -11, line + "\n", "OSError: undefined symbol: x\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: died)
    section = checks.check_torch(checks.run_probe())
    assert whats(section) == [
        "torchaudio does not work with torch 2.9.0: OSError: undefined symbol: x"
    ]


def test_a_probe_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(checks, "PROBE_TIMEOUT_S", 0.01)
    (found,) = whats(checks.check_torch(checks.run_probe()))
    assert found == "torch does not work: no answer within 0.01 s"


def test_broken_torch_is_a_problem_and_has_no_devices(monkeypatch):
    died = subprocess.CompletedProcess([], -11, "", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: died)
    probe = checks.run_probe()
    assert whats(checks.check_torch(probe)) == ["torch does not work: exit code -11"]
    assert checks.check_devices(probe).facts == {}


def test_gpus_are_listed_with_their_memory():
    gpu = {"name": "A100", "free_bytes": 39e9, "total_bytes": 40e9, "bf16": True}
    section = checks.check_devices(checks.Probe(CPU_PROBE | {"cuda": [gpu]}, ""))
    assert section.facts["cuda:0"] == "A100, 39.0 GB free of 40.0 GB, bf16 yes"


def test_what_onnx_runtime_computes_on_and_whether_it_imports():
    section = checks.check_onnxruntime(checks.Probe(CPU_PROBE, ""))
    assert section.facts["providers"] == "Azure, CPU" and section.findings == []
    broken = {"onnxruntime_error": "libstdc++.so.6: version not found"}
    [what] = whats(checks.check_onnxruntime(checks.Probe(broken, "")))
    assert "libstdc++.so.6" in what and "--engine torch" in what


def test_driver_without_cuda_torch_is_advice(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    section = checks.check_devices(checks.Probe(CPU_PROBE, ""))
    assert whats(section, "advice") == ["there is an NVIDIA driver, but torch sees no GPU"]


def test_missing_and_old_packages_are_problems(monkeypatch):
    installed = {"numpy": "1.0"}

    def version(name):
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    requires = ["numpy<3,>=1.26", "torch>=2.8", "pytest; extra == 'dev'"]
    monkeypatch.setattr(metadata, "requires", lambda name: requires)
    monkeypatch.setattr(metadata, "version", version)
    assert whats(checks.check_versions()) == [
        "numpy 1.0 is outside of <3,>=1.26",
        "torch is not installed",
    ]


def test_sources_that_are_not_installed_are_advised_about(monkeypatch):
    def requires(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    assert whats(checks.check_versions(), "advice") == [
        "auffusion is not installed: its packages are not checked"
    ]


def test_downloads_counts_each_file_once(tmp_path, monkeypatch):
    from huggingface_hub import constants

    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "abc").write_bytes(b"x" * 2000)
    (tmp_path / "snapshot").symlink_to(tmp_path / "blobs" / "abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "secret-token")
    section = checks.check_downloads()
    assert section.facts["cache"] == f"{tmp_path}, 2.0 kB"
    assert "secret-token" not in str(section)


def test_full_disk_and_little_memory_are_advice(monkeypatch):
    import psutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 900, 100))
    memory = psutil.virtual_memory()._replace(available=1_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert whats(checks.check_memory(), "advice") == ["only 1.0 MB of memory are free"]
    assert "only 100 B are free" in whats(checks.check_downloads(), "advice")[0]


def test_old_libsndfile_and_no_player_are_advice(monkeypatch):
    import soundfile

    monkeypatch.setattr(soundfile, "available_formats", lambda: {"WAV": "", "FLAC": "", "OGG": ""})
    monkeypatch.setattr(shutil, "which", lambda name: None)
    section = checks.check_audio()
    assert section.facts["formats"] == "wav, flac, ogg"
    assert len(whats(section, "advice")) == 2
    assert whats(section) == []
