"""`vramtap bench trackers`: table, JSON, Markdown, and refused arguments."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from vramtap.cli._bench_trackers import Cost
from vramtap.cli.bench import as_markdown, command, totals_as_markdown

ARGUMENTS = ["trackers", "--mode", "320x200", "--rounds", "1", "--slice", "0.05", "-w", "idle", "-w", "caret"]


def cost(workload: str, tracker: str, slowdown: float | None = 1.5, total_us: float = 400.4) -> Cost:
    slowdowns = [] if slowdown is None else [slowdown]
    return Cost(
        *(workload, tracker, 12.4, 345.6, 7.0, 0.25, 50, 100.0, 150.0, slowdown, 60),
        *(total_us - 350.0, total_us, slowdowns),
    )


def run(*more: str) -> str:
    result = CliRunner().invoke(command, [*ARGUMENTS, "-t", "log", *more])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_has_every_figure_and_no_nan() -> None:
    said = json.loads(run("--json"))
    assert [row["workload"] for row in said["costs"]] == ["idle", "caret"]
    assert said["costs"][0]["slowdown"] is None
    assert said["costs"][1]["slowdown"] > 0
    assert said["cpu"] == "unicorn"


def test_default_output_is_a_table() -> None:
    said = run()
    assert "slowdown" in said
    assert "caret" in said
    assert "\u2026" not in said  # no cell is truncated in a pipe


def test_markdown_has_a_row_for_each_workload() -> None:
    lines = as_markdown(
        [cost("a", "log"), cost("a", "compare"), cost("b", "log", None), cost("b", "compare")]
    )
    rows = lines.splitlines()
    assert rows[0].count("|") == rows[1].count("|") == rows[2].count("|")
    assert rows[2] == "| a | 150 | 12 | 346 | 1.50 | 12 | 346 | 1.50 |"
    assert rows[3].startswith("| b | 150 | 12 | 346 | - |")


def test_totals_have_a_row_for_each_workload_and_a_column_for_each_tracker() -> None:
    costs = [cost("a", "log", total_us=100.6), cost("a", "blind"), cost("b", "log", None), cost("b", "blind")]
    assert totals_as_markdown(costs).splitlines() == [
        "| total us a scan | log | blind |",
        "|---|---|---|",
        "| a | 101 | 400 |",
        "| b | 400 | 400 |",
    ]


def test_markdown_has_both_tables() -> None:
    said = run("--markdown")
    assert "log: collect us" in said
    assert "| total us a scan | log |" in said


@pytest.mark.parametrize("more", [["-w", "nonsense"], ["--rounds", "0"], ["--cpu", "z80"], ["--slice", "-1"]])
def test_invalid_option_is_refused(more: list[str]) -> None:
    assert CliRunner().invoke(command, [*ARGUMENTS, *more]).exit_code == 2
