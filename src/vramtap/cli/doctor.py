"""`vramtap doctor`: report what works on this machine, by trying it."""

from __future__ import annotations

import dataclasses
import json

import click

from vramtap.cli._doctor_trials import Finding, examine


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of lines.")
def command(*, as_json: bool) -> None:
    """Report what works on this machine, and how to fix the rest.

    Each line is the result of a trial and not of a version check: vramtap writes a page and looks it up in
    the kernel's log, taps a child process, runs a guest under KVM. A line that begins with "no" has the
    reason, and after "->" the remedy.

    Exit status 1 means that vramtap cannot read other processes, so that it can tap nothing.

    \b
    Examples:
      vramtap doctor
      vramtap doctor --json
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
