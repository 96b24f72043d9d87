"""Tests of the cpio writer against the cpio tool."""

from __future__ import annotations

import subprocess

from support.testbed.cpio import Archive
from support.testbed.require import program


def test_cpio_tool_lists_and_unpacks_the_archive() -> None:
    cpio = program("cpio", "cpio")
    archive = Archive()
    archive.directory("bin")
    archive.device("console", 5, 1)
    archive.file("bin/odd", b"12345", executable=True)
    archive.file("even", b"1234")
    archive.file("empty", b"")
    archive.symlink("link", "bin/odd")
    data = archive.finish()
    assert len(data) % 4 == 0
    listed = subprocess.run([cpio, "-tv", "--quiet"], input=data, capture_output=True, check=True)
    lines = [line.split() for line in listed.stdout.decode().splitlines()]
    assert [(line[0], line[-1]) for line in lines] == [
        ("drwxr-xr-x", "bin"),
        ("crw-------", "console"),
        ("-rwxr-xr-x", "bin/odd"),
        ("-rw-r--r--", "even"),
        ("-rw-r--r--", "empty"),
        ("lrwxrwxrwx", "bin/odd"),
    ]
    assert lines[1][4:6] == ["5,", "1"]
    unpacked = subprocess.run(
        [cpio, "-i", "--quiet", "--to-stdout", "bin/odd", "even"], input=data, capture_output=True, check=True
    )
    assert unpacked.stdout == b"123451234"
