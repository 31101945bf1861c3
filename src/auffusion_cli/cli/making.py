"""From the options of a command that makes sounds to a loaded model: settings are checked before
anything is downloaded, then resolved against the checkpoint, and last the weights are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from auffusion_cli.cli import console, options
from auffusion_cli.config import GenerationDefaults

if TYPE_CHECKING:
    from auffusion_cli.checkpoints.load import TextPart
    from auffusion_cli.checkpoints.names import Checkpoint
    from auffusion_cli.cli.plan import Job
    from auffusion_cli.diffusion.layers import Sounds
    from auffusion_cli.diffusion.text import TextReader
    from auffusion_cli.diffusion.vocabulary import Unknown
    from auffusion_cli.engines.choose import Choice
    from auffusion_cli.model import Model
    from auffusion_cli.requests.finish import Finish
    from auffusion_cli.requests.loras import LoraRecord
    from auffusion_cli.requests.provenance import Provenance
    from auffusion_cli.requests.request import GenerateSettings


FEW_PROMPTS = 25
"""So many are embedded sooner than the text encoder is optimised."""


@dataclass(frozen=True)
class Setup:
    """Model and settings, resolved; nothing is loaded."""

    loading: options.Loading
    checkpoint: Checkpoint | None
    """None in a dry run with a model that is not downloaded."""
    defaults: GenerationDefaults
    settings: GenerateSettings
    vocoder: str
    engine: Choice
    loras: tuple[LoraRecord, ...] = ()
    is_plan: bool = False
    """Whether nothing will be loaded: a dry run."""

    def to_dict(self) -> dict[str, Any]:
        """For `--dry-run`."""
        from auffusion_cli.cli.resolve import describe_machine

        return asdict(self.settings) | {
            "model": self.loading.model,
            "loras": [asdict(lora) for lora in self.loras],
            "revision": self.checkpoint.revision if self.checkpoint else None,
            "downloaded": self.checkpoint is not None,
            "vocoder": self.vocoder,
            "engine": self.engine.engine,
            "engine_reason": self.engine.reason,
            **describe_machine(self.engine.engine, self.loading.device, self.loading.dtype),
        }

    def settings_of(self, job: Job) -> GenerateSettings:
        """Settings of one sound of a list, whose line may have its own."""
        from auffusion_cli.requests.request import GenerateSettings

        return GenerateSettings.from_defaults(self.defaults, **job.asked)

    def matcher(
        self, finish: Finish | None, best_of: int, *, any_seed: bool = False
    ) -> Callable[[Provenance, Job], bool]:
        """Test of whether a record is that of the sound that a job asks for."""
        checkpoint = self.checkpoint

        def matches(record: Provenance, job: Job) -> bool:
            return any(
                record.matches(
                    request,
                    self.settings_of(job),
                    model=checkpoint.name if checkpoint else self.loading.model,
                    revision=checkpoint.revision if checkpoint else None,
                    vocoder=self.vocoder,
                    any_seed=any_seed,
                    finish=finish,
                    best_of=best_of,
                    rank=job.rank,
                    loras=self.loras,
                )
                for request in (job.request, job.former_request)
            )

        return matches

    def check_words(
        self, prompts: Iterable[str], negative_prompts: Iterable[str]
    ) -> TextReader | None:
        """Warn of words without effect. Returns the text encoders, without their networks."""
        from auffusion_cli.cli.resolve import warn_of_cut_prompts, warn_of_idle_negatives

        negative_prompts = list(negative_prompts)
        warn_of_idle_negatives(negative_prompts, self.settings.guidance_scale)
        if self.checkpoint is None:
            return None
        prompts = list(prompts)
        if prompts and self.engine.engine == "onnx" and not self.is_plan:
            self._text.begin(n_rows=1 if self.settings.guidance_scale == 1 else 2)
        reader = self._text.reader
        warn_of_cut_prompts(reader, [*prompts, *negative_prompts])
        return reader

    def check_vocabulary(self, prompts: Iterable[str]) -> dict[str, list[Unknown]]:
        """Warn of words that the model does not know. Returns the prompts that have some."""
        from auffusion_cli.checkpoints.lora_file import read_about
        from auffusion_cli.cli.resolve import warn_of_unknown_words
        from auffusion_cli.requests.loras import parse_loras

        if self.checkpoint is None:
            return {}
        prompts = list(prompts)
        self._text.is_brief = self.is_plan and len(prompts) <= FEW_PROMPTS
        loras = parse_loras(self.loading.lora)
        triggers = [read_about(lora.find())["trigger"] for lora in loras]
        return warn_of_unknown_words(self._text, prompts, triggers)

    def sounds_of(self, job: Job) -> Sounds:
        """What the words of a job are taken apart into, by the text encoder alone."""
        from auffusion_cli.diffusion.layers import Sounds, sounds_of

        if self.checkpoint is None or self._text.vocabulary is None:
            return Sounds.whole(job.request)
        duration_s = self.settings_of(job).duration_s
        return sounds_of(job.request, duration_s, self._text.vocabulary, self._text.conditioner)

    def load(self) -> Model:
        """Load the weights that `check_vocabulary` has not loaded."""
        from auffusion_cli.checkpoints.load import load_model
        from auffusion_cli.requests.loras import parse_loras

        why = f" with torch: {self.engine.reason}" if self.engine.is_forced else ""
        console.note(f"loading {self.loading.model}{why}")
        return load_model(
            self.loading.model,
            engine=self.engine.engine,
            device=self.loading.device,
            dtype=self.loading.dtype,
            loras=parse_loras(self.loading.lora),
            vocoder=self.loading.vocoder,  # so that it warns where auto finds no vocoder
            text=self._text,
        )

    @cached_property
    def _text(self) -> TextPart:
        from auffusion_cli.checkpoints.load import TextPart

        folder = self.checkpoint.folder
        return TextPart(folder, self.engine.engine, self.loading.device, self.loading.dtype)


def set_up(
    loading: options.Loading,
    asked: Mapping[str, Any],
    run: options.Run,
    *,
    needs_torch: str | None = None,
    needs_log_mels: str | None = None,
    needs_ddim: str | None = None,
) -> Setup:
    """Check what is `asked` of `GenerateSettings`, and find the model, or download it unless it is
    a dry run. `needs_torch` names what of the task only torch can do, `needs_log_mels` what is
    about log-mels, `needs_ddim` what takes DDIM's steps.

    Raises:
        UsageError: a setting or an engine is impossible, or there is no such model.
    """
    from auffusion_cli.checkpoints.lora_file import check_loras
    from auffusion_cli.checkpoints.names import (
        find_family_of,
        refuse_ddim,
        refuse_family,
        refuse_waveforms,
        require_sound,
    )
    from auffusion_cli.cli import resolve
    from auffusion_cli.engines.choose import choose_engine
    from auffusion_cli.requests.loras import parse_loras
    from auffusion_cli.requests.request import GenerateSettings

    GenerateSettings.from_defaults(GenerationDefaults(), **asked)  # before anything is downloaded
    require_sound(loading.model)
    needs_torch = needs_torch or ("a LoRA" if loading.lora else None)

    def refuse(name: str) -> None:
        if needs_torch:
            refuse_family(name, needs_torch)
        if needs_log_mels:
            refuse_waveforms(name, needs_log_mels)
        if needs_ddim:
            refuse_ddim(name, needs_ddim)
        if family := find_family_of(name):
            if loading.engine == "onnx":
                choose_engine(loading.engine, needs_torch=family.name)
            if asked.get("scheduler"):
                family.check_scheduler(asked["scheduler"])

    refuse(loading.model)
    check_loras(choices := parse_loras(loading.lora))
    loras = tuple(lora.record() for lora in choices)
    resolve.check_device(loading.engine, loading.device)
    checkpoint = (
        resolve.find(loading.model) if run.dry_run else resolve.fetch(loading.model, yes=run.yes)
    )
    if checkpoint:
        refuse(str(checkpoint.folder))
    defaults, vocoder = resolve.describe(checkpoint, loading.vocoder, loading.model)
    settings = GenerateSettings.from_defaults(defaults, **asked)
    if checkpoint and asked.get("scheduler"):
        from auffusion_cli.checkpoints.schedule import read_scheduler_config
        from auffusion_cli.diffusion.schedulers import make_scheduler

        # One that cannot follow the checkpoint's noise schedule is refused before it is loaded.
        make_scheduler(settings.scheduler, read_scheduler_config(checkpoint.folder))
    engine = resolve.choose_engine(checkpoint, loading, needs_torch)
    return Setup(loading, checkpoint, defaults, settings, vocoder, engine, loras, run.dry_run)
