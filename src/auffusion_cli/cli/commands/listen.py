"""`auffusion listen`: a listening test as a page, and what its listeners answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auffusion_cli.cli import console, options
from auffusion_cli.errors import UsageError

if TYPE_CHECKING:
    from auffusion_cli.evaluation.listening import Outcome
    from auffusion_cli.evaluation.listening_page import Clip

DEFAULT_CATCH = 4
DEFAULT_TITLE = "Listening test"


def register(app: typer.Typer) -> None:
    app.command()(options.grouped(listen))


def listen(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=FOLDER...|ANSWERS...",
            help="The systems and their sounds; with --collect files of answers, or folders.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER|FILE.json",
            help="Where the test goes, with its key beside; with --collect the whole result.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A .csv or .jsonl with the clips' names and words; by default the files' own.",
        ),
    ] = None,
    title: Annotated[
        str | None, typer.Option(help=f"Of the page.  [default: {DEFAULT_TITLE}]")
    ] = None,
    clips_each: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Clips that a listener is given, drawn by chance, in all systems.  [default: all]",
        ),
    ] = None,
    catch: Annotated[
        int | None,
        typer.Option(min=0, max=100, help=f"Catch trials.  [default: {DEFAULT_CATCH}]"),
    ] = None,
    match_loudness: Annotated[
        bool,
        typer.Option(
            "--match-loudness/--no-match-loudness",
            help="Bring all sounds to -23 LUFS, as far as their peaks allow.",
        ),
    ] = True,
    collect: Annotated[
        bool, typer.Option("--collect", help="Evaluate answers, instead of making a test.")
    ] = False,
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE.key.json", help="For --collect, the key of the test."),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE.csv", help="For --collect, write the mean ratings."),
    ] = None,
    *,
    run: options.Run,
) -> None:
    """Ask listeners: overall quality (OVL) and relevance to the words (REL), each from 1 to 100.

    The test is a folder with a page and its sounds, which opens from the disk or any web server;
    listeners send back the file that the page gives them. Sounds have random names and come in
    another order for each listener; the key, which says whose they are, is written beside the
    folder and stays with you. Catch trials, noise and instructions, tell who does not listen.

    \b
    Examples:
      auffusion listen ours=a/ theirs=b/ real=c/ -o test/
      auffusion listen ours=a/ real=c/ --prompts captions.csv --clips-each 20 -o test/
      auffusion listen --collect answers/*.json --key test.key.json
      auffusion listen --collect answers/ --key test.key.json -o result.json --csv means.csv
    """
    if collect:
        if any(value is not None for value in (prompts, title, clips_each, catch)):
            raise UsageError("--collect takes no options of the page")
        _collect([Path(source) for source in sources], key, output, table, run)
        return
    if key is not None or table is not None:
        raise UsageError(f"{'--key' if key is not None else '--csv'} goes with --collect")
    systems = _systems(sources)
    if output is None:
        raise UsageError("--output is missing", hint="For example: -o test/.")
    _make(
        systems,
        output,
        prompts,
        title=DEFAULT_TITLE if title is None else title,
        clips_each=clips_each,
        n_catch=DEFAULT_CATCH if catch is None else catch,
        match_loudness=match_loudness,
        run=run,
    )


# --- the test


def _systems(sources: Sequence[str]) -> dict[str, Path]:
    """name -> folder."""
    folders: dict[str, Path] = {}
    for source in sources:
        name, equals, folder = source.partition("=")
        if not (equals and folder and name.strip() and name.isprintable()):
            raise UsageError(
                f"{source!r} is not a name and a folder",
                hint="For example: ours=generated/; answers go with --collect.",
            )
        if name in folders:
            raise UsageError(f"{name}: there are two systems of this name")
        folders[name] = Path(folder)
    return folders


def _make(
    systems: dict[str, Path],
    output: Path,
    prompts: Path | None,
    *,
    title: str,
    clips_each: int | None,
    n_catch: int,
    match_loudness: bool,
    run: options.Run,
) -> None:
    from auffusion_cli.cli.networks import sounds_in
    from auffusion_cli.cli.outputs import check_writable
    from auffusion_cli.evaluation.captions import read_captions
    from auffusion_cli.evaluation.listening_page import (
        PAGE,
        check_target,
        key_path,
        pair_clips,
        write_test,
    )

    check_writable([output / PAGE, key_path(output)], "--output")
    check_target(output, overwrite=run.overwrite)
    for name, folder in systems.items():
        sounds_in(f"{name}=", folder)
    captions = None if prompts is None else read_captions(prompts)
    clips, left_out = pair_clips(systems, captions)
    if left_out:
        console.warn(
            f"{len(left_out)} clips, such as {left_out[0]}, are not in all systems: left out"
        )
    n_clips_each = min(clips_each or len(clips), len(clips))
    n_given = n_clips_each * len(systems) + n_catch
    if run.dry_run:
        _show_plan(clips, n_given, output, as_json=run.json)
        return
    with console.Progress("copying", unit="sounds") as progress:
        made = write_test(
            clips,
            output,
            title=title,
            n_catch=n_catch,
            n_clips_each=n_clips_each,
            match_loudness=match_loudness,
            overwrite=run.overwrite,
            on_sound=progress.report,
        )
    page, key = output / PAGE, key_path(output)
    if run.json:
        console.print_json(
            {"page": str(page), "key": str(key), "test": made.test, "clips": len(clips)}
            | {"sounds": len(made.trials), "sounds_each": n_given}
        )
        return
    console.print_path(page)
    console.note(f"{n_given} of {len(made.trials)} sounds for each listener")
    console.note(f"{key} says whose sounds they are: keep it, and do not give it to listeners")


def _show_plan(clips: Sequence[Clip], n_given: int, output: Path, *, as_json: bool) -> None:
    if as_json:
        rows = [{"name": clip.name, "words": clip.words} for clip in clips]
        console.print_json({"output": str(output), "sounds_each": n_given, "clips": rows})
        return
    console.print_table(("CLIP", "WORDS"), [(clip.name, clip.words) for clip in clips])
    console.note(f"{n_given} sounds for each listener, in {output}")


# --- the answers


def _collect(
    sources: Sequence[Path],
    key: Path | None,
    output: Path | None,
    table: Path | None,
    run: options.Run,
) -> None:
    import json

    from auffusion_cli.cli.outputs import check_file
    from auffusion_cli.cli.result_tables import write_csv
    from auffusion_cli.evaluation.listening import check_installed, collect, read_key
    from auffusion_cli.files import write_text

    check_installed()
    if key is None:
        raise UsageError(
            "--key is missing: which sound is whose",
            hint="It was written beside the test: test/ has test.key.json.",
        )
    check_file(output, "--output", ".json", overwrite=run.overwrite)
    check_file(table, "--csv", ".csv", overwrite=run.overwrite)
    paths = _answer_files(sources)
    of_test = read_key(key)
    if run.dry_run:
        if run.json:
            console.print_json({"key": str(key), "answers": [str(path) for path in paths]})
        else:
            console.print_table(("ANSWERS",), [(path,) for path in paths])
        return
    outcome = collect(paths, of_test)
    if output is not None:
        write_text(output, json.dumps(asdict(outcome), ensure_ascii=False, indent=1) + "\n")
    if table is not None:
        write_csv(
            ("question", "system", "mean", "low", "high", "n_ratings"),
            [
                {"question": one.question, "system": one.system, "mean": one.mean}
                | dict(zip(("low", "high"), one.ci_95 or (None, None), strict=True))
                | {"n_ratings": one.n_ratings}
                for one in outcome.scores
            ],
            table,
        )
    for one in outcome.listeners:
        if one.excluded is not None:
            console.warn(f"{one.file} does not count: {one.excluded}")
    if run.json:
        console.print_json(asdict(outcome))
    else:
        _show(outcome)


def _answer_files(sources: Sequence[Path]) -> list[Path]:
    paths = []
    for source in sources:
        if not source.exists():
            raise UsageError(f"{source}: no such file or folder")
        found = sorted(source.glob("*.json")) if source.is_dir() else [source]
        if not found:
            raise UsageError(f"{source}: holds no .json")
        paths += found
    return paths


def _show(outcome: Outcome) -> None:
    """Print the mean ratings, the comparisons of systems, and how far listeners agree."""
    from auffusion_cli.evaluation.listening import QUESTIONS

    systems = list(dict.fromkeys(one.system for one in outcome.scores))
    scores = {(one.system, one.question): one for one in outcome.scores}
    headers = ["SYSTEM", *(cell for question in QUESTIONS for cell in (question, "95 %"))]
    console.print_table(
        [*headers, "RATINGS"],
        [
            [
                system,
                *(
                    cell
                    for question in QUESTIONS
                    for cell in (
                        _number(scores[system, question].mean),
                        _interval(scores[system, question].ci_95),
                    )
                ),
                scores[system, QUESTIONS[0]].n_ratings,
            ]
            for system in systems
        ],
    )
    if outcome.preferences:
        console.print_line()
        console.print_table(
            ("PREFERENCE", "", "DIFFERENCE", "95 %", "CLIPS +/-/=", "P", "P (HOLM)"),
            [
                (
                    one.question,
                    f"{one.first} - {one.second}",
                    "none" if one.difference is None else f"{one.difference:+.1f}",
                    _interval(one.ci_95),
                    f"{one.n_better}/{one.n_worse}/{one.n_equal}",
                    f"{one.p:.3g}",
                    f"{one.p_holm:.3g}",
                )
                for one in outcome.preferences
            ],
        )
    console.print_line()
    for question, alpha in outcome.agreement.items():
        shown = "none" if alpha is None else f"{alpha:.2f}"
        console.print_line(f"Agreement on {question} (Krippendorff's alpha): {shown}")
    n_files = len(outcome.listeners)
    console.print_line(f"{outcome.n_listeners} of {n_files} listeners, {outcome.n_clips} clips")


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f}"


def _interval(limits: tuple[float, float] | None) -> str:
    return "" if limits is None else f"{limits[0]:.1f} to {limits[1]:.1f}"
