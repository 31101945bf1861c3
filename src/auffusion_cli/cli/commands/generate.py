"""`auffusion generate`: words to sound files, one or ten thousand of them."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from auffusion_cli.cli import console, options
from auffusion_cli.config import GenerationDefaults
from auffusion_cli.errors import AuffusionError, UsageError
from auffusion_cli.files import folder_of

if TYPE_CHECKING:
    from auffusion_cli.cli.plan import Failure, Job
    from auffusion_cli.model import Model
    from auffusion_cli.requests.request import GenerateSettings
    from auffusion_cli.tasks.generate import GenerateResult

Format = Literal["wav", "wav24", "wavfloat", "flac", "ogg", "mp3"]
SUFFIX_AND_SUBTYPE: dict[str, tuple[str, str]] = {
    "wav": (".wav", "pcm16"),
    "wav24": (".wav", "pcm24"),
    "wavfloat": (".wav", "float"),
    "flac": (".flac", "pcm16"),
    "ogg": (".ogg", "pcm16"),
    "mp3": (".mp3", "pcm16"),
}
N_LISTED = 10
"""How many files or failures a message names before it only counts."""


def register(app: typer.Typer) -> None:
    app.command()(generate)


def generate(
    prompts: options.Prompts = None,
    prompts_file: options.PromptsFile = None,
    timeline: Annotated[
        str | None,
        typer.Option(
            metavar="REGIONS|FILE",
            help="What is heard when, over the prompt: '0-3s a dog barks; 2-6s rain'.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|FOLDER|TEMPLATE",
            help="Where to write. A template has fields such as {prompt}, {seed}, {index}, {n}.",
        ),
    ] = None,
    n_variations: options.Variations = 1,
    duration_s: Annotated[
        float | None, typer.Option("--duration", help="Seconds of sound, up to an hour.")
    ] = None,
    seed: options.Seed = None,
    negative: options.Negative = "",
    steps: options.Steps = None,
    guidance_scale: options.Guidance = None,
    guidance_rescale: options.GuidanceRescale = None,
    scheduler: options.Scheduler = None,
    model: options.Model = "embedded",
    vocoder: options.Vocoder = "auto",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    batch_size: options.BatchSize = None,
    format: Annotated[
        Format | None, typer.Option(help="Of the files; by default as the output's name says.")
    ] = None,
    spectrogram: Annotated[
        str | None,
        typer.Option(metavar="FILE.png", help="Draw the spectrogram too; may be a template."),
    ] = None,
    play: Annotated[bool, typer.Option("--play", help="Play each sound once written.")] = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    overwrite: options.Overwrite = False,
    yes: options.Yes = False,
) -> None:
    """Make sounds from words.

    What is left out is the model's default; `--dry-run` shows it. Each file carries its prompt,
    seed and settings (`auffusion info`). A list given by --prompts, or prompts with --seed, can be
    stopped and started again: files that are already there, from the same request, are skipped.
    With --timeline the prompt is what goes on below all of it; without a prompt there is silence
    in between.

    \b
    Examples:
      auffusion generate "dog barking in rain" -o rain.wav
      auffusion generate "thunder" "a cat purrs" -n 3 --seed 7 -o sounds/
      auffusion generate --prompts list.csv -o "sounds/{index}-{prompt}.flac" --seed 1
      auffusion generate "a wolf howling" --duration 3 --spectrogram wolf.png --play
      auffusion generate "wind" --timeline "0-3s a dog barks; 2-6s rain; 6-10s thunder" -o day.wav
      auffusion generate "waves on a beach" --duration 60 -o waves.wav
    """
    from auffusion_cli.cli import plan, resolve
    from auffusion_cli.cli.commands.models import find, resolve_model
    from auffusion_cli.requests.request import MAX_DURATION_S, GenerateSettings, draw_seed
    from auffusion_cli.requests.timeline import parse_timeline, read_timeline, timeline_duration

    if bool(prompts) == bool(prompts_file) and not (timeline is not None and not prompts):
        raise UsageError(
            "Give either prompts or --prompts FILE.",
            hint='For example: auffusion generate "dog barking in rain" -o rain.wav',
        )
    if timeline is not None:
        timeline = read_timeline(timeline)
        if duration_s is None:
            duration_s = timeline_duration(timeline, MAX_DURATION_S)
    suffix, subtype = SUFFIX_AND_SUBTYPE[format] if format else (None, "pcm16")
    plan_options = plan.PlanOptions(
        seed=draw_seed() if seed is None else seed,
        negative_prompt=negative,
        n_variations=n_variations,
        output=output,
        suffix=suffix,
        spectrogram=spectrogram,
        timeline=timeline,
    )
    failures: list[Failure] = []
    if prompts_file:
        list_name = "standard input" if prompts_file == "-" else prompts_file
        lines = plan.read_list(prompts_file)
        jobs, failures = plan.plan_list(lines, list_name, plan_options)
    else:
        jobs = plan.plan_arguments(prompts or [""], plan_options)
    player = _find_player(jobs) if play else None
    asked = {
        "duration_s": duration_s,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "guidance_rescale": guidance_rescale,
        "scheduler": scheduler,
    }
    # Before anything is downloaded.
    settings = GenerateSettings.from_defaults(GenerationDefaults(), **asked)
    if timeline is not None and duration_s is not None:
        parse_timeline(timeline, settings.duration_s)
    checkpoint = find(model) if dry_run else resolve_model(model, yes=yes)
    defaults, vocoder_name = resolve.describe(checkpoint, vocoder)
    settings = GenerateSettings.from_defaults(defaults, **asked)
    regions = [] if timeline is None else parse_timeline(timeline, settings.duration_s)

    finished: list[Job] = []
    if not overwrite and (prompts_file or seed is not None):
        # A drawn seed is not part of what a list asks, or it could not be taken up again.
        def answers(record, job: Job) -> bool:
            return record.answers(
                job.request,
                settings,
                model=checkpoint.name if checkpoint else model,
                revision=checkpoint.revision if checkpoint else None,
                vocoder=vocoder_name,
                any_seed=bool(prompts_file) and seed is None and "{seed}" not in (output or ""),
            )

        jobs, finished = plan.leave_out_finished(jobs, answers)
    elif not overwrite:
        plan.check_free([path for job in jobs for path in (job.path, job.picture) if path])

    if checkpoint is not None and jobs:
        texts = [text for job in jobs for text in (job.request.prompt, job.request.negative_prompt)]
        resolve.warn_of_cut_prompts(checkpoint, texts + [region.prompt for region in regions])
    resolve.warn_of_idle_negatives([job.request.negative_prompt for job in jobs], settings)
    run = Run(
        failures=failures,
        n_finished=len(finished),
        as_json=json,
        player=player,
        overwrite=overwrite,
    )
    if dry_run:
        from auffusion_cli.device import choose_device
        from auffusion_cli.tasks.generate import default_batch_size

        resolved = asdict(settings) | {
            "model": model,
            "revision": checkpoint.revision if checkpoint else None,
            "downloaded": checkpoint is not None,
            "vocoder": vocoder_name,
            **resolve.describe_machine(device, dtype),
            "batch_size": batch_size or default_batch_size(choose_device(device)),
        }
        if regions:
            resolved["timeline"] = [
                f"{region.start_s:g}-{region.end_s:g}s {region.prompt}" for region in regions
            ]
        _show_plan(resolved, jobs, finished, failures, as_json=json)
        raise typer.Exit(1 if failures else 0)
    if seed is None and jobs:
        console.note_seed(plan_options.seed)
    for job in finished:
        run.report_finished(job)
    if jobs:
        console.note(f"loading {model}")
        from auffusion_cli.checkpoints.load import load_model

        loaded = load_model(model, device=device, dtype=dtype, vocoder=vocoder)
        run.make(loaded, jobs, settings, subtype, batch_size, forgiving=prompts_file is not None)
    run.conclude()


@dataclass
class Run:
    """Makes the jobs one after the other, writes and reports each, and remembers what failed."""

    failures: list[Failure]
    n_finished: int
    as_json: bool
    player: list[str] | None
    overwrite: bool
    n_made: int = 0

    def make(
        self,
        model: Model,
        jobs: Sequence[Job],
        settings: GenerateSettings,
        subtype: str,
        batch_size: int | None,
        *,
        forgiving: bool,
    ) -> None:
        """`forgiving`: what fails is remembered and the rest goes on; otherwise it raises."""
        from auffusion_cli.tasks.generate import generate, generate_each

        requests = (job.request for job in jobs)
        make = generate_each if forgiving else generate
        n_done = 0
        one = len(jobs) == 1
        total = None if one else len(jobs)
        with console.Progress("generating", total, unit="steps" if one else "sounds") as progress:

            def on_step(batch, step) -> None:
                if one:
                    progress.update(completed=step.index + 1, total=step.n_steps)
                else:
                    part = len(batch) * (step.index + 1) / step.n_steps
                    progress.update(completed=n_done + part)

            results = make(model, requests, settings, batch_size=batch_size, on_step=on_step)
            for job, result in zip(jobs, results, strict=True):
                self._take(job, result, subtype, forgiving)
                n_done += 1

    def _take(self, job: Job, result, subtype: str, forgiving: bool) -> None:
        from auffusion_cli.cli.plan import Failure
        from auffusion_cli.tasks.generate import GenerateFailure

        if isinstance(result, GenerateFailure):
            self.failures.append(Failure(job.source, str(result.error)))
            return
        try:
            self._write(job, result, subtype)
        except (AuffusionError, OSError) as error:
            if not forgiving or _is_disk_full(error):
                raise
            self.failures.append(Failure(job.source, str(error)))
            return
        self.n_made += 1

    def _write(self, job: Job, result: GenerateResult, subtype: str) -> None:
        if job.picture:
            from auffusion_cli.pictures.spectrogram import save_spectrogram

            with folder_of(job.picture):
                save_spectrogram(result.log_mel, job.picture, overwrite=self.overwrite)
        # The sound comes last: where it is there, a list that is taken up again leaves it out.
        with folder_of(job.path):
            result.save(job.path, subtype=subtype, overwrite=self.overwrite)
        if self.as_json:
            console.print_json(
                {"status": "made", "file": str(job.path), **result.provenance.to_dict()}
            )
        else:
            console.print_path(job.path)
        if self.player:
            from auffusion_cli.cli.play import play

            play(self.player, job.path)

    def report_finished(self, job: Job) -> None:
        """A file that was there already."""
        if self.as_json:
            console.print_json({"status": "skipped", "file": str(job.path)})

    def conclude(self) -> None:
        """Say what was there already and what failed; exit with 1 if anything did."""
        if self.n_finished:
            console.note(f"already there and skipped: {self.n_finished}")
        if not self.failures:
            return
        for failure in self.failures:
            if self.as_json:
                console.print_json({"status": "failed", **asdict(failure)})
            console.error(f"{failure.source}: {failure.reason}")
        console.note(f"{self.n_made} made, {self.n_finished} skipped, {len(self.failures)} failed")
        raise typer.Exit(1)


def _is_disk_full(error: Exception) -> bool:
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno == errno.ENOSPC


def _find_player(jobs: Sequence[Job]) -> list[str]:
    from auffusion_cli.cli.play import find_player

    return find_player(jobs[0].path.suffix.lower())


def _show_plan(
    resolved: dict[str, Any],
    jobs: Sequence[Job],
    finished: Sequence[Job],
    failures: Sequence[Failure],
    *,
    as_json: bool,
) -> None:
    if as_json:
        sounds = [
            {"file": str(job.path), "spectrogram": job.picture and str(job.picture)}
            | asdict(job.request)
            for job in jobs
        ]
        console.print_json(
            {
                "settings": resolved,
                "sounds": sounds,
                "skipped": [str(job.path) for job in finished],
                "failures": [asdict(failure) for failure in failures],
            }
        )
        return
    console.print_table(("SETTING", "VALUE"), console.fields(resolved))
    typer.echo()
    console.print_table(
        ("FILE", "SEED", "PROMPT"),
        [(job.path, job.request.seed, job.request.prompt) for job in jobs[:N_LISTED]],
    )
    if len(jobs) > N_LISTED:
        typer.echo(f"and {len(jobs) - N_LISTED} more")
    if finished:
        console.note(f"{len(finished)} are there already")
    for failure in failures:
        console.warn(f"{failure.source}: {failure.reason}")
