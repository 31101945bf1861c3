"""`auffusion edit`: the same sound with other words (prompt-to-prompt)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from auffusion_cli.cli import console, edits, options, recorded
from auffusion_cli.config import GenerationDefaults
from auffusion_cli.errors import UsageError
from auffusion_cli.files import folder_of


def register(app: typer.Typer) -> None:
    app.command()(edit)


def edit(
    source: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="A sound made by generate; or else give --prompt."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="What the sound is made from, before the edit.")
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
    seed: options.Seed = None,
    negative: Annotated[str | None, typer.Option(help="What it should not sound like.")] = None,
    steps: options.Steps = None,
    guidance_scale: options.Guidance = None,
    guidance_rescale: options.GuidanceRescale = None,
    scheduler: options.Scheduler = None,
    model: recorded.Model = None,
    vocoder: recorded.Vocoder = None,
    device: recorded.Device = None,
    dtype: recorded.Dtype = None,
    spectrogram: edits.Picture = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    overwrite: options.Overwrite = False,
    yes: options.Yes = False,
) -> None:
    """Change words of a sound that was made from words; what they do not touch stays alike.

    The sound is named by its file, which says how it was made, or by prompt and seed. It is made
    again, and the edited one beside it. Edits are taken in the order swap, refine, reweight.
    Without any the result is the sound itself.

    \b
    Examples:
      auffusion edit dog.wav --swap "dog barking=cat meowing" -o cat.wav
      auffusion edit rain.wav --reweight rain=2.0 --spectrogram before-after.png
      auffusion edit --prompt "dog barking in rain" --seed 3 --refine "… in a cathedral"
      auffusion edit dog.wav --swap barking=growling --refine "a loud …" --reweight loud=3
    """
    from auffusion_cli.cli import resolve
    from auffusion_cli.cli.commands.models import find, resolve_model
    from auffusion_cli.cli.outputs import as_template, fill
    from auffusion_cli.requests.request import MAX_DURATION_S, EditRequest, GenerateSettings

    asked = {
        "duration_s": duration_s,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "guidance_rescale": guidance_rescale,
        "scheduler": scheduler,
    }
    if source is not None:
        told = {"--prompt": prompt, "--seed": seed, "--negative": negative}
        origin = recorded.origin_of_file(source, model, told, asked)
    elif prompt is not None:
        origin = recorded.origin_of_words(prompt, seed, negative, asked)
    else:
        raise UsageError(
            "Which sound is to change? Give a file made by generate, or --prompt and --seed.",
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
    )
    edited_prompt = request.word_edit.prompt
    fields = {"name": origin.name, "prompt": edited_prompt, "seed": request.seed}
    path = fill(as_template(output, None, "{name}-edited", "--output"), fields, "--output")
    edits.check_outputs([path], spectrogram, overwrite=overwrite)

    model = model or origin.model
    # Before anything is downloaded; the model's own defaults come after.
    GenerateSettings.from_defaults(
        GenerationDefaults(max_duration_s=MAX_DURATION_S), **origin.asked
    )
    checkpoint = find(model) if dry_run else resolve_model(model, yes=yes)
    defaults, vocoder = resolve.describe(checkpoint, vocoder or origin.vocoder)
    settings = GenerateSettings.from_defaults(defaults, **origin.asked)
    device, dtype = device or origin.device, dtype or origin.dtype
    resolve.warn_of_idle_negatives([request.negative_prompt], settings)
    if checkpoint:
        from auffusion_cli.diffusion.attention import align_tokens

        text = resolve.warn_of_cut_prompts(
            checkpoint, (request.prompt, edited_prompt, request.negative_prompt)
        )
        align_tokens(text, request.word_edit)  # raises where an edited word is not read
    if dry_run:
        setup = edits.Setup(model, checkpoint, defaults, settings, vocoder)
        resolved = setup.describe(device, dtype) | {"edited_prompt": edited_prompt}
        edits.show_plan(resolved, {path: request}, as_json=json)
        return
    console.note(f"loading {model}")
    from auffusion_cli.checkpoints.load import load_model
    from auffusion_cli.tasks import edit as task

    loaded = load_model(model, device=device, dtype=dtype, vocoder=vocoder)
    with console.Progress("editing", unit="steps") as progress:
        result = task.edit(
            loaded,
            request,
            settings,
            on_progress=lambda n_done, n: progress.update(completed=n_done, total=n),
        )
    made_again = result.source.provenance.samples_sha256
    if origin.recorded and made_again != origin.recorded.samples_sha256:
        console.warn(
            f"made again, {source} is not the same sample for sample; `auffusion reproduce` says"
            " what differs"
        )
    if spectrogram:
        from auffusion_cli.pictures.spectrogram import save_comparison

        picture = Path(spectrogram)
        titled = [
            (f"before: {request.prompt}", result.source.log_mel),
            (f"after: {edited_prompt}", result.edited.log_mel),
        ]
        with folder_of(picture):
            config = loaded.codec.spectrogram_config
            save_comparison(titled, picture, config, overwrite=overwrite)
    with folder_of(path):
        result.edited.save(path, overwrite=overwrite)
    if json:
        record = {"edited_prompt": edited_prompt, **result.edited.provenance.to_dict()}
        console.print_json({"status": "made", "file": str(path), **record})
    else:
        console.print_path(path)
