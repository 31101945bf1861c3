"""`auffusion attention`: maps of where in a sound the model attends to each word of its prompt."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auffusion_cli.cli import console, options, recorded
from auffusion_cli.cli.attention_files import Files, choose_files
from auffusion_cli.cli.outputs import place_for
from auffusion_cli.cli.rows import in_words
from auffusion_cli.errors import UsageError
from auffusion_cli.signal.formats import WRITTEN

if TYPE_CHECKING:
    from auffusion_cli.cli.making import Setup
    from auffusion_cli.config import SpectrogramConfig
    from auffusion_cli.pictures.attention import AttentionColumn
    from auffusion_cli.requests.request import GenerateRequest
    from auffusion_cli.tasks.attention import AttentionResult

MAX_DRAWN_WORDS = 12
MAX_MODELS = 4
PHASE = re.compile(r"([0-9]*\.?[0-9]+)\s*-\s*([0-9]*\.?[0-9]+)")


def register(app: typer.Typer) -> None:
    app.command()(options.grouped(attention))


@dataclass(frozen=True)
class Averages:
    """The steps, layers and heads that maps are averaged over."""

    phase: Annotated[
        str,
        typer.Option(metavar="FROM-TO", help="Average over this part of the steps: 0-0.5, 0.8-1."),
    ] = "0-1"
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...", help="Average over these layers: down, mid, up, or names."
        ),
    ] = None
    heads: Annotated[
        str | None, typer.Option(metavar="N,...", help="Average over these heads, from 0.")
    ] = None

    def parsed(self) -> dict[str, Any]:
        """The arguments of `tasks.attention.generate_with_attention`."""
        layers = [name.strip() for name in self.layers.split(",")] if self.layers else []
        return {
            "phase": _read_phase(self.phase),
            "layers": layers,
            "heads": _read_heads(self.heads),
        }


def attention(
    source: Annotated[
        str, typer.Argument(metavar="PROMPT|FILE", help="A prompt, or a sound made by generate.")
    ],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE.png", help="Where to write the picture."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="FILE.npz", help="Write the numbers too; {model} for several models."),
    ] = None,
    audio: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write the sound too; {model} for several models."),
    ] = None,
    words: Annotated[
        str | None,
        typer.Option(metavar="WORD,...", help=f"Draw only these, at most {MAX_DRAWN_WORDS}."),
    ] = None,
    *,
    averages: Averages,
    duration_s: options.Duration = None,
    trim: recorded.Trim = None,
    seed: options.Seed = None,
    negative: recorded.OptionalNegative = None,
    sampling: options.Sampling,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|HUB_ID|FOLDER",
            help="By default FILE's, or else embedded; several are drawn side by side.",
        ),
    ] = None,
    computation: recorded.Computation,
    run: options.Run,
) -> None:
    """Draw for every word where in the sound the model attends to it, above the spectrogram.

    Averaged over all heads, layers and steps, or over those that are chosen. A file made by
    generate is made again, from its record.

    \b
    Examples:
      auffusion attention "dog barking in rain" -o attention.png --seed 3
      auffusion attention rain.wav --data attention.npz --words dog,rain
      auffusion attention "dog barking in rain" --layers up --phase 0-0.5 --audio rain.wav
      auffusion attention "dog barking in rain" --model auffusion-full --model tango
    """
    from auffusion_cli.checkpoints.names import refuse_family
    from auffusion_cli.cli.making import set_up

    chosen = averages.parsed()
    if len(models or ()) > MAX_MODELS:
        raise UsageError(f"--model: {len(models)} of them; at most {MAX_MODELS} are drawn")
    named_model = models[0] if models else None
    for name in models or ():
        refuse_family(name, "attention")
    given = {"--seed": seed, "--negative": negative, "--trim": trim}
    origin = _origin(source, named_model, given, sampling.lasting(duration_s))
    names = models or [origin.loading.model]
    drawn_words = _choose_words(words, origin.request.prompt)
    files = choose_files(output, data, audio, origin, names)
    files.check(overwrite=run.overwrite)
    setups = [
        set_up(origin.loading_with(name, computation), origin.asked, run, needs_torch="attention")
        for name in names
    ]
    for setup in setups:
        _check_averages(setup, origin.request, **chosen)
    if run.dry_run:
        _show_plan(setups, files, origin.request, drawn_words, as_json=run.json)
        return

    from auffusion_cli.pictures.attention import save_attention

    results, configs = [], []
    for number, setup in enumerate(setups):
        result, config = _generate(setup, origin.request, chosen)
        configs.append(config)
        results.append(result)
        if files.data:
            with place_for(files.data[number]):
                result.save_data(files.data[number], overwrite=run.overwrite)
        if files.sounds:
            with place_for(files.sounds[number]):
                result.sound.save(files.sounds[number], overwrite=run.overwrite)
    drawn_words = _fewer_words(drawn_words, results)
    titles = names if len(names) > 1 else [origin.request.prompt]
    columns = [
        _column(f"{title}, seed {origin.request.seed}", result, config, drawn_words)
        for title, result, config in zip(titles, results, configs, strict=True)
    ]
    with place_for(files.picture):
        shown = [word for word, _ in drawn_words]
        save_attention(shown, columns, files.picture, overwrite=run.overwrite)
    _report(files, names, results, as_json=run.json)


def _origin(
    source: str, named_model: str | None, given: dict[str, Any], asked: dict[str, Any]
) -> recorded.Origin:
    if Path(source).suffix.lower() in WRITTEN:
        return recorded.origin_of_file(Path(source), named_model, given, asked)
    if os.path.isfile(source):  # False, and no error, for a long prompt
        raise UsageError(
            f"{source} is a file, but not a sound",
            hint=f"Valid: a prompt, or a sound made by generate ({', '.join(WRITTEN)}).",
        )
    return recorded.origin_of_words(source, *given.values(), asked)


def _generate(
    setup: Setup, request: GenerateRequest, averages: dict[str, Any]
) -> tuple[AttentionResult, SpectrogramConfig]:
    """(the sound with its maps, the spectrogram's config); the model is not kept in memory."""
    from auffusion_cli.tasks.attention import generate_with_attention

    model = setup.load()
    with console.Progress("generating", unit="steps") as progress:
        result = generate_with_attention(
            model, request, setup.settings, on_progress=progress.report, **averages
        )
    return result, model.codec.spectrogram_config


def _check_averages(
    setup: Setup,
    request: GenerateRequest,
    phase: tuple[float, float],
    layers: Sequence[str],
    heads: Sequence[int],
) -> None:
    """Raise a UsageError where the model has no such words, steps, layers or heads."""
    from auffusion_cli.tasks import attention as task

    task.check_window(setup.settings, setup.defaults.max_duration_s)
    text = setup.check_words([request.prompt], [request.negative_prompt])
    if text is None:
        return
    from auffusion_cli.checkpoints.load_torch import empty_unet
    from auffusion_cli.checkpoints.schedule import read_scheduler_config
    from auffusion_cli.diffusion.attention import cross_layers

    folder = setup.checkpoint.folder
    schedule = read_scheduler_config(folder)
    task.choose_steps(phase, task.count_steps(setup.settings, schedule))
    task.choose_layers(cross_layers(empty_unet(folder)), layers, heads)
    task.choose_rows(text, request.prompt)


def _read_phase(text: str) -> tuple[float, float]:
    match = PHASE.fullmatch(text.strip())
    if not match or not 0 <= float(match[1]) < float(match[2]) <= 1:
        raise UsageError(
            f"--phase {text!r} is not a part of the steps",
            hint="Valid: from 0 (noise) to 1 (the sound), such as 0-1, 0-0.5, 0.8-1.",
        )
    return float(match[1]), float(match[2])


def _read_heads(text: str | None) -> list[int]:
    if text is None:
        return []
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise UsageError(
            f"--heads {text!r} cannot be read", hint="Whole numbers from 0, such as 0,3."
        ) from None


def _choose_words(words: str | None, prompt: str) -> list[tuple[str, int]]:
    """(word, its number among the prompt's) for each that is to be drawn."""
    from auffusion_cli.requests.word_edits import find_phrase, find_words

    all_words = [word.text for word in find_words(prompt)]
    if not all_words:
        raise UsageError(f"{prompt!r} has no word", hint='Try "dog barking in rain".')
    numbers = range(len(all_words))
    if words is not None:
        places = [find_phrase(prompt, w, f"--words {words}") for w in words.split(",")]
        numbers = sorted({i for found in places for place in found for i in range(*place)})
        if len(numbers) > MAX_DRAWN_WORDS:
            raise UsageError(
                f"--words: {len(numbers)} of them; at most {MAX_DRAWN_WORDS} are drawn"
            )
    return [(all_words[i], i) for i in numbers]


def _fewer_words(
    words: list[tuple[str, int]], results: Sequence[AttentionResult]
) -> list[tuple[str, int]]:
    """`words`, or of very many those with most attention."""
    if len(words) <= MAX_DRAWN_WORDS:
        return words
    console.warn(
        f"the prompt has {len(words)} words: the {MAX_DRAWN_WORDS} with most attention are drawn"
        " (--words chooses)"
    )
    most = sorted(words, key=lambda word: -max(result.shares[word[1]] for result in results))
    return sorted(most[:MAX_DRAWN_WORDS], key=lambda word: word[1])


def _column(
    title: str, result: AttentionResult, config: SpectrogramConfig, words: list[tuple[str, int]]
) -> AttentionColumn:
    from auffusion_cli.pictures.attention import AttentionColumn

    numbers = [number for _, number in words]
    return AttentionColumn(
        title=title,
        log_mel=result.sound.log_mel,
        maps=result.maps[numbers],
        shares=[result.shares[number] for number in numbers],
        config=config,
    )


def _show_plan(
    setups: Sequence[Setup],
    files: Files,
    request: GenerateRequest,
    words: list[tuple[str, int]],
    *,
    as_json: bool,
) -> None:
    settings = [setup.to_dict() for setup in setups]
    paths = {
        "picture": str(files.picture),
        "data": [str(path) for path in files.data],
        "audio": [str(path) for path in files.sounds],
    }
    described = asdict(request) | {"words": [word for word, _ in words]}
    if as_json:
        console.print_json({"settings": settings, "files": paths, "request": described})
        return
    for each in settings:
        console.print_table(("SETTING", "VALUE"), in_words(each))
        console.print_line()
    console.print_table(("REQUEST", "VALUE"), in_words(described | paths))


def _report(
    files: Files, models: Sequence[str], results: Sequence[AttentionResult], *, as_json: bool
) -> None:
    if not as_json:
        for path in files.all():
            console.print_path(path)
        return
    sounds = [
        {
            "model": model,
            "data": str(files.data[i]) if files.data else None,
            "audio": str(files.sounds[i]) if files.sounds else None,
            "shares": [
                {"word": word, "share": share}
                for word, share in zip(result.words, result.shares, strict=True)
            ],
            **result.sound.provenance.to_dict(),
        }
        for i, (model, result) in enumerate(zip(models, results, strict=True))
    ]
    console.print_json({"file": str(files.picture), "sounds": sounds})
