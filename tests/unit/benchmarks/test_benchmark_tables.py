"""The figures of every part become a table, by way of JSON, in the documents that have its markers."""

from __future__ import annotations

import json
from concurrent.futures import Future
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from benchmarks import __main__ as program
from benchmarks import costs, held, idle, tables, video
from benchmarks.documents import Documents, MissingMarker
from benchmarks.first_update import QEMU, XVFB, Changed, Updates, _colour, _updates
from benchmarks.lanes import Shot
from benchmarks.video import Video
from hypothesis import given
from hypothesis import strategies as st

from vramtap.cli._bench_trackers import Cost
from vramtap.pages import PageRuns
from vramtap.trace.trace import TraceBuilder

if TYPE_CHECKING:
    from pathlib import Path


def kept(figures: dict[str, Any]) -> Any:  # noqa: ANN401 - what JSON holds
    return json.loads(json.dumps(figures))


def cells(text: str) -> list[list[str]]:
    """Return the cells of every line of the tables in a text."""
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]


def test_first_updates() -> None:
    rows = [
        Updates(XVFB, "vramtap", [3.0, 4.0, 50.0], [], [], 1, 4),
        Updates(QEMU, "vramtap", [2.0, 2.5], [12.0, 13.0], [12.25], 0, 2),
        Updates(QEMU, "QEMU's VNC", [900.0], [910.0], [], 0, None),
    ]
    figures = {"idle_s": 20.0, "side_by_side": 8, "guests": 6, "own_ms": [10.0, 10.5]}
    text = tables.viewers(kept({**figures, "updates": [asdict(row) for row in rows]}))
    head, *found = cells(text)
    assert head[0] == "first update after 20 s without change, ms"
    assert found[0] == ["Xvfb: vramtap", "4.0", "50.0", "50.0", "3.0", "50.0", "3, 1 lost"]
    assert found[1][0] == "QEMU guest: vramtap"
    assert "12.5 ms while the benchmark watched for the write, and 12.2 ms while it did not (1 more" in text
    assert "Xvfb: vramtap was at rest before 4 of 4 shots." in text


def test_short_table_of_first_updates_has_at_most_six_rows() -> None:
    rows = [asdict(Updates(XVFB, f"server {index}", [3.0, 4.0, 50.0], [], [], 0, None)) for index in range(9)]
    head, *found = cells(tables.viewers_short(kept({"idle_s": 20.0, "updates": rows})))
    assert head == ["first update after 20 s without change, ms", "median", "p99"]
    assert found == [[f"Xvfb: server {index}", "4.0", "50.0"] for index in range(6)]


def test_server_without_updates_has_a_row() -> None:
    row = Updates(XVFB, "vramtap", [], [], [], 5, 0)
    figures = {"idle_s": 1.0, "side_by_side": 1, "guests": 0, "own_ms": [], "updates": [asdict(row)]}
    assert cells(tables.viewers(kept(figures)))[1] == ["Xvfb: vramtap", *"-----", "0, 5 lost"]


def shot(kind: str, number: int, written_s: float | None, **arrived_s: float) -> Shot[Changed]:
    result: Future[Changed] = Future()
    result.set_result(Changed(100.0, written_s))
    return Shot(kind, result, 100.0, number % 2 == 0, arrived_s)


def test_guest_update_is_timed_from_the_write() -> None:
    shots = [shot(QEMU, 0, 100.25, vramtap=100.5), shot(QEMU, 1, None, vramtap=100.75), shot(QEMU, 2, 100.5)]
    assert _updates(QEMU, "vramtap", shots) == Updates(QEMU, "vramtap", [250.0], [500.0], [750.0], 1, 2)


def test_x_server_update_is_timed_from_the_request() -> None:
    shots = [shot(f"{XVFB} x11vnc", 0, None, x11vnc=100.5)]
    assert _updates(f"{XVFB} x11vnc", "x11vnc", shots) == Updates(XVFB, "x11vnc", [500.0], [], [], 0, None)


@given(st.integers(0, 100_000), st.integers(1, 100))
def test_two_shots_never_draw_the_same_colour(number: int, later: int) -> None:
    assert _colour(number) != _colour(number + later)


def test_idle_servers() -> None:
    rows = [
        idle.Idle("Xvfb", "vramtap", 1.2, 0, 0, 0.0, 0, 0, ["vramtap-attach"], 5, "hybrid"),
        idle.Idle("Xvfb", "x11vnc", None, 9000, 30, 900.04, 0, 3, [], None, None),
    ]
    figures = {"stretch_s": 60.0, "limit_s": 140.0, "idle": [asdict(row) for row in rows]}
    text = tables.idle(kept(figures))
    assert cells(text)[1:] == [
        ["Xvfb: vramtap", "1 s", "0", "0", "0.0"],
        ["Xvfb: x11vnc", "never", "9000", "30", "900.0"],
    ]
    assert "x11vnc sent 3 updates during the measurement" in text


def test_held_writers_are_compared_with_untapped_writers() -> None:
    rows = [
        held.Held(held.UNTAPPED, held.PAGE, 768, [0.5], [1.0], None, 0),
        held.Held(held.UNTAPPED, held.SCREEN, 768, [0.5], [300.0], None, 0),
        held.Held("hybrid", held.SCREEN, 768, [150.0, 160.0], [700.0, 900.0], 2, 0),
        held.Held("hybrid", held.STOPPED["server"], 768, [200.0], [201.0], 1, 1),
    ]
    figures = {"idle_s": 3.0, "side_by_side": 8, "held": [asdict(row) for row in rows]}
    found = cells(tables.held(kept(figures)))[1:]
    assert found[2] == ["hybrid: the whole screen", *("150", "160", "160", "400", "600", "600", "2", "2")]
    assert found[3][-3:] == ["200", "1, 1 lost", "1"]


def test_costs_of_writer_and_tap() -> None:
    rows = [
        costs.Cost("typing", name, 60, 18.0, lost, ours, 1.0)
        for name, lost, ours in (("log", 20.04, 800.0), ("hybrid", -0.04, 700.0))
    ]
    assert rows[0].total_us == pytest.approx(820.04)
    found = cells(tables.costs(kept({"seconds": 20.0, "costs": [asdict(row) for row in rows]})))
    assert found[1] == ["typing", "18.0", "20", "800", "820", "0.0", "700", "700"]


def test_workloads_of_the_built_in_vm() -> None:
    rows = [Cost("caret", "log", 1.0, 2.0, 3.0, 0.0, 4, 5.0, 6.0, 1.2, 7, 8.0, 9.0, [1.2])]
    text = tables.trackers(kept({"costs": [asdict(row) for row in rows]}))
    assert ["caret", "6", "1", "2", "1.20"] in cells(text)
    assert ["caret", "9"] in cells(text)


def test_full_screen_video() -> None:
    rows = [Video("log", [50.0, 40.0], [0.5, 0.4], [0.99, 0.98], [60.0, 60.0], [100.0, 110.0])]
    inside = [Cost("video-full", "log", 1.0, 2.0, 3.0, 0.0, 30, 10.0, 12.5, 1.25, 180, 8.0, 9.0, [1.25])]
    figures = {"video": [asdict(row) for row in rows], "machine_video": [asdict(row) for row in inside]}
    found = cells(tables.video(kept(figures)))[1:]
    assert found[0] == ["separate process: log", "45.0", "55.0 %", "50.0 %", "60.0 %", "1.5 %", "60", "105"]
    assert found[1] == ["built-in VM: log", "10.0", *["20.0 %"] * 3, "-", "60", "-"]


def test_every_part_has_a_table() -> None:
    assert list(program.PARTS) == ["viewers", "idle", "held", "policies", "costs", "trackers", "video"]


BEGIN, END = "<!-- measured held: begin (make bench writes this) -->", "<!-- measured held: end -->"


def document(path: Path, table: str) -> str:
    text = f"before\n{BEGIN}\n{table}\n{END}\nafter\n"
    path.write_text(text)
    return text


@pytest.fixture
def documents(tmp_path: Path) -> Documents:
    return Documents(performance=tmp_path / "performance.md", readme=tmp_path / "README.md")


def test_table_is_written_into_every_document_with_its_markers(documents: Documents, tmp_path: Path) -> None:
    document(documents.performance, "old")
    document(documents.readme, "old")
    documents.write("held", "full \\1\n", "short\n")
    assert documents.performance.read_text() == document(tmp_path / "expected", "full \\1")
    assert documents.readme.read_text() == document(tmp_path / "expected", "short")


@pytest.mark.parametrize("name", ["performance", "readme"])
def test_table_is_written_into_the_only_document_with_its_markers(
    documents: Documents, tmp_path: Path, name: str
) -> None:
    document(getattr(documents, name), "old\nolder")
    documents.write("held", "full\n")
    assert getattr(documents, name).read_text() == document(tmp_path / "expected", "full")


def test_table_without_markers_is_an_error(documents: Documents) -> None:
    document(documents.readme, "old")
    with pytest.raises(MissingMarker, match=r"performance\.md and README\.md lack .*measured costs: begin"):
        documents.write("costs", "new\n")


def test_missing_marker_is_reported_before_measuring(
    documents: Documents, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document(documents.readme, "old")
    monkeypatch.setattr("sys.argv", ["benchmarks", "--write", "--part", "video"])
    monkeypatch.setattr(video, "measure", lambda *_: pytest.fail("measured"))
    assert program.main(documents) == 1
    assert "measured video: begin" in capsys.readouterr().err


def test_short_table_is_written_into_the_readme(
    documents: Documents, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for path in (documents.performance, documents.readme):
        document(path, "old")
    figures = {"viewers": 1}
    part = program.Part(lambda options, progress: dict(figures), lambda _: "FULL", lambda _: "SHORT")
    monkeypatch.setattr(program, "PARTS", {"held": part})
    monkeypatch.setattr("sys.argv", ["benchmarks", "--write", "-o", str(tmp_path / "figures.json")])
    assert program.main(documents) == 0
    assert "FULL" in documents.performance.read_text()
    assert "SHORT" in documents.readme.read_text()
    assert json.loads((tmp_path / "figures.json").read_text())["held"]["viewers"] == 1


def test_documents_of_this_repository_have_a_place_for_every_table() -> None:
    for name in program.PARTS:
        Documents().check(name)


@given(st.integers(1, 50), st.integers(1, 60))
def test_excerpt_is_the_middle_of_a_trace(intervals: int, most: int) -> None:
    builder = TraceBuilder(100)
    for number in range(intervals):
        builder.add((number + 1) * 1000, PageRuns([(number, number + 1)]))
    pages = [run.array[0, 0] for run in costs.excerpt(builder.build({}), most)]
    assert len(pages) == min(most, intervals)
    assert pages == list(range(pages[0], pages[0] + len(pages)))
    assert abs(pages[0] - (intervals - 1 - pages[-1])) <= 1


def test_elapsed_time_counts_only_in_frames_in_which_the_writer_slept() -> None:
    times = np.array([[9_000, 1_000, 0], [9_000, 1_000, 1], [1_000, 1_500, 1]])
    assert costs.own_us(times).tolist() == [1.0, 9.0, 1.5]
