"""Traces as files: a saved trace loads unchanged, other files are refused in one line, saving is atomic."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vramtap.errors import KernelError, NotFound, UsageError, VramtapError
from vramtap.pages import PageRuns
from vramtap.trace import store
from vramtap.trace.store import load, save
from vramtap.trace.trace import Trace, TraceBuilder

if TYPE_CHECKING:
    from pathlib import Path

RUNS = pyarrow.list_(
    pyarrow.field(
        "element",
        pyarrow.struct(
            [
                pyarrow.field("first", pyarrow.int32(), nullable=False),
                pyarrow.field("last", pyarrow.int32(), nullable=False),
            ]
        ),
        nullable=False,
    )
)
META = {"vramtap.trace": "1", "vramtap.pages": "10", "vramtap.meta": "{}"}


def example(intervals: int = 3) -> Trace:
    builder = TraceBuilder(10)
    for number in range(intervals):
        builder.add(number + 1, PageRuns([(number % 9, 10)]) if number % 2 else PageRuns())
    return builder.build({"target": "x11::7", "name": "näme"})


def write(path: Path, rows: list[dict[str, Any]], meta: dict[str, str] | None = None, **columns: Any) -> Path:  # noqa: ANN401
    """Write a file with pyarrow: these rows, this metadata, and columns of other types if given."""
    fields = {
        "at_ns": pyarrow.field("at_ns", pyarrow.int64(), nullable=False),
        "runs": pyarrow.field("runs", RUNS, nullable=False),
    }
    fields |= columns
    schema = pyarrow.schema([field for field in fields.values() if field is not None])
    schema = schema.with_metadata(META if meta is None else meta)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    pages=st.integers(1, 70),
    intervals=st.lists(st.sets(st.integers(0, 69)), max_size=20),
    meta=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
def test_saved_trace_loads_unchanged(
    tmp_path: Path, pages: int, intervals: list[set[int]], meta: dict[str, str]
) -> None:
    builder = TraceBuilder(pages)
    for at_ns, written in enumerate(intervals):
        builder.add(at_ns * 1000, PageRuns.from_pages(page for page in written if page < pages))
    trace = builder.build(meta)
    save(tmp_path / "trace", trace)
    assert load(tmp_path / "trace") == trace


def test_trace_with_several_row_groups_loads_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "ROWS_A_GROUP", 7)
    save(tmp_path / "trace", example(23))
    assert load(tmp_path / "trace") == example(23)


def test_file_of_another_program_loads(tmp_path: Path) -> None:
    rows = [{"at_ns": 1, "runs": []}, {"at_ns": 2, "runs": [{"first": 0, "last": 3}]}]
    trace = load(write(tmp_path / "trace", rows))
    assert (trace.pages, trace.intervals) == (10, 2)
    assert trace.written(1) == PageRuns([(0, 3)])


def run(first: int, last: int) -> list[dict[str, Any]]:
    return [{"at_ns": 1, "runs": [{"first": first, "last": last}]}]


@pytest.mark.parametrize(
    ("rows", "meta", "said"),
    [
        (run(0, 11), META, "outside"),
        (run(-1, 3), META, "outside"),
        (run(3, 3), META, "empty"),
        ([{"at_ns": 2, "runs": []}, {"at_ns": 1, "runs": []}], META, "order of time"),
        (run(0, 1), {}, "no vramtap.trace"),
        (run(0, 1), META | {"vramtap.trace": "2"}, "not 1"),
        (run(0, 1), META | {"vramtap.pages": "0"}, "0 pages"),
        (run(0, 1), META | {"vramtap.pages": "-1"}, "not a number of pages"),
        (run(0, 1), META | {"vramtap.pages": "9" * 5000}, "not a number of pages"),
        (run(0, 1), META | {"vramtap.pages": "99999999"}, "outside"),
        (run(0, 1), META | {"vramtap.meta": "{"}, "not JSON"),
        (run(0, 1), META | {"vramtap.meta": "[" * 60_000}, "not JSON"),
        (run(0, 1), META | {"vramtap.meta": "[]"}, "not an object of texts"),
        (run(0, 1), META | {"vramtap.meta": '{"a": 1}'}, "not an object of texts"),
        (run(0, 1), META | {"vramtap.meta": json.dumps({"a": "x" * 70_000})}, "more than"),
    ],
)
def test_invalid_contents_are_refused(
    tmp_path: Path, rows: list[dict[str, Any]], meta: dict[str, str], said: str
) -> None:
    path = write(tmp_path / "trace", rows, meta)
    with pytest.raises(UsageError, match=said) as refused:
        load(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ({"runs": None}, {"at_ns": 1}),
        ({"more": pyarrow.field("more", pyarrow.int8())}, {"at_ns": 1, "runs": [], "more": 1}),
        ({"at_ns": pyarrow.field("at_ns", pyarrow.int32(), nullable=False)}, {"at_ns": 1, "runs": []}),
        ({"at_ns": pyarrow.field("at_ns", pyarrow.int64())}, {"at_ns": None, "runs": []}),
        ({"runs": pyarrow.field("runs", RUNS)}, {"at_ns": 1, "runs": None}),
        ({"runs": pyarrow.field("runs", pyarrow.string(), nullable=False)}, {"at_ns": 1, "runs": "all"}),
    ],
)
def test_other_columns_are_refused(tmp_path: Path, columns: dict[str, Any], row: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="columns"):
        load(write(tmp_path / "trace", [row], **columns))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1PAR1", b"\0" * 500, b"not a trace at all\n" * 50])
def test_file_that_is_not_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "trace").write_bytes(content)
    with pytest.raises(UsageError, match="trace"):
        load(tmp_path / "trace")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_file_is_refused_or_loads(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "trace"
    save(path, example(40))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    said = ""
    try:
        load(path).dirty(10)
    except UsageError as refused:
        said = str(refused)
    assert "\n" not in said


@pytest.mark.parametrize("bound", ["MAX_INTERVALS", "MAX_RUNS", "MAX_FILE_BYTES", "MAX_META_BYTES"])
def test_every_length_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    save(tmp_path / "trace", example(40))
    monkeypatch.setattr(store, bound, 10)
    with pytest.raises(UsageError, match="more than"):
        load(tmp_path / "trace")


@pytest.mark.parametrize("bound", ["MAX_INTERVALS", "MAX_RUNS"])
def test_false_counts_in_a_file_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    save(tmp_path / "trace", example(40))

    class FalseCounts(pyarrow.parquet.ParquetFile):  # type: ignore[misc]  # pyarrow has no types
        @property
        def metadata(self) -> SimpleNamespace:
            none = SimpleNamespace(column=lambda number: SimpleNamespace(num_values=0))
            return SimpleNamespace(num_rows=0, num_row_groups=1, row_group=lambda number: none)

    monkeypatch.setattr(pyarrow.parquet, "ParquetFile", FalseCounts)
    assert load(tmp_path / "trace") == example(40)
    monkeypatch.setattr(store, bound, 10)
    with pytest.raises(UsageError, match="more than"):
        load(tmp_path / "trace")


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file"):
        load(tmp_path / "nothing")


def test_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="EISDIR"):
        load(tmp_path)


def test_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trace"
    save(path, example(3))

    def fail(table: pyarrow.Table, file: Any, **options: object) -> None:  # noqa: ANN401
        file.write(b"half")
        raise OSError(28, "no space")

    monkeypatch.setattr(pyarrow.parquet, "write_table", fail)
    with pytest.raises(KernelError, match="ENOSPC"):
        save(path, example(5))
    assert load(path) == example(3)
    assert os.listdir(tmp_path) == ["trace"]


def test_save_keeps_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "trace")
    save(tmp_path / "link", example())
    assert (tmp_path / "link").is_symlink()
    assert load(tmp_path / "trace") == example()


def test_path_is_checked_before_a_recording(tmp_path: Path) -> None:
    store.check_place(tmp_path / "trace")
    assert os.listdir(tmp_path) == []
    with pytest.raises(KernelError, match="ENOENT"):
        store.check_place(tmp_path / "no" / "trace")


def test_device_or_directory_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link", "."):
        with pytest.raises(UsageError, match="is not a regular file"):
            store.check_place(tmp_path / name)
        with pytest.raises(UsageError, match="is not a regular file"):
            save(tmp_path / name, example())
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]


@pytest.mark.parametrize("what", ["save", "load", "check_place"])
def test_missing_pyarrow_is_an_error_with_the_remedy(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(VramtapError, match=r"pip install 'vramtap\[trace\]'"):
        getattr(store, what)(tmp_path / "trace", *[example()][: what == "save"])


def test_serving_does_not_import_pyarrow() -> None:
    modules = "vramtap.cli.serve, vramtap.tap.tap, vramtap.trace.record, vramtap.cli.trace, vramtap.cli.tune"
    code = f"import sys, {modules}\nassert not {{'pyarrow', 'distributed', 'dask'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
