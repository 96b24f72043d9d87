"""Tests of the writer process and of its memory dump."""

from __future__ import annotations

import mmap
import os
import signal

import numpy as np
import pytest

from support.testbed.errors import TestbedError
from support.testbed.writer import Writer

SIZE = 1 << 20


def test_writes_into_a_shared_memfd() -> None:
    memfd = os.memfd_create("stress")
    try:
        with Writer(SIZE, threads=3, writes=100_001, path=f"/proc/{os.getpid()}/fd/{memfd}") as writer:
            assert not writer.memory().any()
            assert writer.run() == 100_001
            truth = writer.memory()
        with mmap.mmap(memfd, SIZE, prot=mmap.PROT_READ) as seen:
            np.testing.assert_array_equal(np.frombuffer(bytes(seen), np.uint8), truth)
        assert len(np.unique(np.flatnonzero(truth) // 4096)) == SIZE // 4096
    finally:
        os.close(memfd)


def test_reports_the_address_of_its_anonymous_memory() -> None:
    with Writer(SIZE, threads=1, writes=1000, seed=5) as writer:
        writer.run()
        descriptor = os.open(f"/proc/{writer.pid}/mem", os.O_RDONLY)
        try:
            seen = os.pread(descriptor, SIZE, writer.address)
        finally:
            os.close(descriptor)
        np.testing.assert_array_equal(np.frombuffer(seen, np.uint8), writer.memory())


def test_same_seed_gives_the_same_memory() -> None:
    def written(seed: int) -> bytes:
        with Writer(SIZE, threads=1, writes=5000, seed=seed, pause_every=1000) as writer:
            writer.run()
            return writer.memory().tobytes()

    assert written(7) == written(7)
    assert written(7) != written(8)


def test_second_run_writes_further_values() -> None:
    with Writer(SIZE, threads=1, writes=500, seed=3) as writer:
        writer.run()
        first = writer.memory()
        writer.run()
        assert (writer.memory() != first).any()


def test_visits_stay_in_a_few_pages() -> None:
    with Writer(SIZE, threads=1, writes=4000, seed=9, visit=1000) as writer:
        writer.run()
        pages = np.unique(np.flatnonzero(writer.memory()) // 4096)
    assert 1 < len(pages) <= 4 * 5, "four places of four pages, and runs of words that cross their ends"


def test_steady_writes_match_the_record() -> None:
    with Writer(SIZE, threads=3, seed=4, visit=100, rest_us=100) as writer:
        for _ in range(2):
            writer.steady()
            writer.advance()
            before = writer.memory()
            writer.advance()
            assert (writer.memory() != before).any()
            assert writer.halt() > 3 * 2 * 100
            np.testing.assert_array_equal(writer.memory(), writer.memory())


def test_record_shows_foreign_writes() -> None:
    descriptor = os.memfd_create("account")
    try:
        with Writer(
            SIZE, threads=1, visit=1, rest_us=1000, path=f"/proc/self/fd/{descriptor}", pass_fds=(descriptor,)
        ) as writer:
            writer.steady()
            os.pwrite(descriptor, b"\x55" * SIZE, 0)
            with pytest.raises(TestbedError, match="DIFFERS"):
                writer.halt()
    finally:
        os.close(descriptor)


def test_stopped_writer_does_not_advance() -> None:
    with Writer(SIZE, threads=2, visit=10) as writer:
        writer.steady()
        os.kill(writer.pid, signal.SIGSTOP)
        with pytest.raises(TestbedError, match="not ADVANCED"):
            writer.advance(0.1)


def test_file_that_cannot_be_mapped_is_an_error() -> None:
    with pytest.raises(TestbedError, match="instead of READY"), Writer(SIZE, path="/proc/version"):
        pass
