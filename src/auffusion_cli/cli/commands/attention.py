"""`auffusion attention`: where in a sound each word of its prompt is heard."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auffusion_cli.cli import console, edits, options, recorded
from auffusion_cli.config import GenerationDefaults
from auffusion_cli.errors import UsageError
from auffusion_cli.files import folder_of

if TYPE_CHECKING:
    from auffusion_cli.requests.request import GenerateRequest
    from auffusion_cli.tasks.attention import AttentionResult

SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
MAX_DRAWN_WORDS = 12
MAX_MODELS = 4
PHASE = re.compile(r"([0-9]*\.?[0-9]+)\s*-\s*([0-9]*\.?[0-9]+)")


def register(app: typer.Typer) -> None:
    app.command()(attention)


def attention(
    source: Annotated[
        str, typer.Argument(metavar="PROMPT|FILE", help="Words, or a sound made by generate.")
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
    phase: Annotated[
        str,
        typer.Option(metavar="FROM-TO", help="Average over this part of the steps: 0-0.5, 0.8-1."),
    ] = "0-1",
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...", help="Average over these layers: down, mid, up, or names."
        ),
    ] = None,
    heads: Annotated[
        str | None, typer.Option(metavar="N,...", help="Average over these heads, from 0.")
    ] = None,
    duration_s: options.Duration = None,
    seed: options.Seed = None,
    negative: Annotated[str | None, typer.Option(help="What it should not sound like.")] = None,
    steps: options.Steps = None,
    guidance_scale: options.Guidance = None,
    guidance_rescale: options.GuidanceRescale = None,
    scheduler: options.Scheduler = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|HUB_ID|FOLDER",
            help="By default FILE's, or else embedded; several are drawn side by side.",
        ),
    ] = None,
    vocoder: recorded.Vocoder = None,
    device: recorded.Device = None,
    dtype: recorded.Dtype = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    overwrite: options.Overwrite = False,
    yes: options.Yes = False,
) -> None:
    """Draw for every word where in the sound the model attends to it, above the spectrogram.

    Averaged over all heads, layers and steps, or over those that are chosen. A file made by
    generate is made again, from its record.

    \b
    Examples:
      auffusion attention "dog barking in rain" -o attention.png --seed 3
      auffusion attention rain.wav --data attention.npz --words dog,rain
      auffusion attention "dog barking in rain" --layers up --phase 0-0.5 --audio rain.wav
      auffusion attention "dog barking in rain" --model embedded --model runs/mine
    """
    from auffusion_cli.cli import resolve
    from auffusion_cli.cli.commands.models import find, resolve_model
    from auffusion_cli.requests.request import MAX_DURATION_S, GenerateSettings

    asked = {
        "duration_s": duration_s,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "guidance_rescale": guidance_rescale,
        "scheduler": scheduler,
    }
    chosen_phase = _read_phase(phase)
    chosen_layers = [name.strip() for name in layers.split(",")] if layers else []
    chosen_heads = _read_heads(heads)
    if len(models or ()) > MAX_MODELS:
        raise UsageError(f"--model: {len(models)} of them; at most {MAX_MODELS} are drawn.")
    if Path(source).suffix.lower() in SOUND_SUFFIXES:
        told = {"--seed": seed, "--negative": negative}
        named = models[0] if models else None
        origin = recorded.origin_of_file(Path(source), named, told, asked)
    elif Path(source).is_file():
        raise UsageError(
            f"{source} is a file, but not a sound.",
            hint=f"Valid: words, or a sound made by generate ({', '.join(SOUND_SUFFIXES)}).",
        )
    else:
        origin = recorded.origin_of_words(source, seed, negative, asked)
    names = models or [origin.model]
    drawn_words = _choose_words(words, origin.request.prompt)
    picture, data_paths, sound_paths = _paths(output, data, audio, origin, names)
    _check_paths(picture, data_paths, sound_paths, overwrite=overwrite)

    # Before anything is downloaded; each model's own defaults come after.
    GenerateSettings.from_defaults(
        GenerationDefaults(max_duration_s=MAX_DURATION_S), **origin.asked
    )
    device, dtype = device or origin.device, dtype or origin.dtype
    setups = []
    for name in names:
        checkpoint = find(name) if dry_run else resolve_model(name, yes=yes)
        defaults, vocoder_name = resolve.describe(checkpoint, vocoder or origin.vocoder)
        settings = GenerateSettings.from_defaults(defaults, **origin.asked)
        setups.append(edits.Setup(name, checkpoint, defaults, settings, vocoder_name))
    for setup in setups:
        _check_parts(setup, origin.request, chosen_phase, chosen_layers, chosen_heads)
    if dry_run:
        _show_plan(
            [setup.describe(device, dtype) for setup in setups],
            {"picture": picture, "data": data_paths, "audio": sound_paths},
            asdict(origin.request) | {"words": drawn_words},
            as_json=json,
        )
        return
    from auffusion_cli.checkpoints.load import load_model
    from auffusion_cli.pictures.attention import save_attention
    from auffusion_cli.tasks.attention import generate_with_attention

    results = []
    for i, setup in enumerate(setups):
        console.note(f"loading {setup.model}")
        loaded = load_model(setup.model, device=device, dtype=dtype, vocoder=setup.vocoder)
        with console.Progress("generating", unit="steps") as progress:
            result = generate_with_attention(
                loaded,
                origin.request,
                setup.settings,
                phase=chosen_phase,
                layers=chosen_layers,
                heads=chosen_heads,
                on_progress=lambda n_done, n, bar=progress: bar.update(completed=n_done, total=n),
            )
        config = loaded.codec.spectrogram_config
        del loaded  # before the next one
        results.append(result)
        if data_paths:
            with folder_of(data_paths[i]):
                result.save_data(data_paths[i], overwrite=overwrite)
        if sound_paths:
            with folder_of(sound_paths[i]):
                result.sound.save(sound_paths[i], overwrite=overwrite)
    drawn_words = _fewer_words(drawn_words, results)
    titles = names if len(names) > 1 else [origin.request.prompt]
    columns = [
        _column(f"{title}, seed {origin.request.seed}", result, drawn_words)
        for title, result in zip(titles, results, strict=True)
    ]
    with folder_of(picture):
        shown = [word for word, _ in drawn_words]
        save_attention(shown, columns, picture, config, overwrite=overwrite)
    _report(picture, data_paths, sound_paths, names, results, as_json=json)


def _check_parts(
    setup: edits.Setup,
    request: GenerateRequest,
    phase: tuple[float, float],
    layers: Sequence[str],
    heads: Sequence[int],
) -> None:
    """Raise a UsageError where the model has no such words, steps, layers or heads."""
    from auffusion_cli.tasks import attention as task

    task.check_window(setup.settings, setup.defaults.max_duration_s)
    if setup.checkpoint is None:
        return
    from auffusion_cli.checkpoints.layout import read_json
    from auffusion_cli.checkpoints.load import empty_unet
    from auffusion_cli.cli.resolve import warn_of_cut_prompts, warn_of_idle_negatives
    from auffusion_cli.diffusion.attention import cross_layers

    folder = setup.checkpoint.folder
    schedule = read_json(folder / "scheduler" / "scheduler_config.json")
    task.choose_steps(phase, task.count_steps(setup.settings, schedule))
    task.choose_layers(cross_layers(empty_unet(folder)), layers, heads)
    text = warn_of_cut_prompts(setup.checkpoint, (request.prompt, request.negative_prompt))
    task.choose_rows(text, request.prompt)
    warn_of_idle_negatives([request.negative_prompt], setup.settings)


def _read_phase(text: str) -> tuple[float, float]:
    match = PHASE.fullmatch(text.strip())
    if not match or not 0 <= float(match[1]) < float(match[2]) <= 1:
        raise UsageError(
            f"--phase {text!r} is not a part of the steps.",
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
            f"--heads {text!r} cannot be read.", hint="Whole numbers from 0, such as 0,3."
        ) from None


def _choose_words(words: str | None, prompt: str) -> list[tuple[str, int]]:
    """(word, its number among the prompt's) for each that is to be drawn."""
    from auffusion_cli.requests.word_edits import find_phrase, find_words

    all_words = [word.text for word in find_words(prompt)]
    if not all_words:
        raise UsageError(f"{prompt!r} has no word.", hint='Try "dog barking in rain".')
    numbers = range(len(all_words))
    if words is not None:
        places = [find_phrase(prompt, w, f"--words {words}") for w in words.split(",")]
        numbers = sorted({i for found in places for place in found for i in range(*place)})
        if len(numbers) > MAX_DRAWN_WORDS:
            raise UsageError(
                f"--words: {len(numbers)} of them; at most {MAX_DRAWN_WORDS} are drawn."
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


def _column(title: str, result: AttentionResult, words: list[tuple[str, int]]) -> Any:
    from auffusion_cli.pictures.attention import AttentionColumn

    numbers = [number for _, number in words]
    return AttentionColumn(
        title=title,
        log_mel=result.sound.log_mel,
        maps=result.maps[numbers],
        shares=[result.shares[number] for number in numbers],
    )


def _paths(
    output: str | None,
    data: str | None,
    audio: str | None,
    origin: recorded.Origin,
    models: Sequence[str],
) -> tuple[Path, list[Path], list[Path]]:
    """The picture; numbers and sounds, one for each model where they are asked for."""
    from auffusion_cli.cli.outputs import as_template, fill

    request = origin.request
    fields = {"name": origin.name, "prompt": request.prompt, "seed": request.seed}
    template = as_template(output, None, "{name}-attention", "--output", suffixes=(".png",))
    picture = fill(template, fields, "--output")
    each = []
    for option, text, suffixes in (("--data", data, (".npz",)), ("--audio", audio, SOUND_SUFFIXES)):
        if text is None:
            each.append([])
            continue
        default = "{name}-attention" + ("-{model}" if len(models) > 1 else "")
        template = as_template(text, None, default, option, suffixes)
        each.append([fill(template, fields | {"model": Path(m).name}, option) for m in models])
    return picture, *each


def _check_paths(picture: Path, data: list[Path], sounds: list[Path], *, overwrite: bool) -> None:
    from auffusion_cli.cli.outputs import check_distinct, check_writable
    from auffusion_cli.cli.plan import check_free

    for option, paths in (("--output", [picture]), ("--data", data), ("--audio", sounds)):
        check_distinct(paths, option, hint="Give a name with {model} in it.")
        check_writable(paths, option)
    if not overwrite:
        check_free([picture, *data, *sounds])


def _show_plan(
    setups: Sequence[dict[str, Any]],
    files: dict[str, Any],
    request: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    paths = {
        name: [str(path) for path in there] if isinstance(there, list) else str(there)
        for name, there in files.items()
    }
    request["words"] = [word for word, _ in request["words"]]
    if as_json:
        console.print_json({"settings": list(setups), "files": paths, "request": request})
        return
    for setup in setups:
        console.print_table(("SETTING", "VALUE"), console.fields(setup))
        typer.echo()
    console.print_table(("REQUEST", "VALUE"), console.fields(request | paths))


def _report(
    picture: Path,
    data: list[Path],
    sounds: list[Path],
    models: Sequence[str],
    results: Sequence[AttentionResult],
    *,
    as_json: bool,
) -> None:
    if not as_json:
        for path in (picture, *data, *sounds):
            console.print_path(path)
        return
    told = [
        {
            "model": model,
            "data": str(data[i]) if data else None,
            "audio": str(sounds[i]) if sounds else None,
            "shares": [
                {"word": word, "share": share}
                for word, share in zip(result.words, result.shares, strict=True)
            ],
            **result.sound.provenance.to_dict(),
        }
        for i, (model, result) in enumerate(zip(models, results, strict=True))
    ]
    console.print_json({"file": str(picture), "sounds": told})
