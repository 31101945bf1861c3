"""`auffusion generate`: prompts to sound files, one or ten thousand of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auffusion_cli.cli import console, options
from auffusion_cli.cli.formats import SUFFIX_AND_SUBTYPE, FormatOption
from auffusion_cli.cli.rows import in_words
from auffusion_cli.errors import UsageError
from auffusion_cli.requests.prompts import SETTING_COLUMNS

if TYPE_CHECKING:
    from auffusion_cli.cli.making import Setup
    from auffusion_cli.cli.manifest import Manifest
    from auffusion_cli.cli.plan import Failure, Job, PlanOptions
    from auffusion_cli.diffusion.layers import Sounds
    from auffusion_cli.requests.shards import Shard

DEFAULT_NEARNESS = 0.7
N_LISTED = 10
"""Files or failures that a message names before it only counts."""


def register(app: typer.Typer) -> None:
    app.command()(options.grouped(generate))


def generate(
    prompts: options.Prompts = None,
    prompts_file: options.PromptsFile = None,
    encoding: options.Encoding = None,
    timeline: Annotated[
        str | None,
        typer.Option(
            metavar="REGIONS|FILE",
            help="Sounds and their times, over the prompt: '0-3s a dog barks; 2-6s rain'.",
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
    shard: options.Shard = None,
    duration_s: options.Duration = None,
    trim: options.Trim = True,
    one_shot: options.OneShot = False,
    loop: options.Loop = False,
    seed: options.Seed = None,
    near_seed: options.NearSeed = None,
    nearness: options.Nearness = None,
    negative: options.Negative = "",
    *,
    sampling: options.Sampling,
    loading: options.Loading,
    batch_size: options.BatchSize = None,
    choice: options.Choice,
    finishing: options.Finishing,
    format: FormatOption = None,
    spectrogram: Annotated[
        str | None,
        typer.Option(metavar="FILE.png", help="Draw the spectrogram too; may be a template."),
    ] = None,
    play: Annotated[bool, typer.Option("--play", help="Play each sound once written.")] = False,
    preset: options.Preset = None,
    run: options.Run,
) -> None:
    """Make sounds from words.

    What is left out is the model's default; `--dry-run` shows it. Each file carries its prompt,
    seed and settings (`auffusion info`). A list given by --prompts, or prompts with --seed, can be
    stopped and started again: files that are already there, from the same request, are skipped.
    Several runs of one list share it: by --shard, by `accelerate launch -m auffusion_cli generate`,
    or as they come, each taking what no other is making. Beside its sounds is a manifest.jsonl.
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
      auffusion generate "a sword clash" --one-shot --duration 2 -n 4 -o swords/
      auffusion generate "a river" --loop --duration 8 -o river.wav
      auffusion generate "a cat purrs" --best-of 8 --keep-all -o cat.wav
      auffusion generate "thunder" --near 7 --nearness 0.8 -n 6 -o like-seed-7/
      auffusion generate "a door slams" --loudness -16LUFS --rate 48000 --channels 2 -o door.wav
    """
    from auffusion_cli.cli import plan
    from auffusion_cli.cli.launch import Launch
    from auffusion_cli.cli.making import set_up
    from auffusion_cli.cli.outputs import field_names
    from auffusion_cli.cli.recordings import check_broadcast, check_no_fades
    from auffusion_cli.requests.seeds import draw_seed

    if bool(prompts) == bool(prompts_file) and not (timeline is not None and not prompts):
        raise UsageError(
            "Give either prompts or --prompts FILE",
            hint='For example: auffusion generate "dog barking in rain" -o rain.wav',
        )
    timeline, duration_s = _read_timeline(timeline, duration_s)
    finish, choosing = finishing.finish(), choice.choosing()
    check_no_fades(finish, loop, preset)
    suffix, subtype = SUFFIX_AND_SUBTYPE[format]
    plan_options = plan.PlanOptions(
        seed=draw_seed() if seed is None else seed,
        asked=sampling.lasting(duration_s),
        negative_prompt=negative,
        n_variations=n_variations,
        seeds_apart=choosing.best_of,
        output=output,
        suffix=suffix,
        spectrogram=spectrogram,
        timeline=timeline,
        encoding=encoding,
        trim=trim,
        one_shot=one_shot,
        loop=loop,
        near_seed=near_seed,
        nearness=_nearness(near_seed, nearness),
    )
    launch = Launch.current()
    share = launch.share_of(shard, prompts_file)
    jobs, failures, manifest = _plan(prompts, prompts_file, plan_options, share, seed)
    check_broadcast(finish, [job.path for job in jobs])
    player = _find_player(jobs) if play and jobs else None
    setup = set_up(loading, plan_options.asked, run)
    regions = _regions(setup, timeline)
    matches = None
    if not run.overwrite and (prompts_file or seed is not None):
        # A drawn seed is not part of what a list asks, or it could not be taken up again.
        any_seed = prompts_file and seed is None and "seed" not in field_names(output or "")
        matches = setup.matcher(finish, choosing.best_of, any_seed=bool(any_seed))
    jobs, finished = plan.leave_out_finished(
        jobs, matches, overwrite=run.overwrite, n_kept=choosing.n_kept
    )
    setup.check_words(
        [job.request.prompt for job in jobs] + [region.prompt for region in regions],
        [job.request.negative_prompt for job in jobs],
    )
    remarks = _remarks(setup, jobs, regions)
    if run.dry_run:
        resolved = _resolved(setup, batch_size) | asdict(choosing)
        cut = {"one_shot": one_shot, "loop": loop}
        resolved |= {name: asked for name, asked in cut.items() if asked}
        if finish:
            resolved["finish"] = finish.to_dict()
        if regions:
            resolved["timeline"] = [f"{r.start_s:g}-{r.end_s:g}s {r.prompt}" for r in regions]
        _show_plan(setup, resolved, jobs, finished, failures, remarks, as_json=run.json)
        raise typer.Exit(1 if failures else 0)

    from auffusion_cli.cli.batch import Batch

    batch = Batch(
        *(setup, run, subtype, finish, choosing),
        *(player, bool(prompts_file), matches, failures, remarks),
    )
    batch.manifest, batch.launch = manifest, launch
    if seed is None and any(job.line is None or job.former_seed is not None for job in jobs):
        console.note_seed(plan_options.seed)
    batch.skip_finished(finished)
    if jobs:
        with console.quiet_unless(launch.is_main):
            batch.make(setup.load(), jobs, batch_size)
    batch.conclude()


def _plan(
    prompts: list[str] | None,
    prompts_file: str | None,
    plan_options: PlanOptions,
    share: Shard,
    seed: int | None,
) -> tuple[list[Job], list[Failure], Manifest | None]:
    """Jobs and failures of this process, and the manifest of a list."""
    from auffusion_cli.cli import plan
    from auffusion_cli.cli.manifest import Manifest

    if prompts_file is None:
        return plan.plan_arguments(prompts or [""], plan_options), [], None
    jobs, failures = plan.plan_list(prompts_file, plan_options)
    manifest = Manifest([job.path for job in jobs], share)
    if not share.is_whole and seed is None and any(job.former_seed is not None for job in jobs):
        raise UsageError(
            "--seed is missing: each of the processes that share the list would draw its own",
            hint="Give all of them the same one, such as --seed 1.",
        )
    return share.of(jobs), share.of(failures), manifest


def _read_timeline(
    timeline: str | None, duration_s: float | None
) -> tuple[str | None, float | None]:
    """The timeline's text, and the duration that is asked for or follows from it.

    Raises:
        UsageError: it cannot be read, or lies outside of the duration.
    """
    from auffusion_cli.config import MAX_DURATION_S, MIN_DURATION_S
    from auffusion_cli.requests.timeline import parse_timeline, read_timeline, timeline_duration

    if timeline is None:
        return None, duration_s
    timeline = read_timeline(timeline)
    if duration_s is None:
        return timeline, timeline_duration(timeline, MAX_DURATION_S)
    if MIN_DURATION_S <= duration_s <= MAX_DURATION_S:  # others are refused with the settings
        parse_timeline(timeline, duration_s)
    return timeline, duration_s


def _nearness(near_seed: int | None, nearness: float | None) -> float:
    if nearness is None:
        return 0.0 if near_seed is None else DEFAULT_NEARNESS
    return nearness


def _regions(setup: Setup, timeline: str | None) -> list:
    from auffusion_cli.requests.timeline import parse_timeline

    return [] if timeline is None else parse_timeline(timeline, setup.settings.duration_s)


def _remarks(setup: Setup, jobs: Sequence[Job], regions: Sequence) -> dict[str, dict[str, Any]]:
    """Fields to add to the JSON of prompts with words that the model does not know."""
    prompts = {job.request.prompt for job in jobs}
    in_regions = [region.prompt for region in regions]
    unknown = setup.check_vocabulary([*in_regions, *sorted(prompts)])
    remarks = {}
    for prompt in prompts:
        found = [asdict(words) for text in (prompt, *in_regions) for words in unknown.get(text, ())]
        if found:
            remarks[prompt] = {"unknown_words": found}
    return remarks


def _find_player(jobs: Sequence[Job]) -> list[str]:
    from auffusion_cli.cli.play import find_player

    return find_player(jobs[0].path.suffix.lower())


def _resolved(setup: Setup, batch_size: int | None) -> dict[str, Any]:
    from auffusion_cli.config import default_batch_size

    resolved = setup.to_dict()
    return resolved | {"batch_size": batch_size or default_batch_size(resolved["device"])}


def _show_plan(
    setup: Setup,
    resolved: dict[str, Any],
    jobs: Sequence[Job],
    finished: Sequence[Job],
    failures: Sequence[Failure],
    remarks: Mapping[str, dict[str, Any]],
    *,
    as_json: bool,
) -> None:
    if as_json:
        sounds = [
            {"file": str(job.path), "spectrogram": job.picture and str(job.picture)}
            | asdict(job.request)
            | _line_settings(setup, job)
            | remarks.get(job.request.prompt, {})
            | (asdict(sounds) if sounds.names else {})
            for job, sounds in zip(jobs, _sounds_of(setup, jobs), strict=True)
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
    console.print_table(("SETTING", "VALUE"), in_words(resolved))
    console.print_line()
    _print_sounds(setup, jobs)
    if len(jobs) > N_LISTED:
        console.print_line(f"and {len(jobs) - N_LISTED} more")
    if finished:
        console.note(f"{len(finished)} are there already")
    for failure in failures:
        console.warn(f"{failure.source}: {failure.reason}")


def _print_sounds(setup: Setup, jobs: Sequence[Job]) -> None:
    """The first sounds of the plan, with the settings that some have of their own."""
    settings = [_line_settings(setup, job) for job in jobs]
    own = {
        name for each in settings for name in each if each[name] != getattr(setup.settings, name)
    }
    shown = jobs[:N_LISTED]
    columns: dict[str, list[Any]] = {
        "FILE": [job.path for job in shown],
        "SEED": [job.request.seed for job in shown],
    }
    for name in SETTING_COLUMNS:
        if name in own:
            header = name.removesuffix("_s").removesuffix("_scale").upper()
            columns[header] = [each[name] for each in settings[:N_LISTED]]
    columns["PROMPT"] = [job.request.prompt for job in shown]
    made_of = [_in_words(sounds) for sounds in _sounds_of(setup, shown)]
    if any(made_of):
        columns["MADE OF"] = made_of
    console.print_table(tuple(columns), list(zip(*columns.values(), strict=True)))


def _sounds_of(setup: Setup, jobs: Sequence[Job]) -> Iterator[Sounds]:
    """What each job is made of; for a long list of several sounds each it takes a while."""
    with console.Progress("reading prompts", total=len(jobs)) as progress:
        for job in jobs:
            yield setup.sounds_of(job)
            progress.advance()


def _in_words(sounds: Sounds) -> str:
    """As "thunder, then rain from 5 s"; empty of what is made in one."""
    if not sounds.names:
        return ""
    parts = [
        layer.prompt
        + (f" from {layer.enters_s:.3g} s" if layer.enters_s else "")
        + (f" at {layer.gain_db:g} dB" if layer.gain_db else "")
        for layer in sounds.layers
    ]
    return (", then " if sounds.in_order else ", ").join(parts)


def _line_settings(setup: Setup, job: Job) -> dict[str, Any]:
    """The settings that a line of a list may have of its own."""
    settings = setup.settings_of(job)
    return {name: getattr(settings, name) for name in SETTING_COLUMNS}
