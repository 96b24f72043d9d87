"""`vramtap doctor`: what this kernel and user can do, found out by doing it."""

from __future__ import annotations

import dataclasses
import json

import click

from vramtap.cli._doctor_trials import Finding, examine


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON list instead of lines.")
def command(as_json: bool) -> None:
    """Say what this kernel and user can do, a line each; for each no: the reason and the remedy.

    Every line is the outcome of a trial (a page is written and looked for, a child process is tapped), not
    of a version number. Exit status 1 if pixels cannot be followed at all.
    """
    findings = examine()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(_line(finding))
    if any(finding.essential and not finding.ok for finding in findings):
        raise SystemExit(1)


def _line(finding: Finding) -> str:
    mark = click.style("ok", fg="green") if finding.ok else click.style("no", fg="yellow")
    remedy = f" -> {finding.remedy}" if finding.remedy else ""
    return f"{mark}  {finding.what}: {finding.detail}{remedy}"
