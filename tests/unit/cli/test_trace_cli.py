"""`vramtap trace`: recording, figures, maps, replay, and refused arguments."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from support.traces import blinking
from vramtap.cli import _trace_files as traces
from vramtap.cli._trace_files import charged, printable, read_costs, read_parameters
from vramtap.cli.trace import command
from vramtap.cli.trace_replay import POLICIES
from vramtap.errors import NotFound, UsageError, VramtapError
from vramtap.policy.costs import REFERENCE
from vramtap.policy.decide import Parameters
from vramtap.trace.store import load, save
from vramtap.trace.trace import TraceBuilder

if TYPE_CHECKING:
    from pathlib import Path

    from vramtap.trace.trace import Trace

DEMO = "demo:?workload=caret&mode=320x200&cpu=unicorn"
COSTS = {
    "fault_us": 1,
    "page_us": 2,
    "protect_us": 3,
    "scan_us": 4,
    "arm_us": 5,
    "hand_over_us": 6,
    "held_us": 7,
}


def run(*arguments: str | Path) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def caret(**meta: str) -> Trace:
    return blinking(30, 240, meta=meta)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    save(tmp_path / "caret.parquet", caret(target="x11::7"))
    return tmp_path / "caret.parquet"


# record


def test_record_counts_frames_of_the_built_in_vm(tmp_path: Path) -> None:
    result = run("record", DEMO, "-o", tmp_path / "out.parquet", "--frames", "61")
    assert result.exit_code == 0, result.output
    assert "61 intervals in 1.0 s" in result.stdout
    recorded = load(tmp_path / "out.parquet")
    assert recorded.intervals == 61
    assert recorded.meta["clock"] == "guest"
    assert recorded.meta["name"] == "out"
    assert [bool(recorded.written(interval)) for interval in (28, 29, 30, 59)] == [False, True, False, True]


def test_record_prints_a_summary_as_json(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    result = run("record", DEMO, "-o", out, "--seconds", "0.5", "--hz", "100", "--name", "a caret", "--json")
    said = json.loads(result.stdout)
    assert said == {
        "file": str(out),
        "intervals": 50,
        "seconds": 0.5,
        "pages": 63,
        "pages_written": said["pages_written"],
        "ended": "after 50 intervals",
    }
    assert said["pages_written"] > 0
    assert load(out).meta["name"] == "a caret"


def test_frames_of_an_x_server_are_refused(tmp_path: Path) -> None:
    result = run("record", "x11::99", "-o", tmp_path / "out", "--frames", "5")
    assert result.exit_code == 2
    assert "use --seconds" in result.stderr


def test_path_that_cannot_be_written_is_refused_before_recording(tmp_path: Path) -> None:
    result = run("record", DEMO, "-o", tmp_path / "no" / "out", "--frames", "5")
    assert result.exit_code == 1
    assert "ENOENT" in result.stderr


def test_missing_pyarrow_is_reported_before_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = run("record", DEMO, "-o", tmp_path / "out", "--frames", "5")
    assert result.exit_code == 1
    assert "pip install 'vramtap[trace]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_target_that_cannot_be_tapped_leaves_no_file(tmp_path: Path) -> None:
    result = run("record", "qemu:/nothing/there", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert list(tmp_path.iterdir()) == []


# show


def test_show_prints_figures_and_a_map(trace: Path) -> None:
    lines = run("show", trace).stdout.splitlines()
    said = dict(line.split("  ", 1) for line in lines if not line.startswith("|"))
    assert said["intervals"].strip() == "240"
    assert said["intervals with writes"].strip() == "8"
    assert said["pages written"].strip() == "32"
    assert said["longest idle s"].strip() == "0.48"
    assert said["target"].strip() == "x11::7"
    drawn = [line for line in lines if line.startswith("|")]
    assert len({len(line) for line in drawn}) == 1
    assert [bool(line.strip("| ")) for line in drawn] == [False, True, True] + [False] * 11


def test_show_prints_figures_as_json(trace: Path) -> None:
    said = json.loads(run("show", trace, "--json").stdout)
    assert (said["intervals"], said["pages"], said["pages_an_interval_most"]) == (240, 40, 4)
    assert said["meta"] == {"target": "x11::7"}


@pytest.mark.parametrize(("name", "starts"), [("map.png", b"\x89PNG"), ("map.SVG", b"<svg ")])
def test_show_writes_a_map(trace: Path, tmp_path: Path, name: str, starts: bytes) -> None:
    assert run("show", trace, "-o", tmp_path / name).exit_code == 0
    assert (tmp_path / name).read_bytes().startswith(starts)


def test_unknown_kind_of_picture_is_refused(trace: Path, tmp_path: Path) -> None:
    result = run("show", trace, "-o", tmp_path / "map.gif")
    assert isinstance(result.exception, UsageError)


def test_trace_without_intervals_has_figures_and_no_map(tmp_path: Path) -> None:
    save(tmp_path / "empty", TraceBuilder(3).build({}))
    assert run("show", tmp_path / "empty").exit_code == 0
    result = run("show", tmp_path / "empty", "-o", tmp_path / "map.png")
    assert isinstance(result.exception, UsageError)


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    save(tmp_path / "evil", caret(**{"\x1b[2J": "\x1b]0;owned\x07", "name": "\x9b31m"}))
    assert not {"\x1b", "\x07", "\x9b"} & set(run("show", tmp_path / "evil").stdout)
    assert not {"\x1b", "\x9b"} & set(run("replay", tmp_path / "evil", "--policy", "log").stdout)
    assert printable("x" * 1000) == "x" * 200


# replay


def test_replay_compares_every_policy_with_the_optimum(trace: Path) -> None:
    said = json.loads(run("replay", trace, "--json").stdout)
    (row,) = said["traces"]
    assert [each["policy"] for each in row["policies"]] == list(POLICIES)
    assert row["name"] == "caret"
    assert row["costs"]["source"] == "reference"
    for each in row["policies"]:
        assert each["ratio"] == pytest.approx(each["total_us"] / row["optimum"]["lower_us"])
        if each["policy"] != "qemu":  # which scans less often than the optimum
            assert each["ratio"] >= 1
    assert said["parameters"]["tile_pages"] == Parameters().tile_pages


def test_replay_prints_a_table_of_the_chosen_policies(trace: Path) -> None:
    result = run("replay", trace, trace, "--policy", "log", "--policy", "xen")
    assert result.exit_code == 0
    cells = [line.split("│") for line in result.stdout.splitlines() if line.startswith("│")]
    assert [row[2].strip() for row in cells] == ["log", "xen", "optimum"] * 2
    assert [row[1].strip() for row in cells[:2]] == ["caret", "(reference)"]


def test_replay_prints_markdown(trace: Path) -> None:
    lines = run("replay", trace, "--markdown", "--policy", "log", "--policy", "xen").stdout.splitlines()
    assert lines[0] == "| trace | log: x optimum | xen: x optimum | optimum: us an interval |"
    assert lines[1] == "|---|---:|---:|---:|"
    assert re.fullmatch(r"\| caret \| \d+\.\d\d \| \d+\.\d\d \| \d+\.\d \|", lines[2])
    assert len(lines) == 3


def test_replay_reads_costs_and_parameters_from_files(trace: Path, tmp_path: Path) -> None:
    (tmp_path / "costs").write_text(json.dumps(COSTS))
    (tmp_path / "tuned").write_text(json.dumps({"parameters": {"tile_pages": 8, "patience": 2}}))
    said = json.loads(
        run(
            "replay", trace, "--json", "--costs", tmp_path / "costs", "--parameters", tmp_path / "tuned"
        ).stdout
    )
    assert said["traces"][0]["costs"] == {"source": "given", **COSTS, "guest_cost_factor": 1.0}
    assert (said["parameters"]["tile_pages"], said["parameters"]["patience"]) == (8, 2)


def test_costs_file_of_an_older_vramtap_is_read(tmp_path: Path) -> None:
    (tmp_path / "costs").write_text(json.dumps({**COSTS, "guest_weight": 5}))
    costs = read_costs(tmp_path / "costs")
    assert costs is not None
    assert costs.guest_cost_factor == 5


def test_costs_of_the_trace_are_used(tmp_path: Path) -> None:
    measured = caret(costs=json.dumps(COSTS))
    costs, source = charged(measured, None)
    assert (costs.scan_us, source) == (4, "measured")
    assert charged(measured, REFERENCE) == (REFERENCE, "given")
    assert charged(caret(), None) == (REFERENCE, "reference")
    save(tmp_path / "bad", caret(costs="{}"))
    assert isinstance(run("replay", tmp_path / "bad").exception, VramtapError)


def test_trace_without_intervals_is_not_replayed(tmp_path: Path) -> None:
    save(tmp_path / "empty", TraceBuilder(3).build({}))
    result = run("replay", tmp_path / "empty")
    assert isinstance(result.exception, UsageError)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no JSON object"),
        ('{"parameters": 3}', "no parameters"),
        ('{"speed": 3}', "is not a parameter"),
        ('{"tile_pages": 3.5}', "not of type int"),
        ('{"tile_pages": true}', "not of type int"),
        ('{"patience": "long"}', "not of type float"),
        ('{"arms": 1}', "not of type bool"),
        ('{"tile_pages": 0}', "tile_pages is 0"),
        ('{"patience": NaN}', "patience is nan"),
        ('{"patience": -1}', "patience is -1"),
    ],
)
def test_invalid_parameters_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_parameters(tmp_path / "file")


def test_files_that_cannot_be_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
