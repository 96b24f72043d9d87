"""`vramtap trace`: what it records, says and draws, and how it ends where it cannot."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from vramtap.cli import _trace_files as traces
from vramtap.cli._trace_files import charged, plain, read_costs, read_parameters
from vramtap.cli.trace import command
from vramtap.cli.trace_replay import POLICIES
from vramtap.errors import NotFound, UsageError, VramtapError
from vramtap.pages import NO_PAGES, PageRuns
from vramtap.policy.costs import REFERENCE
from vramtap.policy.decide import Parameters
from vramtap.trace.store import load, save
from vramtap.trace.trace import Trace, TraceBuilder

if TYPE_CHECKING:
    from pathlib import Path

DEMO = "demo:?workload=caret&mode=320x200&cpu=unicorn"
COSTS = {
    "fault_us": 1,
    "page_us": 2,
    "protect_us": 3,
    "look_us": 4,
    "arm_us": 5,
    "hand_over_us": 6,
    "held_us": 7,
}


def run(*arguments: str | Path) -> Result:
    """Run it in this process."""
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def caret(**meta: str) -> Trace:
    builder = TraceBuilder(40)
    for look in range(240):
        builder.add((look + 1) * 16_000_000, NO_PAGES if look % 30 else PageRuns([(3, 7)]))
    return builder.build(meta)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    save(tmp_path / "caret.parquet", caret(target="x11::7"))
    return tmp_path / "caret.parquet"


# record


def test_a_machine_is_recorded_by_frames(tmp_path: Path) -> None:
    result = run("record", DEMO, "-o", tmp_path / "out.parquet", "--frames", "61")
    assert result.exit_code == 0, result.output
    assert "61 looks in 1.0 s" in result.stdout
    recorded = load(tmp_path / "out.parquet")
    assert recorded.intervals == 61
    assert recorded.meta["clock"] == "guest"
    assert recorded.meta["name"] == "out"
    assert [bool(recorded.written(look)) for look in (28, 29, 30, 59)] == [False, True, False, True]


def test_what_was_recorded_as_json(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    result = run("record", DEMO, "-o", out, "--seconds", "0.5", "--hz", "100", "--name", "a caret", "--json")
    said = json.loads(result.stdout)
    assert said == {
        "file": str(out),
        "looks": 50,
        "seconds": 0.5,
        "pages": 63,
        "pages_written": said["pages_written"],
        "ended": "after 50 looks",
    }
    assert said["pages_written"] > 0
    assert load(out).meta["name"] == "a caret"


def test_only_a_guest_with_frames_has_frames(tmp_path: Path) -> None:
    result = run("record", "x11::99", "-o", tmp_path / "out", "--frames", "5")
    assert result.exit_code == 2
    assert "use --seconds" in result.stderr


def test_where_nothing_can_be_written_nothing_is_recorded(tmp_path: Path) -> None:
    result = run("record", DEMO, "-o", tmp_path / "no" / "out", "--frames", "5")
    assert result.exit_code == 1
    assert "ENOENT" in result.stderr


def test_without_pyarrow_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = run("record", DEMO, "-o", tmp_path / "out", "--frames", "5")
    assert result.exit_code == 1
    assert "pip install 'vramtap[trace]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_target_that_cannot_be_tapped_leaves_no_file(tmp_path: Path) -> None:
    result = run("record", "qemu:/nothing/there", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert list(tmp_path.iterdir()) == []


# show


def test_figures_and_a_map(trace: Path) -> None:
    lines = run("show", trace).stdout.splitlines()
    said = dict(line.split("  ", 1) for line in lines if not line.startswith("|"))
    assert said["looks"].strip() == "240"
    assert said["looks with writes"].strip() == "8"
    assert said["pages written"].strip() == "32"
    assert said["longest still s"].strip() == "0.48"
    assert said["target"].strip() == "x11::7"
    drawn = [line for line in lines if line.startswith("|")]
    assert len({len(line) for line in drawn}) == 1
    assert [bool(line.strip("| ")) for line in drawn] == [False, True, True] + [False] * 11


def test_figures_as_json(trace: Path) -> None:
    said = json.loads(run("show", trace, "--json").stdout)
    assert (said["looks"], said["pages"], said["pages_a_write_most"]) == (240, 40, 4)
    assert said["meta"] == {"target": "x11::7"}


@pytest.mark.parametrize(("name", "starts"), [("map.png", b"\x89PNG"), ("map.SVG", b"<svg ")])
def test_pictures(trace: Path, tmp_path: Path, name: str, starts: bytes) -> None:
    assert run("show", trace, "-o", tmp_path / name).exit_code == 0
    assert (tmp_path / name).read_bytes().startswith(starts)


def test_another_kind_of_picture_is_refused(trace: Path, tmp_path: Path) -> None:
    result = run("show", trace, "-o", tmp_path / "map.gif")
    assert isinstance(result.exception, UsageError)


def test_a_trace_without_looks_is_shown_and_not_drawn(tmp_path: Path) -> None:
    save(tmp_path / "empty", TraceBuilder(3).build({}))
    assert run("show", tmp_path / "empty").exit_code == 0
    result = run("show", tmp_path / "empty", "-o", tmp_path / "map.png")
    assert isinstance(result.exception, UsageError)


def test_a_strangers_words_do_not_reach_the_terminal(tmp_path: Path) -> None:
    save(tmp_path / "evil", caret(**{"\x1b[2J": "\x1b]0;owned\x07", "name": "\x9b31m"}))
    assert not {"\x1b", "\x07", "\x9b"} & set(run("show", tmp_path / "evil").stdout)
    assert not {"\x1b", "\x9b"} & set(run("replay", tmp_path / "evil", "--policy", "log").stdout)
    assert plain("x" * 1000) == "x" * 200


# replay


def test_every_policy_beside_the_optimum(trace: Path) -> None:
    said = json.loads(run("replay", trace, "--json").stdout)
    (row,) = said["traces"]
    assert [each["policy"] for each in row["policies"]] == list(POLICIES)
    assert row["name"] == "caret"
    assert row["costs"]["source"] == "reference"
    for each in row["policies"]:
        assert each["ratio"] == pytest.approx(each["total_us"] / row["optimum"]["lower_us"])
        if each["policy"] != "qemu":  # which looks less often than the optimum
            assert each["ratio"] >= 1
    assert said["parameters"]["tile_pages"] == Parameters().tile_pages


def test_the_policies_asked_for_in_a_table(trace: Path) -> None:
    result = run("replay", trace, trace, "--policy", "log", "--policy", "xen")
    assert result.exit_code == 0
    cells = [line.split("│") for line in result.stdout.splitlines() if line.startswith("│")]
    assert [row[2].strip() for row in cells] == ["log", "xen", "optimum"] * 2
    assert [row[1].strip() for row in cells[:2]] == ["caret", "(reference)"]


def test_a_table_for_a_readme(trace: Path) -> None:
    lines = run("replay", trace, "--markdown", "--policy", "log", "--policy", "xen").stdout.splitlines()
    assert lines[0] == "| trace | log: x optimum | xen: x optimum | optimum: us an interval |"
    assert lines[1] == "|---|---:|---:|---:|"
    assert re.fullmatch(r"\| caret \| \d+\.\d\d \| \d+\.\d\d \| \d+\.\d \|", lines[2])
    assert len(lines) == 3


def test_costs_and_parameters_from_files(trace: Path, tmp_path: Path) -> None:
    (tmp_path / "costs").write_text(json.dumps(COSTS))
    (tmp_path / "tuned").write_text(json.dumps({"parameters": {"tile_pages": 8, "patience": 2}}))
    said = json.loads(
        run(
            "replay", trace, "--json", "--costs", tmp_path / "costs", "--parameters", tmp_path / "tuned"
        ).stdout
    )
    assert said["traces"][0]["costs"] == {"source": "given", **COSTS, "guest_cost_factor": 1.0}
    assert (said["parameters"]["tile_pages"], said["parameters"]["patience"]) == (8, 2)


def test_costs_that_a_trace_brings_along(tmp_path: Path) -> None:
    mine = caret(costs=json.dumps(COSTS))
    costs, source = charged(mine, None)
    assert (costs.look_us, source) == (4, "measured")
    assert charged(mine, REFERENCE) == (REFERENCE, "given")
    assert charged(caret(), None) == (REFERENCE, "reference")
    save(tmp_path / "bad", caret(costs="{}"))
    assert isinstance(run("replay", tmp_path / "bad").exception, VramtapError)


def test_a_trace_without_looks_is_not_replayed(tmp_path: Path) -> None:
    save(tmp_path / "empty", TraceBuilder(3).build({}))
    result = run("replay", tmp_path / "empty")
    assert isinstance(result.exception, UsageError)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "no JSON object"),
        ('{"parameters": 3}', "no parameters"),
        ('{"speed": 3}', "is no parameter"),
        ('{"tile_pages": 3.5}', "no int"),
        ('{"tile_pages": true}', "no int"),
        ('{"patience": "long"}', "no float"),
        ('{"arms": 1}', "no bool"),
        ('{"tile_pages": 0}', "tile_pages is 0"),
        ('{"patience": NaN}', "patience is nan"),
        ('{"patience": -1}', "patience is -1"),
    ],
)
def test_parameters_that_are_none_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_parameters(tmp_path / "file")


def test_files_that_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_costs(None) is None
    assert read_parameters(None) == Parameters()
    with pytest.raises(NotFound):
        read_costs(tmp_path / "nothing")
    with pytest.raises(VramtapError, match="EISDIR"):
        read_costs(tmp_path)
    monkeypatch.setattr(traces, "MAX_JSON_BYTES", 10)
    (tmp_path / "long").write_text(json.dumps(COSTS))
    with pytest.raises(UsageError, match="longer than 10"):
        read_costs(tmp_path / "long")
