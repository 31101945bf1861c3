"""`auffusion doctor`: a report of this machine, and a remedy for each fault."""

from __future__ import annotations

from dataclasses import asdict

import typer

from auffusion_cli.cli import checks, console, options
from auffusion_cli.cli.checks import Section


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(json: options.Json = False) -> None:
    """Describe this machine, and what to do about each fault.

    Looks at versions, devices, memory, caches, the embedded model and audio formats. Exits with 1
    if something is broken.

    \b
    Examples:
      auffusion doctor
      auffusion doctor --json > report.json
    """
    sections = checks.run_checks()
    broken = any(f.level == "problem" for section in sections for f in section.findings)
    if json:
        console.print_json(
            {"ok": not broken, "sections": [asdict(section) for section in sections]}
        )
    else:
        _print_report(sections)
    if broken:
        raise typer.Exit(1)


def _print_report(sections: list[Section]) -> None:
    width = max(len(name) for section in sections for name in section.facts)
    for section in sections:
        console.print_line(section.title, bold=True)
        for name, value in section.facts.items():
            console.print_line(f"  {name:<{width}}  {value}")
        for finding in section.findings:
            color = "red" if finding.level == "problem" else "yellow"
            console.print_line(f"  {finding.level}: {finding.what}", fg=color)
            console.print_line(f"  {'do':>{len(finding.level)}}: {finding.do}")
    counts = [f.level for section in sections for f in section.findings]
    n_problems, n_advice = counts.count("problem"), counts.count("advice")
    console.print_line()
    if n_problems:
        console.print_line(f"broken: {n_problems} to repair", fg="red")
    elif n_advice:
        console.print_line(f"works; {n_advice} to improve", fg="green")
    else:
        console.print_line("everything is as it should be", fg="green")
