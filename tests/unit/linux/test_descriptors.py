"""Descriptor objects: their functions, and errors for invalid descriptors."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vramtap.errors import KernelError, NotFound, TargetGone, Unsupported, VramtapError
from vramtap.linux.inject import fetch_userfaultfd
from vramtap.linux.pagemap import Pagemap
from vramtap.linux.pidfd import PidFd
from vramtap.linux.procfs import (
    MapsQuery,
    cmdline,
    comm,
    exe,
    read_maps,
    status_field,
    vm_flags,
)
from vramtap.linux.userfaultfd import LOG_FEATURES, Userfaultfd
from vramtap.linux.vm_rw import read_many

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_SUCH_PID = 4_194_304 + 7
"""Above the largest pid of Linux (PID_MAX_LIMIT, include/linux/threads.h)."""


@pytest.fixture
def cat() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"x")
        process.stdin.flush()
        process.stdout.read(1)
        yield process
        process.kill()


def test_closed_userfaultfd_gives_ebadf() -> None:
    uffd = Userfaultfd.of_self()
    os.close(uffd.fileno())
    with pytest.raises(KernelError) as caught:
        uffd.api(LOG_FEATURES)
    assert caught.value.errno == errno.EBADF


def test_other_kind_of_descriptor_is_refused() -> None:
    with open("/dev/null", "rb") as null, pytest.raises(Unsupported, match=r"UFFDIO_API .*ENOTTY"):
        Userfaultfd(os.dup(null.fileno()), "/dev/null").api(LOG_FEATURES)


def test_protecting_unregistered_memory_is_refused() -> None:
    page = np.zeros(8192, dtype=np.uint8)
    start = -(-page.ctypes.data // 4096) * 4096
    with Userfaultfd.of_self() as uffd:
        uffd.api(LOG_FEATURES)
        with pytest.raises(KernelError) as caught:
            uffd.protect(start, start + 4096)
    assert caught.value.errno == errno.ENOENT


def test_scan_of_unregistered_memory_returns_none() -> None:
    page = np.zeros(8192, dtype=np.uint8)
    start = -(-page.ctypes.data // 4096) * 4096
    with Pagemap() as pagemap:
        assert pagemap.written(start, start + 4096, protect=False) is None


def test_closed_pagemap_gives_ebadf() -> None:
    pagemap = Pagemap()
    os.close(pagemap.fileno())
    with pytest.raises(KernelError) as caught:
        pagemap.written(4096, 8192, protect=False)
    assert caught.value.errno == errno.EBADF


def test_pidfd_reports_end_of_process_and_duplicates_descriptors(cat: subprocess.Popen[bytes]) -> None:
    with PidFd(cat.pid) as process:
        assert process.alive
        ours = process.getfd(1)
        assert os.fstat(ours).st_ino == os.stat(f"/proc/{cat.pid}/fd/1").st_ino
        os.close(ours)
        with pytest.raises(KernelError) as caught:
            process.getfd(99)
        assert caught.value.errno == errno.EBADF
        cat.kill()
        os.waitid(os.P_PID, cat.pid, os.WEXITED | os.WNOWAIT)
        assert not process.alive


def test_every_object_reports_missing_process() -> None:
    for attempt in (PidFd, Pagemap, MapsQuery, read_maps, cmdline, exe):
        with pytest.raises(VramtapError) as caught:
            attempt(NO_SUCH_PID)
        assert isinstance(caught.value, (TargetGone, NotFound))
        assert str(NO_SUCH_PID) in str(caught.value)


def test_descriptor_limit_raises_emfile(cat: subprocess.Popen[bytes]) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    attempts = (PidFd, Pagemap, MapsQuery, read_maps, exe, fetch_userfaultfd)
    numbers = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))
    try:
        for attempt in attempts:
            try:
                attempt(cat.pid)
            except KernelError as error:
                numbers.append(error.errno)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    # `exe` reads a link and needs no descriptor.
    assert numbers == [errno.EMFILE] * (len(attempts) - 1)


def test_unicode_line_breaks_in_names_do_not_split_lines(tmp_path: Path) -> None:
    path = tmp_path / "one\x0ctwo\u2028three\x1c four"
    path.write_bytes(bytes(4096))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        assert [m.size_bytes for m in read_maps(os.getpid()) if m.path == str(path)] == [4096]
        assert str(path) in {mapping.path for mapping, _ in vm_flags(os.getpid())}


def test_process_name_cannot_forge_status_fields() -> None:
    name = Path("/proc/self/comm")
    before = name.read_text()
    name.write_text("x\x0bPid:\t1")
    try:
        assert status_field(os.getpid(), "Pid") == str(os.getpid())
    finally:
        name.write_text(before)


def test_proc_files_describe_process(cat: subprocess.Popen[bytes]) -> None:
    assert comm(cat.pid) == "cat"
    assert cmdline(cat.pid) == ["cat"]
    assert exe(cat.pid).endswith("/cat")
    assert status_field(cat.pid, "TracerPid") == "0"
    assert status_field(cat.pid, "NoSuchField") is None
    stack = [mapping for mapping in read_maps(cat.pid) if mapping.path == "[stack]"]
    assert len(stack) == 1
    assert stack[0].anonymous
    assert stack[0].perms == "rw-p"
    assert stack[0].size_bytes > 0


@pytest.mark.parametrize("fast", [True, False])
def test_maps_query_distinguishes_mapped_ranges_from_holes(cat: subprocess.Popen[bytes], fast: bool) -> None:
    query = MapsQuery(cat.pid)
    query.fast = query.fast and fast
    for mapping in read_maps(cat.pid):
        if mapping.path != "[vsyscall]":
            assert query.mapped(mapping.start, mapping.end)
    assert not query.mapped(4096, 8192)
    lowest = read_maps(cat.pid)[0]
    assert not query.mapped(lowest.start - 4096, lowest.end)
    query.close()


def test_read_many_copies_more_ranges_than_one_call_takes(cat: subprocess.Popen[bytes]) -> None:
    stack = next(mapping for mapping in read_maps(cat.pid) if mapping.path == "[stack]")
    count = 1500
    remote = np.full(count, stack.end - 16, dtype=np.uint64)
    lengths = np.full(count, 8, dtype=np.uint64)
    into = np.zeros(count, dtype=np.uint64)
    local = into.ctypes.data + np.arange(count, dtype=np.uint64) * np.uint64(8)
    read_many(cat.pid, remote, lengths, local)
    # The topmost words of the stack are the program's file name and a null word.
    assert len(set(into.tolist())) == 1
    assert into[0] != 0


def test_reading_unmapped_memory_raises_efault(cat: subprocess.Popen[bytes]) -> None:
    into = np.zeros(4096, dtype=np.uint8)
    one = np.array([4096], dtype=np.uint64)
    with pytest.raises(KernelError) as caught:
        read_many(cat.pid, one, one, np.array([into.ctypes.data], dtype=np.uint64))
    assert caught.value.errno == errno.EFAULT
