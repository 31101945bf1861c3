"""`auffusion edit`: a sound with some words of its prompt changed (prompt-to-prompt)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auffusion_cli.cli import console, options, recorded, recordings
from auffusion_cli.cli.outputs import place_for
from auffusion_cli.errors import UsageError

if TYPE_CHECKING:
    from auffusion_cli.cli.making import Setup
    from auffusion_cli.config import SpectrogramConfig
    from auffusion_cli.requests.request import EditRequest
    from auffusion_cli.tasks.edit import WordEditResult


def register(app: typer.Typer) -> None:
    app.command()(options.grouped(edit))


def edit(
    source: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="A sound made by generate; or else give --prompt."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="The prompt that the sound was made from.")
    ] = None,
    swaps: Annotated[
        list[str] | None,
        typer.Option(
            "--swap",
            metavar="OLD=NEW",
            help="Another word in the place of one: dog=cat, dog#2=cat (the second); repeatable.",
        ),
    ] = None,
    refine: Annotated[
        str,
        typer.Option(metavar="TEXT", help='More words: "… in a cathedral"; … is the prompt.'),
    ] = "",
    reweights: Annotated[
        list[str] | None,
        typer.Option(
            "--reweight",
            metavar="WORD=N",
            help="More or less of a word: rain=2.0, rain=0 (hardly any); repeatable.",
        ),
    ] = None,
    cross_steps: Annotated[
        float,
        typer.Option(help="0 to 1: for how much of the steps words keep their places."),
    ] = 0.8,
    self_steps: Annotated[
        float,
        typer.Option(help="0 to 1: for how much of the steps the sound keeps its form."),
    ] = 0.4,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|FOLDER|TEMPLATE",
            help="Where to write. A template has the fields {name}, {prompt}, {seed}.",
        ),
    ] = None,
    duration_s: options.Duration = None,
    trim: recorded.Trim = None,
    seed: options.Seed = None,
    negative: recorded.OptionalNegative = None,
    *,
    sampling: options.Sampling,
    model: recorded.Model = None,
    computation: recorded.Computation,
    finishing: options.Finishing,
    spectrogram: recordings.Picture = None,
    run: options.Run,
) -> None:
    """Change words of a sound that was made from words; the rest of the sound stays alike.

    The sound is named by its file, which says how it was made, or by prompt and seed. It is made
    again, and the edited one beside it. Edits are taken in the order swap, refine, reweight.
    Without any the result is the sound itself.

    \b
    Examples:
      auffusion edit dog.wav --swap "dog barking=cat meowing" -o cat.wav
      auffusion edit dog.wav --reweight dog=2.0 --spectrogram before-after.png
      auffusion edit --prompt "a dog barking" --seed 3 --refine "… in a cathedral"
      auffusion edit dog.wav --swap barking=growling --refine "a loud …" --reweight loud=3
    """
    from auffusion_cli.cli.making import set_up
    from auffusion_cli.cli.outputs import as_template, fill
    from auffusion_cli.requests.request import EditRequest

    asked = sampling.lasting(duration_s)
    finish = finishing.finish()
    if source is not None:
        given = {"--prompt": prompt, "--seed": seed, "--negative": negative, "--trim": trim}
        origin = recorded.origin_of_file(source, model, given, asked)
    elif prompt is not None:
        origin = recorded.origin_of_words(prompt, seed, negative, trim, asked)
    else:
        raise UsageError(
            "Give a file made by generate, or --prompt and --seed",
            hint="For example: auffusion edit dog.wav --swap dog=cat",
        )
    request = EditRequest(
        prompt=origin.request.prompt,
        seed=origin.request.seed,
        negative_prompt=origin.request.negative_prompt,
        swaps=tuple(swaps or ()),
        refine=refine,
        reweights=tuple(reweights or ()),
        cross_steps=cross_steps,
        self_steps=self_steps,
        source=origin.source,
        source_sha256=origin.source_sha256,
        trim=origin.request.trim,
        one_shot=origin.request.one_shot,
    )
    edited_prompt = request.word_edit.prompt
    fields = {"name": origin.name, "prompt": edited_prompt, "seed": request.seed}
    path = fill(as_template(output, None, "{name}-edited", "--output"), fields, "--output")
    recordings.check_broadcast(finish, [path])
    recordings.check_outputs([path], spectrogram, overwrite=run.overwrite)
    setup = set_up(origin.loading_with(model, computation), origin.asked, run, needs_torch="edit")
    _check_words(setup, request)
    if run.dry_run:
        recordings.show_plan(setup, {path: request}, as_json=run.json, edited_prompt=edited_prompt)
        return
    loaded = setup.load()
    from auffusion_cli.tasks import edit as task
    from auffusion_cli.tasks.finish import finished

    with console.Progress("editing", unit="steps") as progress:
        result = task.edit(loaded, request, setup.settings, on_progress=progress.report)
    again = finished(result.source, origin.recorded.finish if origin.recorded else None, source)
    if origin.recorded and task.is_unlike(again.provenance, origin.recorded):
        console.warn(
            f"made again, {source} is not the same sample for sample; `auffusion reproduce` shows"
            " the differences"
        )
    if spectrogram:
        _draw(result, spectrogram, loaded.codec.spectrogram_config, overwrite=run.overwrite)
    edited = finished(result.edited, finish, path)
    with place_for(path):
        edited.save(path, overwrite=run.overwrite)
    record = {"edited_prompt": edited_prompt, **edited.provenance.to_dict()}
    console.print_made(path, record, as_json=run.json)


def _check_words(setup: Setup, request: EditRequest) -> None:
    """Warn of words without effect; raise a UsageError where an edited word is not read."""
    word_edit = request.word_edit
    encoders = setup.check_words([request.prompt, word_edit.prompt], [request.negative_prompt])
    if encoders is not None:
        from auffusion_cli.diffusion.tokens import align_tokens

        align_tokens(encoders, word_edit)


def _draw(
    result: WordEditResult, picture: Path, config: SpectrogramConfig, *, overwrite: bool
) -> None:
    """Draw the sound before and after the edit, one below the other."""
    from auffusion_cli.pictures.spectrogram import save_comparison

    request = result.edited.provenance.request
    titled = [
        (f"before: {request.prompt}", result.source.log_mel),
        (f"after: {request.word_edit.prompt}", result.edited.log_mel),
    ]
    with place_for(picture):
        save_comparison(titled, picture, config, overwrite=overwrite)
