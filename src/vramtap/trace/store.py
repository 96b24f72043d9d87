"""Traces as Parquet files: one row for each interval; written atomically, and checked completely when read.

A file has the columns `at_ns` (int64) and `runs` (list of struct of int32 `first`, `last`), compressed with
zstd. The schema's metadata has `vramtap.trace` (number of the format), `vramtap.pages`, and `vramtap.meta` (a
JSON object whose values are text). Its text `costs` is a JSON object as well. `vramtap.trace.recording` reads
it, under the present field names and under those of older recordings.
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

FORMAT: Final = "1"
"""Number of the file format; a file with another number is refused."""
MAX_FILE_BYTES: Final = 1 << 30
"""Size of the longest recording without compression, bytes."""
MAX_META_BYTES: Final = 1 << 16
"""Longest JSON text about a recording, bytes; usual ones have a few hundred."""
ROWS_A_GROUP: Final = 1 << 16
"""Intervals read at a time: 18 minutes at 60 intervals a second."""
_FORMAT_KEY, _PAGES_KEY, _META_KEY = b"vramtap.trace", b"vramtap.pages", b"vramtap.meta"


def save(path: str | os.PathLike[str], trace: Trace) -> None:
    """Write a trace atomically: the path always has the old file or the complete new one.

    Args:
        path: File to write. If it is a symbolic link, the link's target is replaced.
        trace: Trace to write.

    Raises:
        VramtapError: pyarrow is not installed.
        UsageError: The path exists and is not a regular file.
        KernelError: The path cannot be written.
    """
    arrow, parquet = _pyarrow()
    with replacing(path) as file:
        parquet.write_table(
            _table(arrow, trace),
            file,
            compression="zstd",
            row_group_size=ROWS_A_GROUP,
            # Times and page numbers are encoded as differences, which are small.
            use_dictionary=False,
            column_encoding={
                "at_ns": "DELTA_BINARY_PACKED",
                "runs.list.element.first": "DELTA_BINARY_PACKED",
                "runs.list.element.last": "DELTA_BINARY_PACKED",
            },
            write_statistics=False,
        )


def check_place(path: str | os.PathLike[str]) -> None:
    """Check, before a long recording, that a trace can be saved.

    Args:
        path: File that will be written.

    Raises:
        VramtapError: pyarrow is not installed.
        UsageError: The path exists and is not a regular file.
        KernelError: No file can be written there.
    """
    _pyarrow()
    place = _place(path)
    number = 0
    if not place.parent.is_dir():
        number = errno.ENOENT
    elif not os.access(place.parent, os.W_OK):
        number = errno.EACCES
    if number:
        raise KernelError(
            "write", os.fspath(path), number, "check the directory's permissions and free space"
        )


def _place(path: str | os.PathLike[str]) -> Path:
    """Return the path that is written, with links resolved.

    Raises:
        UsageError: The path exists and is not a regular file, and must not be replaced by one.
    """
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file():
        raise UsageError("write", os.fspath(path), "is not a regular file", "name a file, or a new path")
    return place


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Replace a file atomically, once the new one is complete.

    Args:
        path: File to replace. If it is a symbolic link, the link's target is replaced.

    Yields:
        A temporary file in the same directory, open for writing. It is renamed at the end, and removed after
        an exception.

    Raises:
        UsageError: The path exists and is not a regular file.
        KernelError: The path cannot be written.
    """
    place = _place(path)
    temporary = place.with_name(f".{place.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            with temporary.open("xb") as file:
                yield file
            temporary.replace(place)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise KernelError(
            "write", os.fspath(path), error.errno or 0, "check the directory's permissions and free space"
        ) from error


def load(path: str | os.PathLike[str]) -> Trace:
    """Read a trace, and check all of it.

    Raises:
        NotFound: There is no such file.
        UsageError: The file is not a trace, or a damaged one.
        KernelError: The file cannot be read.
        VramtapError: pyarrow is not installed.
    """
    arrow, parquet = _pyarrow()
    name = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise _invalid(name, f"its {size} bytes are more than {MAX_FILE_BYTES}")
            with _damage_as_usage_error(arrow, name), parquet.ParquetFile(file) as source:
                return _read(source, arrow, name)
    except FileNotFoundError as error:
        raise NotFound("trace", name, "no such file") from error
    except OSError as error:
        raise KernelError("read", name, error.errno or 0) from error


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    """Import pyarrow, which only reading and writing of traces needs.

    Raises:
        VramtapError: It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise VramtapError("trace", "pyarrow", "is not installed", "pip install 'vramtap[trace]'") from error
    return pyarrow, pyarrow.parquet


def _run_type(arrow: ModuleType) -> pyarrow.DataType:
    return arrow.struct([arrow.field(name, arrow.int32(), nullable=False) for name in ("first", "last")])


def _schema(arrow: ModuleType) -> pyarrow.Schema:
    runs = arrow.list_(arrow.field("element", _run_type(arrow), nullable=False))
    at_ns = arrow.field("at_ns", arrow.int64(), nullable=False)
    return arrow.schema([at_ns, arrow.field("runs", runs, nullable=False)])


def _table(arrow: ModuleType, trace: Trace) -> pyarrow.Table:
    runs = arrow.StructArray.from_arrays(
        [arrow.array(np.ascontiguousarray(trace.runs[:, column])) for column in (0, 1)],
        fields=list(_run_type(arrow)),
    )
    schema = _schema(arrow)
    lists = arrow.ListArray.from_arrays(trace.starts.astype(np.int32), runs, type=schema.field("runs").type)
    meta = {
        _FORMAT_KEY: FORMAT,
        _PAGES_KEY: str(trace.pages),
        _META_KEY: json.dumps(dict(trace.meta), ensure_ascii=False),
    }
    return arrow.table([arrow.array(trace.at_ns), lists], schema=schema.with_metadata(meta))


def _read(source: pyarrow.parquet.ParquetFile, arrow: ModuleType, name: str) -> Trace:
    """Read a trace from an open file.

    Raises:
        UsageError: The file is not a trace.
        arrow.ArrowException: The file is damaged.
    """
    schema = source.schema_arrow
    pages, meta = _described(schema.metadata or {}, name)
    if not schema.remove_metadata().equals(_schema(arrow)):
        raise _invalid(name, "its columns are not a trace's")
    # The file's own counts limit what is unpacked. They may be false, so the unpacked values are counted too.
    counted = source.metadata
    values = sum(counted.row_group(group).column(1).num_values for group in range(counted.num_row_groups))
    if not 0 <= counted.num_rows <= MAX_INTERVALS or values > MAX_RUNS:
        raise _invalid(name, f"{counted.num_rows} intervals or {values} runs are more than a trace can have")
    at_ns, counts, runs = [], [], []
    intervals = kept = 0
    for batch in source.iter_batches(batch_size=ROWS_A_GROUP, use_threads=False):
        batch.validate(full=True)
        if any(column.null_count for column in batch.columns):
            raise _invalid(name, "an interval is null")
        lists = batch.column(1)
        flat = lists.flatten()
        intervals, kept = intervals + len(batch), kept + len(flat)
        if intervals > MAX_INTERVALS or kept > MAX_RUNS:
            raise _invalid(name, f"more than {MAX_INTERVALS} intervals or {MAX_RUNS} runs")
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
        raise _invalid(name, str(error)) from error


def _described(metadata: Mapping[bytes, bytes], name: str) -> tuple[int, dict[str, str]]:
    """Return the number of pages and the text about the recording.

    Raises:
        UsageError: One is missing or not valid.
    """
    number = metadata.get(_FORMAT_KEY)
    if number is None:
        raise _invalid(name, "its metadata has no vramtap.trace")
    if number != FORMAT.encode():
        raise _invalid(name, f"its format is {number[:16]!r}, not {FORMAT}", "use the vramtap that wrote it")
    pages, text = metadata.get(_PAGES_KEY, b""), metadata.get(_META_KEY, b"")
    # The number of digits is limited: the time of int() grows with its square.
    if not pages.isdigit() or len(pages) > len(str(MAX_RUNS)):
        raise _invalid(name, f"{pages[:16]!r} is not a number of pages")
    if len(text) > MAX_META_BYTES:
        raise _invalid(name, f"{len(text)} bytes of text about the recording are more than {MAX_META_BYTES}")
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _invalid(name, "its text about the recording is not JSON") from error
    if not isinstance(meta, dict) or not all(isinstance(value, str) for value in meta.values()):
        raise _invalid(name, "its text about the recording is not an object of texts")
    return int(pages), meta


@contextmanager
def _damage_as_usage_error(arrow: ModuleType, name: str) -> Iterator[None]:
    """Turn pyarrow's errors about a file into `UsageError`.

    Raises:
        UsageError: The file is damaged.
    """
    try:
        yield
    except (arrow.ArrowException, MemoryError, UnicodeDecodeError) as error:
        raise _invalid(name, str(error) or type(error).__name__) from error
    except OSError as error:
        # pyarrow raises OSError for damaged data, too; only the system's own errors have a number.
        if error.errno is not None:
            raise
        raise _invalid(name, str(error)) from error


def _invalid(name: str, reason: str, remedy: str = "") -> UsageError:
    return UsageError("trace", name, reason, remedy or "record one with `vramtap trace record`")
