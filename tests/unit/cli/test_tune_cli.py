"""`vramtap tune`: what it prints, for people and for `trace replay`, and where it cannot work."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from vramtap.cli import trace as trace_cli
from vramtap.cli.tune import command
from vramtap.errors import NotFound, UsageError, VramtapError
from vramtap.pages import NO_PAGES, PageRuns
from vramtap.trace.store import save
from vramtap.trace.trace import TraceBuilder

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: str | Path) -> Result:
    """Run it in this process."""
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture
def fleet(tmp_path: Path) -> list[Path]:
    """A caret and a scroll, short."""
    paths = []
    for name, period, pages in (("caret", 30, 4), ("scroll", 1, 30)):
        builder = TraceBuilder(40)
        for look in range(60):
            builder.add((look + 1) * 16_000_000, NO_PAGES if look % period else PageRuns([(3, 3 + pages)]))
        paths.append(tmp_path / f"{name}.parquet")
        save(paths[-1], builder.build({"name": name}))
    return paths


def test_what_was_chosen_and_what_it_costs(fleet: list[Path]) -> None:
    result = run(*fleet, "--jobs", "1")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("tile_pages ")
    for word in ("caret", "scroll", "worst", "mean"):
        assert f" {word} " in result.stdout


def test_as_json_for_replay(fleet: list[Path], tmp_path: Path) -> None:
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
            "ours",
            "--parameters",
            str(tmp_path / "tuned.json"),
        ],
    )
    assert json.loads(replayed.stdout)["parameters"] == said["parameters"]


def test_without_dask_it_is_said(fleet: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    result = run(*fleet, "--scheduler", "tcp://127.0.0.1:1")
    assert isinstance(result.exception, VramtapError)
    assert "pip install 'vramtap[tune]'" in str(result.exception)


def test_files_that_are_none(tmp_path: Path) -> None:
    assert isinstance(run(tmp_path / "nothing").exception, NotFound)
    save(tmp_path / "empty", TraceBuilder(3).build({}))
    assert isinstance(run(tmp_path / "empty").exception, UsageError)
    assert run().exit_code == 2
