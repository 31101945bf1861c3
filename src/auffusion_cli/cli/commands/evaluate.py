"""`auffusion evaluate`: metrics of generated sounds, with what is needed to believe them."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from auffusion_cli.cli import console, options
from auffusion_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    from auffusion_cli.evaluation.compare import Difference
    from auffusion_cli.evaluation.protocols import Protocol
    from auffusion_cli.evaluation.result import Evaluation, Metric
    from auffusion_cli.model import Model
    from auffusion_cli.requests.provenance import Provenance
    from auffusion_cli.tasks.evaluate import Networks

MAX_NAME_CHARACTERS = 60


def register(app: typer.Typer) -> None:
    app.command()(evaluate)


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
    backbone: Annotated[
        Literal["embedded", "published"] | None,
        typer.Option(
            help="What listens: the small network that comes with this package (the default), or "
            "those of the papers, which are downloaded.",
        ),
    ] = None,
    protocol: Annotated[
        Literal["auffusion-2024", "tango", "embedded"] | None,
        typer.Option(help="Whose way of measuring; `published` takes auffusion-2024."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="The published networks' files, where there is no network."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.json", help="Write the whole result."),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE.csv", help="Write a line for each clip."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write a page to look at and listen to."),
    ] = None,
    attention: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Make each sound again, measure where its words were heard, and draw it there.",
        ),
    ] = None,
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
    dry_run: options.DryRun = False,
    json: options.Json = False,
    overwrite: options.Overwrite = False,
    yes: options.Yes = False,
) -> None:
    """Measure generated sounds: FD, FAD, KL, IS, CLAP and KAD, each with a 95 % interval.

    Files that are silent, clipped, broken, doubled or without a partner are counted and named.
    The numbers of the embedded network carry its name (FD-tagger): no paper has such numbers.

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
        asked = (generated, reference, systems, prompts, backbone, protocol, weights, model)
        if any((*asked, output, table, report, attention)):
            raise UsageError("--compare takes two results and nothing else to measure or write.")
        show_comparison(*compare, as_json=json)
        return

    folders = _systems(generated, systems or [])
    chosen = choose_protocol(backbone, protocol)
    check_weights(weights, chosen)
    _check_files(output, table, report, attention, overwrite=overwrite)
    if model is not None and attention is None:
        raise UsageError("--model goes with --attention: the other numbers need no model.")

    from auffusion_cli.evaluation.clips import clip_name, match_captions, read_captions

    captions = None if prompts is None else read_captions(prompts)
    n_files = {}
    for name, folder in folders.items():
        sounds = sounds_in("GENERATED " if folder is generated else f"--system {name}=", folder)
        n_files[name] = len(sounds)
        if captions is not None:
            match_captions(captions, [clip_name(sound) for sound in sounds], folder)
    named = {**folders, "reference": reference} if reference is not None else folders
    if reference is not None:
        n_files["reference"] = len(sounds_in("--reference ", reference))
    if backbone is None and protocol is None:
        console.note(
            "listening with the embedded network; for the papers' numbers: --backbone published"
        )
    if model is not None:
        from auffusion_cli.cli.resolve import fetch, find

        if dry_run:
            find(model)
        else:
            fetch(model, yes=yes)
    if dry_run:
        _show_plan(chosen, named, n_files, captions, attention, as_json=json)
        return

    from auffusion_cli.tasks.evaluate import evaluate as run

    networks = load_networks(chosen, reference is not None, weights, device, yes=yes)
    with console.Progress("reading", unit="clips") as progress:

        def on_progress(what: str, n_done: int, n: int) -> None:
            progress.update(description=what, completed=n_done, total=n)

        evaluation = run(
            folders,
            reference,
            chosen,
            networks,
            captions=captions,
            cache=cache_folder(),
            on_progress=on_progress,
        )
        if attention is not None:
            from auffusion_cli.tasks.evaluate_attention import add_attention

            evaluation = add_attention(
                evaluation,
                _Models(model, device, yes=yes),
                attention,
                overwrite=overwrite,
                on_progress=on_progress,
            )
    warn_of(evaluation.notes, networks)
    try:
        if output is not None:
            evaluation.save(output)
        if table is not None:
            _write_table(evaluation, table)
        if report is not None:
            _write_report(evaluation, report, overwrite=overwrite)
    finally:  # a full disk does not take the numbers with it
        if json:
            console.print_json(asdict(evaluation))
        else:
            show(evaluation)


def cache_folder() -> Path:
    """Where features are kept, by the content of the sound."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "auffusion/features"


# --- what is asked for


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
                f"--system {text!r}: not a name and a folder.", hint="For example: ours=generated/"
            )
        if len(name) > MAX_NAME_CHARACTERS:
            raise UsageError(
                f"--system {name[:20]}…: longer than {MAX_NAME_CHARACTERS} characters."
            )
        if name in folders:
            raise UsageError(f"--system {name}: there are two of this name.")
        folders[name] = Path(folder)
    if not folders:
        raise UsageError(
            "What is to be measured? Give a folder of generated sounds, or --system NAME=FOLDER.",
            hint="For example: auffusion evaluate generated/ --reference real/",
        )
    return folders


def sounds_in(named_by: str, folder: Path) -> list[str]:
    """Its sound files. UsageError, beginning with `named_by`, where there are none."""
    from auffusion_cli.evaluation.clips import find_sounds

    try:
        return find_sounds(folder)
    except DataError as error:
        raise UsageError(f"{named_by}{error.message}", hint=error.hint) from None


def choose_protocol(backbone: str | None, name: str | None) -> Protocol:
    from auffusion_cli.evaluation.protocols import PROTOCOLS

    if name is None:
        name = "auffusion-2024" if backbone == "published" else "embedded"
    chosen = PROTOCOLS[name]
    if backbone is not None and chosen.comparable_with_papers != (backbone == "published"):
        raise UsageError(
            f"--backbone {backbone} and --protocol {name} contradict each other.",
            hint="A protocol brings its networks; leave --backbone out.",
        )
    return chosen


def _check_files(
    output: Path | None,
    table: Path | None,
    report: Path | None,
    attention: Path | None,
    *,
    overwrite: bool,
) -> None:
    """Before any work: that what is asked for can be written."""
    from auffusion_cli.cli.outputs import check_free, check_writable

    for option, path, suffix in (
        ("--output", output, ".json"),
        ("--csv", table, ".csv"),
        ("--report", report, ".html"),
    ):
        if path is None:
            continue
        if path.suffix.lower() != suffix:
            raise UsageError(f"{option} {path}: has to end in {suffix}.")
        check_writable([path], option)
        if not overwrite:
            check_free([path])
    if report is not None:
        from auffusion_cli.evaluation.report import check_target

        check_target(report, overwrite=overwrite)  # the folder beside it too
    if attention is not None:
        check_writable([attention / "picture.png"], "--attention")
        if not overwrite and attention.is_dir():
            from auffusion_cli.tasks.evaluate_attention import check_pictures

            check_pictures(attention)  # pictures of a run that was stopped may be there


def load_networks(
    chosen: Protocol, has_reference: bool, weights: Path | None, device: str, *, yes: bool
) -> Networks:
    """The networks that will be needed: the one for frames only where there is a reference.

    All are fetched before the first is loaded, so that what is missing is told at once.
    """
    from auffusion_cli.cli.resolve import DownloadProgress, ask
    from auffusion_cli.device import choose_device
    from auffusion_cli.evaluation import published
    from auffusion_cli.evaluation.weights import load_embedder
    from auffusion_cli.tasks.evaluate import Networks

    roles = {
        role: network
        for role in ("classifier", "frames", "text")
        if (network := getattr(chosen, role)) is not None and (role != "frames" or has_reference)
    }
    missing = published.missing([network.name for network in roles.values()], weights)
    for n, name in enumerate(missing):
        console.note(f"fetching {name}")
        with DownloadProgress(name) as progress:
            published.fetch(
                name,
                then=missing[n + 1 :],
                confirm=ask(yes=yes),
                on_progress=progress.report,
            )
    loaded, unverified = {}, {}
    for role, network in roles.items():
        console.note(f"loading {network.name}")
        loaded[role], found = load_embedder(
            network, weights_folder=weights, device=choose_device(device)
        )
        if found is not None:
            unverified[network.name] = found
    return Networks(**loaded, unverified=unverified)


def check_weights(weights: Path | None, chosen: Protocol) -> None:
    """Before any work: that --weights names a folder with something that can be used."""
    from auffusion_cli.evaluation.published import check_weights_folder

    if weights is not None:
        networks = (chosen.classifier, chosen.frames, chosen.text)
        check_weights_folder(weights, [network.name for network in networks if network is not None])


def warn_of(notes: Iterable[str], networks: Networks) -> None:
    """What to mind about all of it; what concerns weights was told when they were loaded."""
    told = {unverified.note for unverified in networks.unverified.values()}
    for note in notes:
        if note not in told:
            console.warn(note)


class _Models:
    """The model that a file names, if everybody knows it, or the one `named`; keeps one loaded."""

    def __init__(self, named: str | None, device: str, *, yes: bool) -> None:
        self.named, self.device, self.yes = named, device, yes
        self._weights = cache(self._look_at_weights)
        self._loaded = lru_cache(maxsize=1)(self._load)

    def identity(self, recorded: Provenance, path: Path) -> str:
        from auffusion_cli.device import choose_device

        name = self._name(recorded, path)
        device = choose_device(self.device).type
        return " ".join((name, self._weights(name), device, recorded.dtype, recorded.vocoder))

    def load(self, recorded: Provenance, path: Path) -> Model:
        return self._loaded(self._name(recorded, path), recorded.dtype, recorded.vocoder)

    def _name(self, recorded: Provenance, path: Path) -> str:
        from auffusion_cli.cli.recorded import recorded_model

        return self.named or recorded_model(recorded, path)

    def _look_at_weights(self, name: str) -> str:
        from auffusion_cli.cli.resolve import fetch
        from auffusion_cli.tasks.sweep import weights_of

        return weights_of(fetch(name, yes=self.yes).folder)

    def _load(self, name: str, dtype: str, vocoder: str) -> Model:
        from auffusion_cli.checkpoints.load import load_model

        return load_model(name, device=self.device, dtype=dtype, vocoder=vocoder)


def _show_plan(
    chosen: Protocol,
    folders: dict[str, Path],
    n_files: dict[str, int],
    captions: dict[str, str] | None,
    attention: Path | None,
    *,
    as_json: bool,
) -> None:
    networks = [b for b in (chosen.classifier, chosen.frames, chosen.text) if b is not None]
    plan = {
        "protocol": chosen.name,
        "networks": {
            b.name: {"weights": b.weights, "sample_rate_hz": b.audio_input.sample_rate_hz}
            for b in networks
        },
        "prompts": "the files' own" if captions is None else len(captions),
        "folders": {
            name: {"folder": str(folder), "sound_files": n_files[name]}
            for name, folder in folders.items()
        },
        "attention": None if attention is None else str(attention),
        "cache": str(cache_folder()),
    }
    if as_json:
        console.print_json(plan)
        return
    rows = [("protocol", f"{chosen.name}: {chosen.description}")]
    rows += [
        (b.name, f"{b.audio_input.sample_rate_hz:,} Hz, weights {b.weights}") for b in networks
    ]
    rows += [(name, plan[name] or "no") for name in ("prompts", "attention", "cache")]
    rows += [(name, f"{folder}, {n_files[name]} sound files") for name, folder in folders.items()]
    console.print_table(("SETTING", "VALUE"), rows)


# --- what is told


def show(evaluation: Evaluation) -> None:
    """The numbers of all systems as a table, then what to mind about them."""
    from rich.table import Table
    from rich.text import Text

    rows: dict[tuple[str, str], dict[str, Metric]] = {}
    for system in evaluation.systems:
        for metric in system.metrics:
            rows.setdefault((metric.name, metric.subset), {})[system.name] = metric
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("METRIC")
    for system in evaluation.systems:
        table.add_column(Text(system.name))
        table.add_column("95 %")
        table.add_column("CLIPS", justify="right")
    table.add_column("BETTER")
    for (name, subset), metrics in rows.items():
        cells = [f"  {subset}" if subset else name]
        for system in evaluation.systems:
            cells += _cells(metrics.get(system.name))
        cells.append(next(iter(metrics.values())).better)
        table.add_row(*map(Text, cells))
    _print_rich(table)
    for note in _metric_notes(evaluation):
        console.note(note)


def _cells(metric: Metric | None) -> tuple[str, str, str]:
    if metric is None:
        return "", "", ""
    value = "none" if metric.value is None else f"{metric.value:.4g}"
    return value, _interval(metric.ci_95), str(metric.n)


def _interval(limits: tuple[float, float] | None) -> str:
    return "" if limits is None else f"{limits[0]:.4g} to {limits[1]:.4g}"


def _metric_notes(evaluation: Evaluation) -> list[str]:
    """Each note once, with the numbers that it is about."""
    about: dict[tuple[str, str], list[str]] = {}
    for system in evaluation.systems:
        for metric in system.metrics:
            if metric.note:
                names = about.setdefault((system.name, metric.note), [])
                if metric.name not in names:
                    names.append(metric.name)
    several = len(evaluation.systems) > 1
    return [
        (f"{system}: " if several else "") + f"{', '.join(names)}: {note}"
        for (system, note), names in about.items()
    ]


def show_comparison(first: Path, second: Path, *, as_json: bool) -> None:
    """How two results differ, and what to mind about each.

    DataError where they cannot be compared.
    """
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
        console.print_table(
            (pair, "FIRST", "SECOND", "CHANGE", "95 %", ""), [_row(each) for each in of_pair]
        )


def _row(difference: Difference) -> tuple[str, ...]:
    def number(value: float | None) -> str:
        return "none" if value is None else f"{value:.4g}"

    change = "" if difference.change is None else f"{difference.change:+.4g}"
    return (
        f"  {difference.subset}" if difference.subset else difference.metric,
        number(difference.first),
        number(difference.second),
        change,
        _interval(difference.ci_95),
        _verdict(difference),
    )


def _verdict(difference: Difference) -> str:
    """Which way it went, where the interval leaves no doubt."""
    if difference.ci_95 is None:
        return ""
    low, high = difference.ci_95
    if low <= 0 <= high:
        return "no clear difference"
    return "better" if (low > 0) == (difference.better == "higher") else "worse"


def _print_rich(renderable) -> None:
    """On stdout; never cut or wrapped where that is a pipe or file."""
    import sys

    from rich.console import Console

    width = None if sys.stdout.isatty() else 1_000
    Console(file=sys.stdout, width=width, highlight=False).print(renderable)


# --- what is written


def _write_table(evaluation: Evaluation, path: Path) -> None:
    """A line a clip, then one for each file that was left out."""
    from auffusion_cli.evaluation.clips import clip_name
    from auffusion_cli.files import write_text

    scores = list(
        dict.fromkeys(
            name for system in evaluation.systems for row in system.rows for name in row.scores
        )
    )
    plain = ("name", "path", "reference_path", "prompt", "n_events", "duration_s", "sha256")
    has_words = any(row.words for system in evaluation.systems for row in system.rows)
    columns = ["system", *plain, "flags", *scores, *(["attention-words"] if has_words else [])]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for system in evaluation.systems:
        of_system = {"system": system.name}
        for row in system.rows:
            line = of_system | {name: getattr(row, name) for name in plain} | row.scores
            line["flags"] = " ".join(row.flags)
            if has_words:
                line["attention-words"] = "; ".join(
                    f"{word.word} {word.entropy} {word.level}" for word in row.words
                )
            writer.writerow(line)
        for found in system.clips.findings:
            if found.excluded:
                line = {"name": clip_name(found.path), "path": found.path, "flags": found.flag}
                writer.writerow(of_system | line)
    write_text(path, text.getvalue())


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
