"""`auffusion evaluate`: metrics of generated sounds, with what is needed to believe them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auffusion_cli.cli import console, networks, options, result_tables
from auffusion_cli.cli.launch import Launch
from auffusion_cli.errors import DataError, UsageError
from auffusion_cli.files import clear_unfinished
from auffusion_cli.requests.shards import Shard

if TYPE_CHECKING:
    from auffusion_cli.evaluation.protocols import Protocol
    from auffusion_cli.evaluation.result import Evaluation
    from auffusion_cli.tasks.evaluate import Networks

MAX_NAME_CHARACTERS = 60


def register(app: typer.Typer) -> None:
    app.command()(options.grouped(evaluate))


@dataclass(frozen=True)
class Files:
    """Options for the files to write."""

    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.json", help="Write the whole result."),
    ] = None
    table: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE.csv", help="Write a line for each clip."),
    ] = None
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write a page to look at and listen to."),
    ] = None
    attention: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Make each sound again, measure the attention to each word, and draw it there.",
        ),
    ] = None

    def check(self, *, overwrite: bool) -> None:
        """Raise a UsageError, before any work, unless all can be written."""
        from auffusion_cli.cli.outputs import check_file, check_writable

        check_file(self.output, "--output", ".json", overwrite=overwrite)
        check_file(self.table, "--csv", ".csv", overwrite=overwrite)
        check_file(self.report, "--report", ".html", overwrite=overwrite)
        if self.report is not None:
            from auffusion_cli.evaluation.report import check_target

            check_target(self.report, overwrite=overwrite)  # the folder beside it too
        if self.attention is not None:
            check_writable([self.attention / "picture.png"], "--attention")
            if not overwrite and self.attention.is_dir():
                from auffusion_cli.tasks.evaluate_attention import check_pictures

                check_pictures(self.attention)  # those of a run that was stopped may be there

    def write(self, evaluation: Evaluation, *, overwrite: bool) -> None:
        for folder in {path.parent for path in (self.output, self.table) if path is not None}:
            clear_unfinished(folder)
        if self.output is not None:
            evaluation.save(self.output)
        if self.table is not None:
            result_tables.write_clips(evaluation, self.table)
        if self.report is not None:
            _write_report(evaluation, self.report, overwrite=overwrite)


def evaluate(
    generated: Annotated[
        Path | None, typer.Argument(metavar="GENERATED", help="A folder of generated sounds.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Real sounds. FD, FAD, KAD and KL need them; KL pairs files by name.",
        ),
    ] = None,
    systems: Annotated[
        list[str] | None,
        typer.Option(
            "--system",
            metavar="NAME=FOLDER",
            help="Instead of GENERATED, or besides; repeatable.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A .csv or .jsonl with the clips' names and prompts; by default the files' own.",
        ),
    ] = None,
    *,
    measuring: networks.Measuring,
    files: Files,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|HUB_ID|FOLDER",
            help="For --attention, instead of the model that each file names.",
        ),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A.json B.json",
            help="Instead of measuring: the differences of two results, if they are comparable.",
        ),
    ] = None,
    device: options.Device = "auto",
    shard: options.Shard = None,
    run: options.Run,
) -> None:
    """Measure generated sounds: FD, FAD, KL, IS, CLAP and KAD, each with a 95 % interval.

    Files that are silent, clipped, broken, doubled or without a partner are counted and named.
    The numbers of the embedded network carry its name (FD-tagger): no paper has such numbers.
    With --shard a part of the sounds is listened to, and the features are kept for the run without
    it, which measures. The processes of `accelerate launch` share the sounds by themselves.

    \b
    Examples:
      auffusion evaluate generated/ --reference real/
      auffusion evaluate generated/ --reference real/ --backbone published -o result.json
      auffusion evaluate --system ours=a/ --system theirs=b/ --reference real/ --report page.html
      auffusion evaluate generated/ --prompts captions.csv --csv clips.csv
      auffusion evaluate generated/ --attention maps/
      auffusion evaluate --compare before.json after.json
    """
    if compare is not None:
        asked = (generated, reference, systems, prompts, model, shard)
        if any((*asked, *astuple(measuring), *astuple(files))):
            raise UsageError("--compare takes two results and nothing else to measure or write")
        _compare(*compare, as_json=run.json)
        return

    if shard is not None and any(astuple(files)):
        raise UsageError(
            "--shard listens to a part of the sounds, and has no result to write",
            hint="Run all shards first, and then the command without --shard.",
        )
    launch = Launch.current()
    folders = _systems(generated, systems or [])
    chosen = measuring.choose()
    files.check(overwrite=run.overwrite)
    if model is not None and files.attention is None:
        raise UsageError("--model goes with --attention: the other numbers need no model")
    sounds = _find_sounds(folders, generated)
    n_real = 0 if reference is None else len(networks.sounds_in("--reference ", reference))
    captions = None if prompts is None else _read_captions(prompts, folders, sounds)
    if measuring.is_default and launch.is_main:
        console.note(
            "measuring with the embedded network; for the papers' numbers: --backbone published"
        )
    if model is not None:
        _find_model(model, run)
    if run.dry_run:
        described = {name: _described(folders[name], len(sounds[name])) for name in folders}
        real = None if reference is None else _described(reference, n_real)
        _show_plan(chosen, described, real, captions, files.attention, as_json=run.json)
        return

    loaded = networks.load_networks(
        chosen, reference is not None, measuring.weights, device, yes=run.yes
    )
    from auffusion_cli.tasks.evaluate import evaluate as measure

    share = (shard or Shard()).part(launch.shard)
    if not share.is_whole:
        _listen(folders, reference, loaded, share, launch)
        if launch.gather(True) is None or shard is not None:
            return

    with networks.progress() as on_progress:
        evaluation = measure(
            folders,
            reference,
            chosen,
            loaded,
            captions=captions,
            cache=networks.cache_folder(),
            on_progress=on_progress,
        )
        if files.attention is not None:
            from auffusion_cli.cli.recorded_models import RecordedModels
            from auffusion_cli.tasks.evaluate_attention import add_attention

            evaluation = add_attention(
                evaluation,
                RecordedModels(model, device, yes=run.yes),
                files.attention,
                overwrite=run.overwrite,
                on_progress=on_progress,
            )
    networks.warn_of(evaluation.notes, loaded)
    try:
        files.write(evaluation, overwrite=run.overwrite)
    finally:  # a full disk does not take the numbers with it
        if run.json:
            console.print_json(asdict(evaluation))
        else:
            result_tables.show_metrics(evaluation)


def _listen(
    folders: dict[str, Path],
    reference: Path | None,
    loaded: Networks,
    share: Shard,
    launch: Launch,
) -> None:
    from auffusion_cli.tasks.evaluate import listen

    cache = networks.cache_folder()
    with console.quiet_unless(launch.is_main), networks.progress() as on_progress:
        listen(folders.values(), reference, loaded, share, cache, on_progress=on_progress)
        console.note(f"part {share} of the sounds: the features are in {cache}")


# --- the request


def _systems(generated: Path | None, named: Sequence[str]) -> dict[str, Path]:
    """name -> folder."""
    folders: dict[str, Path] = {}
    if generated is not None:
        folders[generated.resolve().name or "generated"] = generated
    for text in named:
        name, equals, folder = text.partition("=")
        if not (equals and folder and name.strip() and name.isprintable()) or re.search(
            r"^\.|[/\\]", name
        ):
            raise UsageError(
                f"--system {text!r}: not a name and a folder", hint="For example: ours=generated/"
            )
        if len(name) > MAX_NAME_CHARACTERS:
            raise UsageError(f"--system {name[:20]}…: longer than {MAX_NAME_CHARACTERS} characters")
        if name in folders:
            raise UsageError(f"--system {name}: there are two of this name")
        folders[name] = Path(folder)
    if not folders:
        raise UsageError(
            "Nothing to measure: give a folder of generated sounds, or --system NAME=FOLDER",
            hint="For example: auffusion evaluate generated/ --reference real/",
        )
    return folders


def _find_sounds(folders: dict[str, Path], generated: Path | None) -> dict[str, list[str]]:
    """name -> sound files of the folder."""
    return {
        name: networks.sounds_in(
            "GENERATED " if folder is generated else f"--system {name}=", folder
        )
        for name, folder in folders.items()
    }


def _read_captions(
    prompts: Path, folders: dict[str, Path], sounds: dict[str, list[str]]
) -> dict[str, str]:
    """clip name -> prompt, of which each folder has some."""
    from auffusion_cli.evaluation.captions import match_captions, read_captions
    from auffusion_cli.evaluation.clips import clip_name

    captions = read_captions(prompts)
    for name, folder in folders.items():
        match_captions(captions, [clip_name(sound) for sound in sounds[name]], folder)
    return captions


def _find_model(name: str, run: options.Run) -> None:
    from auffusion_cli.cli.resolve import fetch, find

    if run.dry_run:
        find(name)
    else:
        fetch(name, yes=run.yes)


# --- results


def _described(folder: Path, n_sounds: int) -> dict[str, Any]:
    return {"folder": str(folder), "sound_files": n_sounds}


def _show_plan(
    chosen: Protocol,
    folders: dict[str, dict[str, Any]],
    reference: dict[str, Any] | None,
    captions: dict[str, str] | None,
    attention: Path | None,
    *,
    as_json: bool,
) -> None:
    plan = {
        "protocol": chosen.name,
        "networks": {
            b.name: {"weights": b.weights, "sample_rate_hz": b.audio_input.sample_rate_hz}
            for b in chosen.backbones
        },
        "prompts": "the files' own" if captions is None else len(captions),
        "folders": folders,
        "reference": reference,
        "attention": None if attention is None else str(attention),
        "cache": str(networks.cache_folder()),
    }
    if as_json:
        console.print_json(plan)
        return
    rows = [("protocol", f"{chosen.name}: {chosen.description}")]
    rows += [
        (b.name, f"{b.audio_input.sample_rate_hz:,} Hz, weights {b.weights}")
        for b in chosen.backbones
    ]
    rows += [(name, plan[name] or "no") for name in ("prompts", "attention", "cache")]
    named = [*folders.items(), *([("reference", reference)] if reference else [])]
    rows += [(name, f"{one['folder']}, {one['sound_files']} sound files") for name, one in named]
    console.print_table(("SETTING", "VALUE"), rows)


def _write_report(evaluation: Evaluation, path: Path, *, overwrite: bool) -> None:
    from auffusion_cli.evaluation.report import write_report

    with console.Progress("writing the page", unit="sounds") as progress:
        written = write_report(
            evaluation,
            path,
            overwrite=overwrite,
            on_sound=lambda n_done, n: progress.update(completed=n_done, total=n),
        )
    where = "inside" if written.folder is None else f"in {written.folder}"
    console.note(f"{path}: {console.format_bytes(written.n_bytes)}, with the sounds {where}")


def _compare(first: Path, second: Path, *, as_json: bool) -> None:
    """Show how two results differ, and the notes of each."""
    from auffusion_cli.evaluation.compare import compare
    from auffusion_cli.evaluation.result import Evaluation

    try:
        results = Evaluation.load(first), Evaluation.load(second)
    except DataError as error:
        raise UsageError(f"--compare {error.message}", hint=error.hint) from None
    differences = compare(*results)
    notes = {which: each.notes for which, each in zip(("first", "second"), results, strict=True)}
    for note in dict.fromkeys(notes["first"] + notes["second"]):
        about = [which for which, of_result in notes.items() if note in of_result]
        console.warn(f"{' and '.join(about)}: {note}")
    if as_json:
        pairs = {pair: [asdict(each) for each in of_pair] for pair, of_pair in differences.items()}
        console.print_json({**pairs, "notes": notes})
        return
    for pair, of_pair in differences.items():
        result_tables.show_differences(pair, of_pair)
