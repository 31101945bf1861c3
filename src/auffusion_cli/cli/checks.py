"""Checks of `auffusion doctor`, each of which returns a `Section` of the report.

The code that imports torch runs in a process of its own, because a torch and a torchaudio that do
not fit can end the process that imports both.
"""

from __future__ import annotations

import json as jsonlib
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from auffusion_cli import __version__
from auffusion_cli.cli.console import format_bytes
from auffusion_cli.cli.play import PLAYERS
from auffusion_cli.errors import CheckpointError, first_line
from auffusion_cli.files import hash_file
from auffusion_cli.signal.formats import WRITTEN

ENOUGH_MEMORY_BYTES = 2 * 1000**3
"""Peak of generating with the embedded model."""
ENOUGH_DISK_BYTES = 5 * 1000**3
"""Download of one of the published models, rounded up."""
PROBE_TIMEOUT_S = 300.0
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME", "HF_HUB_CACHE")
FORMATS = tuple(name for name, _ in WRITTEN.values())
"""As libsndfile calls those that are written."""


@dataclass
class Finding:
    """A fault: a `problem` breaks the program, an `advice` makes it faster or more able."""

    level: Literal["problem", "advice"]
    what: str
    do: str


@dataclass(frozen=True)
class Probe:
    """Output of a process that imports torch: JSON lines, and the last line on stderr."""

    found: dict[str, Any]
    last_words: str


@dataclass
class Section:
    """A part of the report: facts, and what is wrong."""

    title: str
    facts: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def problem(self, what: str, do: str) -> None:
        self.findings.append(Finding("problem", what, do))

    def advice(self, what: str, do: str) -> None:
        self.findings.append(Finding("advice", what, do))


def run_checks() -> list[Section]:
    """All checks, in the order of the report."""
    probe = run_probe()
    return [
        check_versions(),
        check_onnxruntime(probe),
        check_torch(probe),
        check_devices(probe),
        check_memory(),
        check_downloads(),
        check_embedded_model(),
        check_audio(),
    ]


def check_versions() -> Section:
    """Python, and every required package: installed, in the range that is required."""
    from importlib import metadata

    from packaging.requirements import Requirement

    section = Section("versions")
    section.facts["auffusion"] = __version__
    section.facts["python"] = f"{platform.python_version()} ({sys.executable})"
    section.facts["system"] = platform.platform()
    try:
        required = metadata.requires("auffusion") or []
    except metadata.PackageNotFoundError:
        required = []
        section.advice("auffusion is not installed: its packages are not checked", "pip install .")
    for line in required:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            section.facts[requirement.name] = "missing"
            section.problem(f"{requirement.name} is not installed", f'pip install "{requirement}"')
            continue
        section.facts[requirement.name] = version
        if not requirement.specifier.contains(version, prereleases=True):
            section.problem(
                f"{requirement.name} {version} is outside of {requirement.specifier}",
                f'pip install "{requirement}"',
            )
    return section


def run_probe() -> Probe:
    """Run `probe_libraries` in a process of its own."""
    command = [sys.executable, "-c", f"from {__name__} import probe_libraries; probe_libraries()"]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Probe({}, f"no answer within {PROBE_TIMEOUT_S:g} s")
    found: dict[str, Any] = {}
    for line in process.stdout.splitlines():
        found.update(jsonlib.loads(line))
    last_words = process.stderr.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
    return Probe(found, last_words[0])


def probe_libraries() -> None:
    """Try ONNX Runtime, torch, then torchaudio; print a JSON line as each works."""

    def say(**found: Any) -> None:
        print(jsonlib.dumps(found), flush=True)

    try:
        import onnxruntime

        say(onnxruntime=onnxruntime.__version__, providers=onnxruntime.get_available_providers())
    except Exception as error:  # a library that the system lacks, or one for another processor
        say(onnxruntime_error=first_line(error))

    import torch

    torch.ones(2, 2) @ torch.ones(2, 2)
    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free_bytes, total_bytes = torch.cuda.mem_get_info(index)
        gpus.append(
            {
                "name": torch.cuda.get_device_name(index),
                "free_bytes": free_bytes,
                "total_bytes": total_bytes,
                "bf16": torch.cuda.get_device_capability(index) >= (8, 0),
            }
        )
    say(
        torch=torch.__version__,
        cpu_threads=torch.get_num_threads(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        cpu_bf16=torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        cuda=gpus,
        mps=torch.backends.mps.is_available(),
    )

    import torchaudio

    torchaudio.functional.resample(torch.zeros(1, 441), 44_100, 16_000)
    say(torchaudio=torchaudio.__version__)


def check_onnxruntime(probe: Probe) -> Section:
    """ONNX Runtime, which must import, and what it computes on."""
    section = Section("ONNX Runtime")
    if "onnxruntime" not in probe.found:
        section.problem(
            "onnxruntime does not work: "
            f"{probe.found.get('onnxruntime_error', probe.last_words)}; "
            "with --engine torch sounds can still be made",
            "install it anew: pip install --force-reinstall onnxruntime",
        )
        return section
    names = [name.removesuffix("ExecutionProvider") for name in probe.found["providers"]]
    section.facts["onnxruntime"] = f"imports ({probe.found['onnxruntime']})"
    section.facts["providers"] = ", ".join(names)
    return section


def check_torch(probe: Probe) -> Section:
    """torch, which must import and compute, and torchaudio, which must fit it."""
    section = Section("torch")
    if "torch" not in probe.found:
        section.problem(
            f"torch does not work: {probe.last_words}",
            "install it anew: pip install --force-reinstall torch torchaudio",
        )
        return section
    section.facts["torch"] = f"imports and computes ({probe.found['torch']})"
    if "torchaudio" not in probe.found:
        section.problem(
            f"torchaudio does not work with torch {probe.found['torch']}: {probe.last_words}",
            "install two that fit: pip install --upgrade torch torchaudio",
        )
        return section
    section.facts["torchaudio"] = f"fits torch ({probe.found['torchaudio']})"
    return section


def check_devices(probe: Probe) -> Section:
    """Devices of torch."""
    section = Section("devices")
    if "torch" not in probe.found:
        return section
    bf16 = "in hardware" if probe.found["cpu_bf16"] else "emulated"
    section.facts["cpu"] = (
        f"{probe.found['cpu_threads']} threads of {os.cpu_count()} cores, "
        f"{probe.found['cpu_capability']}, bf16 {bf16}"
    )
    for index, gpu in enumerate(probe.found["cuda"]):
        section.facts[f"cuda:{index}"] = (
            f"{gpu['name']}, {format_bytes(gpu['free_bytes'])} free of "
            f"{format_bytes(gpu['total_bytes'])}, bf16 {'yes' if gpu['bf16'] else 'no'}"
        )
    if not probe.found["cuda"]:
        section.facts["cuda"] = "none"
        if shutil.which("nvidia-smi"):
            section.advice(
                "there is an NVIDIA driver, but torch sees no GPU",
                "install a torch built for CUDA that this driver supports; see `nvidia-smi`",
            )
    section.facts["mps"] = "available" if probe.found["mps"] else "none"
    return section


def check_embedded_model() -> Section:
    """Files of the embedded model, compared with its SHA256SUMS."""
    from auffusion_cli.checkpoints import names

    section = Section("embedded model")
    reinstall = "install auffusion anew; in a clone: `git checkout weights/embedded`"
    try:
        folder = names.embedded_folder()
    except CheckpointError as error:
        section.problem(error.message, reinstall)
        return section
    section.facts["folder"] = str(folder)
    try:
        lines = (folder / "SHA256SUMS").read_text("utf-8").splitlines()
    except OSError as error:
        section.problem(f"the list of checksums cannot be read: {error}", reinstall)
        return section
    n_bytes = 0
    for line in lines:
        expected, name = line.split(maxsplit=1)
        try:
            digest = hash_file(folder / name)
            n_bytes += (folder / name).stat().st_size
        except OSError as error:
            section.problem(f"{name} cannot be read: {error.strerror}", reinstall)
            continue
        if digest != expected:
            section.problem(f"{name} is damaged: it has another checksum", reinstall)
    section.facts["files"] = f"{len(lines)} listed, {format_bytes(n_bytes)}"
    return section


def check_memory() -> Section:
    import psutil

    section = Section("memory")
    memory = psutil.virtual_memory()
    section.facts["memory"] = (
        f"{format_bytes(memory.available)} free of {format_bytes(memory.total)}"
    )
    if memory.available < ENOUGH_MEMORY_BYTES:
        section.advice(
            f"only {format_bytes(memory.available)} of memory are free",
            f"close other programs; generating takes up to {format_bytes(ENOUGH_MEMORY_BYTES)}",
        )
    return section


def check_downloads() -> Section:
    """The cache of downloaded models, the disk it lies on, and whether downloads are allowed."""
    from huggingface_hub import constants

    section = Section("downloads")
    cache = Path(constants.HF_HUB_CACHE)
    # Files in the cache are links into its blobs: count each file once, without following links.
    files = [f for f in cache.rglob("*") if f.is_file() and not f.is_symlink()]
    section.facts["cache"] = f"{cache}, {format_bytes(sum(f.stat().st_size for f in files))}"

    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free_bytes = shutil.disk_usage(existing).free
    section.facts["disk"] = f"{format_bytes(free_bytes)} free"
    if free_bytes < ENOUGH_DISK_BYTES:
        section.advice(
            f"only {format_bytes(free_bytes)} are free where downloaded models are kept",
            "free some space, or set HF_HOME to a folder on another disk",
        )
    if not os.access(existing, os.W_OK):
        section.advice(
            f"downloads cannot be kept: {existing} is not writable",
            "set HF_HOME to a folder that you may write to",
        )

    section.facts["offline"] = (
        "yes (HF_HUB_OFFLINE): only models that are already here"
        if constants.HF_HUB_OFFLINE
        else "no"
    )
    section.facts["token"] = "set" if os.environ.get("HF_TOKEN") else "none (HF_TOKEN)"
    for name in OFFLINE_VARIABLES:
        if name in os.environ:
            section.facts[name] = os.environ[name]
    return section


def check_audio() -> Section:
    """The formats that can be written, and a player for `--play`."""
    section = Section("audio")
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the library libsndfile itself is missing
        section.problem(
            f"soundfile does not import: {error}",
            "pip install --force-reinstall soundfile; where no wheel fits, install libsndfile",
        )
        return section
    formats = soundfile.available_formats()
    section.facts["libsndfile"] = soundfile.__libsndfile_version__
    section.facts["formats"] = ", ".join(name.lower() for name in FORMATS if name in formats)
    for name in FORMATS:
        if name not in formats:
            section.advice(
                f"libsndfile {soundfile.__libsndfile_version__} cannot write {name.lower()}",
                "pip install --upgrade soundfile, or update the system's libsndfile to 1.1",
            )
    players = [name for name in PLAYERS if shutil.which(name)]
    section.facts["players"] = ", ".join(players) or "none"
    if not players:
        section.advice("there is no audio player for --play", "install ffmpeg, which has ffplay")
    return section
