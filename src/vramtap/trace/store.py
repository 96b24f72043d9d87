"""Traces as Parquet files: one row an interval, written whole or not at all, and believed in nothing.

The file: columns `at_ns` (int64) and `runs` (list of struct of int32 `first`, `last`), zstd; in the schema's
metadata `vramtap.trace` (the form's number), `vramtap.pages`, and `vramtap.meta` (a JSON object of texts).
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np

from vramtap.errors import KernelError, NotFound, UsageError, VramtapError
from vramtap.trace.trace import MAX_INTERVALS, MAX_RUNS, Trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType

    import pyarrow
    import pyarrow.parquet

FORM: Final = "1"
"""Number of the file's form; another one is refused."""
MAX_FILE_BYTES: Final = 1 << 30
"""A trace of the longest recording, had zstd saved nothing."""
MAX_META_BYTES: Final = 1 << 16
"""JSON of what is known of the recording; it is some two hundred bytes."""
ROWS_A_GROUP: Final = 1 << 16
"""Intervals read at a time: 18 minutes at 60 looks a second."""
_FORM_KEY, _PAGES_KEY, _META_KEY = b"vramtap.trace", b"vramtap.pages", b"vramtap.meta"


def save(path: str | os.PathLike[str], trace: Trace) -> None:
    """Write a trace beside its place and rename it there: there is the old file or the whole new one.

    Args:
        path: Of the file; a link stays one.
        trace: What to write.

    Raises:
        VramtapError: pyarrow is not installed.
        UsageError: something is there that is no file.
        KernelError: the path cannot be written.
    """
    arrow, parquet = _pyarrow()
    with replacing(path) as file:
        parquet.write_table(
            _table(arrow, trace),
            file,
            compression="zstd",
            row_group_size=ROWS_A_GROUP,
            # Times and page numbers are steps from the last one: small ones.
            use_dictionary=False,
            column_encoding={
                "at_ns": "DELTA_BINARY_PACKED",
                "runs.list.element.first": "DELTA_BINARY_PACKED",
                "runs.list.element.last": "DELTA_BINARY_PACKED",
            },
            write_statistics=False,
        )


def check_place(path: str | os.PathLike[str]) -> None:
    """Find out before a long recording whether it could be saved.

    Args:
        path: Of the file that is to be written.

    Raises:
        VramtapError: pyarrow is not installed.
        UsageError: something is there that is no file.
        KernelError: no file can be written there.
    """
    _pyarrow()
    place = _place(path)
    wrong = 0
    if not place.parent.is_dir():
        wrong = errno.ENOENT
    elif not os.access(place.parent, os.W_OK):
        wrong = errno.EACCES
    if wrong:
        raise KernelError("write", os.fspath(path), wrong, "see the directory's rights and space")


def _place(path: str | os.PathLike[str]) -> Path:
    """Where a file is written; links followed.

    Raises:
        UsageError: something else is there, that a file would put itself in the place of.
    """
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file():
        raise UsageError("write", os.fspath(path), "is no file", "name one that is, or is not there yet")
    return place


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new file in the place of an old one, once it is whole; a link stays one.

    Args:
        path: Of the file.

    Yields:
        A file open for writing, beside its place; renamed at the end, removed after an exception.

    Raises:
        UsageError: something is there that is no file.
        KernelError: the path cannot be written.
    """
    place = _place(path)
    beside = place.with_name(f".{place.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            with beside.open("xb") as file:
                yield file
            beside.replace(place)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise KernelError(
            "write", os.fspath(path), error.errno or 0, "see the directory's rights and space"
        ) from error


def load(path: str | os.PathLike[str]) -> Trace:
    """Read a trace and check all of it.

    Args:
        path: Of the file.

    Returns:
        The trace.

    Raises:
        NotFound: there is no such file.
        UsageError: it is no trace, or a broken one.
        KernelError: it cannot be read.
        VramtapError: pyarrow is not installed.
    """
    arrow, parquet = _pyarrow()
    name = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise _bad(name, f"{size} bytes are more than any trace's {MAX_FILE_BYTES}")
            with _strange(arrow, name), parquet.ParquetFile(file) as source:
                return _read(source, arrow, name)
    except FileNotFoundError as error:
        raise NotFound("trace", name, "no such file") from error
    except OSError as error:
        raise KernelError("read", name, error.errno or 0) from error


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    """The library, loaded when a trace is written or read and not before.

    Raises:
        VramtapError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise VramtapError(
            "trace", "pyarrow", "not installed", "pip install 'vramtap[trace]' brings it"
        ) from error
    return pyarrow, pyarrow.parquet


def _run_type(arrow: ModuleType) -> pyarrow.DataType:
    return arrow.struct(
        [arrow.field("first", arrow.int32(), False), arrow.field("last", arrow.int32(), False)]
    )


def _schema(arrow: ModuleType) -> pyarrow.Schema:
    runs = arrow.list_(arrow.field("element", _run_type(arrow), nullable=False))
    return arrow.schema([arrow.field("at_ns", arrow.int64(), False), arrow.field("runs", runs, False)])


def _table(arrow: ModuleType, trace: Trace) -> pyarrow.Table:
    runs = arrow.StructArray.from_arrays(
        [arrow.array(np.ascontiguousarray(trace.runs[:, column])) for column in (0, 1)],
        fields=list(_run_type(arrow)),
    )
    schema = _schema(arrow)
    lists = arrow.ListArray.from_arrays(trace.starts.astype(np.int32), runs, type=schema.field("runs").type)
    meta = {
        _FORM_KEY: FORM,
        _PAGES_KEY: str(trace.pages),
        _META_KEY: json.dumps(dict(trace.meta), ensure_ascii=False),
    }
    return arrow.table([arrow.array(trace.at_ns), lists], schema=schema.with_metadata(meta))


def _read(source: pyarrow.parquet.ParquetFile, arrow: ModuleType, name: str) -> Trace:
    """What an open file holds.

    Raises:
        UsageError: no trace; pyarrow's own errors come besides.
    """
    schema = source.schema_arrow
    pages, meta = _described(schema.metadata or {}, name)
    if not schema.remove_metadata().equals(_schema(arrow)):
        raise _bad(name, "its columns are not a trace's")
    # What the file says of itself bounds what is unpacked; what comes out is counted again.
    counted = source.metadata
    values = sum(counted.row_group(group).column(1).num_values for group in range(counted.num_row_groups))
    if not 0 <= counted.num_rows <= MAX_INTERVALS or values > MAX_RUNS:
        raise _bad(name, f"{counted.num_rows} intervals or {values} runs are more than a trace may have")
    at_ns, counts, runs = [], [], []
    intervals = kept = 0
    for batch in source.iter_batches(batch_size=ROWS_A_GROUP, use_threads=False):
        batch.validate(full=True)
        if any(column.null_count for column in batch.columns):
            raise _bad(name, "an interval is null")
        lists = batch.column(1)
        flat = lists.flatten()
        intervals, kept = intervals + len(batch), kept + len(flat)
        if intervals > MAX_INTERVALS or kept > MAX_RUNS:
            raise _bad(name, f"more than {MAX_INTERVALS} intervals or {MAX_RUNS} runs")
        at_ns.append(batch.column(0).to_numpy(zero_copy_only=False))
        counts.append(lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64))
        ends = [flat.field(column).to_numpy(zero_copy_only=False) for column in (0, 1)]
        runs.append(np.stack(ends, axis=1).astype(np.int32, copy=False))
    try:
        return Trace(
            pages,
            np.concatenate([np.zeros(0, np.int64), *at_ns]),
            np.concatenate([[0], np.cumsum(np.concatenate([np.zeros(0, np.int64), *counts]))]),
            np.concatenate([np.zeros((0, 2), np.int32), *runs]),
            meta,
        )
    except ValueError as error:
        raise _bad(name, str(error)) from error


def _described(metadata: Mapping[bytes, bytes], name: str) -> tuple[int, dict[str, str]]:
    """The pages and what is known of the recording.

    Raises:
        UsageError: they are not there or make no sense.
    """
    form = metadata.get(_FORM_KEY)
    if form is None:
        raise _bad(name, "it has no mark of a trace")
    if form != FORM.encode():
        raise _bad(name, f"its form is {form[:16]!r}, not {FORM}", "another vramtap wrote it")
    pages, text = metadata.get(_PAGES_KEY, b""), metadata.get(_META_KEY, b"")
    # As many digits as any count of pages has: more cost int() time that grows with their square.
    if not pages.isdigit() or len(pages) > len(str(MAX_RUNS)):
        raise _bad(name, f"{pages[:16]!r} is no number of pages")
    if len(text) > MAX_META_BYTES:
        raise _bad(name, f"{len(text)} bytes about the recording are more than {MAX_META_BYTES}")
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad(name, "what it says of the recording is no JSON") from error
    if not isinstance(meta, dict) or not all(isinstance(value, str) for value in meta.values()):
        raise _bad(name, "what it says of the recording is no list of texts")
    return int(pages), meta


@contextmanager
def _strange(arrow: ModuleType, name: str) -> Iterator[None]:
    """Say what pyarrow found wrong with a file as an error of ours.

    Raises:
        UsageError: it found something.
    """
    try:
        yield
    except (arrow.ArrowException, MemoryError, UnicodeDecodeError) as error:
        raise _bad(name, str(error) or type(error).__name__) from error
    except OSError as error:
        # pyarrow says so of broken data, too; the system's own errors have a number.
        if error.errno is not None:
            raise
        raise _bad(name, str(error)) from error


def _bad(name: str, reason: str, remedy: str = "") -> UsageError:
    return UsageError("trace", name, reason, remedy or "record one with `vramtap trace record`")
