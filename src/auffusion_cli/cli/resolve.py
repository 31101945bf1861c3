"""From a model's name to its folder, and what is known of it before its weights are loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from auffusion_cli.cli import console, options
from auffusion_cli.config import GenerationDefaults
from auffusion_cli.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from auffusion_cli.checkpoints.download import Confirm
    from auffusion_cli.checkpoints.load import TextPart
    from auffusion_cli.checkpoints.names import Checkpoint, HubSource
    from auffusion_cli.diffusion.text import TextReader
    from auffusion_cli.diffusion.vocabulary import Unknown
    from auffusion_cli.engines.choose import Choice

MAX_CHECKED_PROMPTS = 1000
"""Of a list, for words that the model does not know: each of them has to be embedded."""
MAX_QUOTED_CHARACTERS = 60
"""Of each end of a long text."""


# --- names -> folders


def find(name: str, option: str = "--model", *, parts: Sequence[str] = ()) -> Checkpoint | None:
    """The checkpoint called `name`, or `parts` of it, if on this machine; nothing is downloaded.

    Raises:
        UsageError: `name`, the value of `option`, cannot be downloaded either.
    """
    from auffusion_cli.checkpoints import download

    source = hub_source(name, option)
    return download.resolve(name) if source is None else download.find_cached(source, parts)


def fetch(
    name: str, option: str = "--model", *, parts: Sequence[str] = (), yes: bool = False
) -> Checkpoint:
    """The checkpoint called `name`, downloaded after a question where it is not on this machine.

    Of a download only `parts`, where it has them.

    Raises:
        UsageError: `name`, the value of `option`, is no checkpoint's.
    """
    from auffusion_cli.checkpoints import download

    hub_source(name, option)
    with DownloadProgress(name) as progress:
        return download.resolve(
            name, parts=parts, confirm=ask(yes=yes), on_progress=progress.report
        )


def hub_source(name: str, option: str) -> HubSource | None:
    """The place on the Hub that `name` stands for; None for the embedded model and folders.

    Raises:
        UsageError: it stands for none of them.
    """
    from auffusion_cli.checkpoints import names

    if name == "embedded" or (name not in names.KNOWN and os.path.isdir(name)):
        return None
    try:
        return names.parse_name(name)
    except CheckpointError:
        raise UsageError(
            f"{option} {name!r}: there is no such folder, and it is not a known name or a Hub id",
            hint=f"Valid: {', '.join(names.KNOWN)}; org/name or org/name@revision; or a"
            " checkpoint's folder.",
        ) from None


def ask(*, yes: bool) -> Confirm:
    """Question before a large download, with its size and licence; `yes` answers it."""

    def confirm(download) -> bool:
        console.note(
            f"{download.name}: {download.n_files} files, "
            f"{console.format_bytes(download.n_bytes)}, from {download.repo_id} "
            f"at {download.commit[:12]}"
        )
        console.note(f"licence: {download.licence or 'not stated'}")
        console.note(f"into {download.folder}")
        return console.confirm("Download it?", yes=yes)

    return confirm


class DownloadProgress:
    """Bar that appears with the first byte, and not where nothing is downloaded."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bar: console.Progress | None = None

    def __enter__(self) -> DownloadProgress:
        return self

    def report(self, n_done: int, n_total: int) -> None:
        """`download.Report`"""
        if self.bar is None:
            self.bar = console.Progress(f"downloading {self.name}", n_total, unit="bytes")
            self.bar.__enter__()
        self.bar.update(completed=n_done)

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.__exit__(*error)


# --- what is known before the weights are loaded


def describe(
    checkpoint: Checkpoint | None, vocoder: str, name: str = ""
) -> tuple[GenerationDefaults, str]:
    """(the checkpoint's defaults, the vocoder that will be used); it is called `name`."""
    from auffusion_cli.checkpoints.layout import choose_vocoder, read_identity
    from auffusion_cli.checkpoints.names import find_family_of

    if checkpoint is None:  # not downloaded yet: those of the published checkpoints
        family = find_family_of(name)
        defaults = GenerationDefaults() if family is None else family.defaults
        return defaults, defaults.vocoder if vocoder == "auto" else vocoder
    defaults = read_identity(checkpoint.folder).defaults
    return defaults, choose_vocoder(checkpoint.folder, vocoder, defaults)


def check_device(engine: str, device: str) -> None:
    """Raise a UsageError where a device is asked for that this machine lacks."""
    if engine == "onnx":
        from auffusion_cli.engines.onnx_networks import choose_provider

        choose_provider(device)
    elif device not in ("auto", "cpu"):
        from auffusion_cli.device import choose_device

        choose_device(device)


def choose_engine(
    checkpoint: Checkpoint | None, loading: options.Loading, needs_torch: str | None
) -> Choice:
    """The engine to load with, of a checkpoint that is not here by the options alone.

    Raises:
        UsageError: `--engine onnx` cannot do what is asked.
        CheckpointError: `--engine onnx` finds no graphs.
    """
    from auffusion_cli.checkpoints.load import choose_engine_of
    from auffusion_cli.engines import choose

    place = {"device": loading.device, "dtype": loading.dtype, "needs_torch": needs_torch}
    if checkpoint is None:
        # The published checkpoints have no graphs.
        return choose.choose_engine(
            "torch" if loading.engine == "auto" else loading.engine, **place
        )
    return choose_engine_of(checkpoint.folder, loading.engine, **place)


def describe_machine(engine: str, device: str, dtype: str) -> dict[str, str]:
    """Device and precision, with auto resolved."""
    if engine == "onnx":
        from auffusion_cli.engines.onnx_networks import choose_provider

        return {"device": choose_provider(device), "dtype": "fp32"}
    from auffusion_cli.device import choose_device, choose_dtype, dtype_name

    torch_device = choose_device(device)
    return {
        "device": torch_device.type,
        "dtype": dtype_name(choose_dtype(dtype, torch_device)),
    }


def warn_of_cut_prompts(reader: TextReader, prompts: Iterable[str]) -> None:
    """Warn of parts of the prompts that the text encoders cut off or have no token for."""
    for text in filter(None, dict.fromkeys(prompts)):
        if (cut := reader.overflow(text)) is not None:
            console.warn(
                f"the prompt is longer than the model can read; left out: {_quoted(cut)!r}"
            )
        if unknown := " ".join(reader.unknown(text)):
            console.warn(
                f"the model cannot read {_quoted(unknown)!r} in the prompt {_quoted(text)!r}"
            )


def warn_of_unknown_words(
    part: TextPart, prompts: Iterable[str], triggers: Sequence[object] = ()
) -> dict[str, list[Unknown]]:
    """Warn of words that are far from all that the model was taught, where it states that.

    `triggers` are those of its LoRAs, None of one without: words in them are known.
    Returns the prompts that have some, with them.
    """
    prompts = list(filter(None, dict.fromkeys(prompts)))
    if part.vocabulary is None or not prompts:
        return {}
    if len(prompts) > MAX_CHECKED_PROMPTS:
        console.note(f"{MAX_CHECKED_PROMPTS:,} of the prompts are checked for unknown words")
    checked = prompts[:MAX_CHECKED_PROMPTS]
    found = {
        text: [
            unknown
            for unknown in part.vocabulary.unknown(part.conditioner, text)
            if not any(_is_called(unknown.words, trigger) for trigger in triggers)
        ]
        for text in checked
    }
    but = ", but a LoRA may" if triggers else ""
    for unknown in dict.fromkeys(unknown for some in found.values() for unknown in some):
        console.warn(
            f"the model does not know {_quoted(unknown.words)!r}{but}; nearest: "
            f"{', '.join(unknown.nearest)}"
        )
    if any(found.values()):
        console.note("`auffusion models kinds WORD` searches what the model knows")
    return {text: unknown for text, unknown in found.items() if unknown}


def _is_called(words: str, trigger: object) -> bool:
    """Whether words of a prompt call what a LoRA was trained on."""
    if not (isinstance(trigger, str) and trigger.strip()):
        return False
    words, trigger = words.casefold(), trigger.casefold()
    return words in trigger or trigger in words


def warn_of_idle_negatives(negative_prompts: Iterable[str], guidance_scale: float) -> None:
    """Warn of negative prompts where guidance, through which they act, is off."""
    if guidance_scale == 1 and any(negative_prompts):
        console.warn(
            "the negative prompt has no effect: guidance is 1, which is off (try --guidance 3)"
        )


def _quoted(text: str) -> str:
    """Start and end of a long text."""
    if len(text) <= 2 * MAX_QUOTED_CHARACTERS:
        return text
    return f"{text[:MAX_QUOTED_CHARACTERS]} … {text[-MAX_QUOTED_CHARACTERS:]}"
