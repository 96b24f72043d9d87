"""`vramtap tune`: table, JSON for `trace replay`, and refused arguments."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from support.traces import blinking
from vramtap.cli import trace as trace_cli
from vramtap.cli.tune import command
from vramtap.errors import NotFound, UsageError, VramtapError
from vramtap.trace.store import save
from vramtap.trace.trace import TraceBuilder

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: str | Path) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture
def fleet(tmp_path: Path) -> list[Path]:
    """Save a short trace of a caret and one of a scroll."""
    paths = []
    for name, period, written in (("caret", 30, 4), ("scroll", 1, 30)):
        paths.append(tmp_path / f"{name}.parquet")
        save(paths[-1], blinking(period, 60, written=written, meta={"name": name}))
    return paths


def test_table_has_the_parameters_and_their_cost(fleet: list[Path]) -> None:
    result = run(*fleet, "--jobs", "1")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("tile_pages ")
    for word in ("caret", "scroll", "worst", "mean"):
        assert f" {word} " in result.stdout


def test_json_can_be_replayed(fleet: list[Path], tmp_path: Path) -> None:
    result = run(*fleet, "--jobs", "1", "--by", "mean", "--json")
    said = json.loads(result.stdout)
    assert [row["name"] for row in said["traces"]] == ["caret", "scroll"]
    assert said["worst"] == max(row["ratio"] for row in said["traces"])
    assert said["mean"] <= said["worst"]
    (tmp_path / "tuned.json").write_text(result.stdout)
    replayed = CliRunner().invoke(
        trace_cli.command,
        [
            "replay",
            *map(str, fleet),
            "--json",
            "--policy",
            "hybrid",
            "--parameters",
            str(tmp_path / "tuned.json"),
        ],
    )
    assert json.loads(replayed.stdout)["parameters"] == said["parameters"]


def test_missing_dask_is_an_error_with_the_remedy(fleet: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    result = run(*fleet, "--scheduler", "tcp://127.0.0.1:1")
    assert isinstance(result.exception, VramtapError)
    assert "pip install 'vramtap[tune]'" in str(result.exception)


def test_files_that_are_not_traces_are_refused(tmp_path: Path) -> None:
    assert isinstance(run(tmp_path / "nothing").exception, NotFound)
    save(tmp_path / "empty", TraceBuilder(3).build({}))
    assert isinstance(run(tmp_path / "empty").exception, UsageError)
    assert run().exit_code == 2
