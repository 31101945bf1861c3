import typer
from typer.testing import CliRunner

from auffusion_cli.cli import options


def test_a_group_of_options_stands_in_the_place_of_its_parameter():
    taken = []

    def command(
        name: str,
        seed: options.Seed = None,
        *,
        sampling: options.Sampling,
        run: options.Run,
    ) -> None:
        taken.append((name, seed, sampling, run))

    app = typer.Typer()
    app.command()(options.grouped(command))
    result = CliRunner().invoke(app, ["rain", "--steps", "3", "--scheduler", "ddim", "--json"])
    assert result.exit_code == 0, result.output
    sampling = options.Sampling(steps=3, scheduler="ddim")
    assert taken == [("rain", None, sampling, options.Run(json=True))]

    shown = CliRunner().invoke(app, ["--help"]).stdout
    places = [shown.index(name) for name in ("--seed", "--steps", "--scheduler", "--dry-run")]
    assert places == sorted(places)
