"""The program on the command line: its output, its exit status and its error messages."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import urllib.error
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from support.follower import Follower
from support.program import PATIENCE_S, assert_one_line, run, serve, started
from support.rfb_client import Broken, RfbClient
from support.testbed.guest import Guest
from support.testbed.writer import Writer
from support.testbed.xvfb import Xvfb
from support.writers import SIZE_BYTES, picture_of, screen_writer, url_of
from vramtap.trackers.choose import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


ANY_PORTS = ("--vnc", "127.0.0.1:0", "--web", "127.0.0.1:0")


@pytest.fixture
def writer() -> Iterator[Writer]:
    """A process that draws into a framebuffer."""
    with screen_writer() as writer:
        yield writer


@contextlib.contextmanager
def busy_port() -> Iterator[int]:
    """Listen on a loopback port; yield its number."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


# serve


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_serve_prints_addresses_at_start_and_report_at_end(writer: Writer, number: signal.Signals) -> None:
    url = url_of(writer)
    with started("serve", url, *ANY_PORTS) as program:
        vnc = re.fullmatch(
            rf"VNC  127\.0\.0\.1::(\d+)  {re.escape(url)} 640x480, tracker hybrid", program.line() or ""
        )
        page = re.fullmatch(
            rf"page (http://127\.0\.0\.1:\d+/)  {re.escape(url)} 640x480, tracker hybrid",
            program.line() or "",
        )
        assert program.line() == "Ctrl-C ends it; the targets go on."
        assert vnc
        assert page
        with Follower(RfbClient.connect("127.0.0.1", int(vnc[1]))) as viewer:
            writer.run()
            viewer.shows(picture_of(writer))
        with urllib.request.urlopen(page[1], timeout=PATIENCE_S) as answer:
            assert b"<title>" in answer.read()
        finished = program.finish(number)
        assert finished.status == 0
        assert finished.err == ""
        (report,) = finished.out.splitlines()[3:]
        assert re.fullmatch(
            rf"{re.escape(url)}: \d+ updates; \d+ pages written, \d+\.\d MB read; "
            r"tracker hybrid \(.+\), \d+ scans of \d+ us; all dirty: [^;]*first 1[^;]*; "
            r"target stopped \d+ us at attach",
            report,
        )
    assert writer.run(), "the target keeps running"


def test_default_ports_fall_back_to_free_ports(writer: Writer) -> None:
    with contextlib.ExitStack() as stack:
        for port in (5900, 8080):
            # Another program may use the port already.
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
        with started("serve", url_of(writer), "--json") as program:
            host, port = json.loads(program.line() or "")["vnc"]
            page = json.loads(program.line() or "")["web"]
            assert port != 5900
            assert ":8080" not in page
            with Follower(RfbClient.connect(host, port)) as viewer:
                viewer.shows(picture_of(writer))
            assert program.finish().status == 0


@pytest.mark.parametrize("option", ["--vnc", "--web"])
def test_chosen_port_in_use_is_an_error(option: str, writer: Writer) -> None:
    with busy_port() as port:
        assert_one_line(
            run("serve", url_of(writer), option, f"127.0.0.1:{port}"),
            1,
            rf"listen 127\.0\.0\.1:{port}: Address already in use \(choose another port, or 0 for any\)",
        )


def test_vnc_on_a_public_address_needs_a_password(writer: Writer) -> None:
    assert_one_line(
        run("serve", url_of(writer), "--vnc", "0.0.0.0:0"),
        2,
        r"listen 0\.0\.0\.0:0: the address can be reached from other machines and no password is set \(.+\)",
    )


def test_page_on_a_public_address_needs_a_token(writer: Writer) -> None:
    with started("serve", url_of(writer), "--json", "--web", "0.0.0.0:0") as program:
        page = json.loads(program.line() or "")["web"]
        parts = urlsplit(page)
        token = parse_qs(parts.query)["token"][0]
        api = f"http://127.0.0.1:{parts.port}/api/targets"
        assert len(token) >= 20
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(api, timeout=PATIENCE_S)
        with urllib.request.urlopen(f"{api}?token={token}", timeout=PATIENCE_S) as answer:
            assert json.load(answer)["targets"][0]["url"] == url_of(writer)
        assert program.finish().status == 0


def test_serve_ends_when_the_process_exits(writer: Writer) -> None:
    url = url_of(writer)
    with started("serve", url, *ANY_PORTS) as program:
        while program.line() != "Ctrl-C ends it; the targets go on.":
            pass
        os.kill(writer.pid, signal.SIGKILL)
        finished = program.finish(None)
        assert finished.status == 0
        assert finished.err == ""
        assert finished.out.splitlines()[3] == f"{url}: process {writer.pid} exited"
        assert finished.out.splitlines()[4].startswith(f"{url}: ")


def test_serve_ends_when_the_x_server_exits() -> None:
    with Xvfb(width=320, height=200) as xvfb, serve(xvfb.url) as server:
        viewer = server.connect()
        viewer.refresh()
        xvfb.kill()
        (report,) = server.stop(None)
        assert str(xvfb.pid) in report["ended"]
        viewer.close()


def test_serve_ends_when_qemu_exits() -> None:
    guest = Guest()
    guest.start()
    try:
        with serve(guest.url) as server:
            guest.monitor.execute("quit")
            guest.wait_end()
            (report,) = server.stop(None)
            assert report["ended"] == f"QEMU (pid {guest.pid}) shut down"
    finally:
        guest.stop()


def test_other_targets_stay_served_when_one_ends(writer: Writer) -> None:
    with Writer(SIZE_BYTES) as other, serve(url_of(other), url_of(writer), web=True) as server:
        with Follower(server.connect(index=1)) as viewer:
            gone = server.connect(index=0)
            gone.refresh()
            os.kill(other.pid, signal.SIGKILL)
            with pytest.raises((Broken, ConnectionResetError)):
                gone.refresh()
            gone.close()
            writer.run()
            viewer.shows(picture_of(writer))
        ended = {report["target"]: report["ended"] for report in server.stop()}
        assert ended == {url_of(other): f"process {other.pid} exited", url_of(writer): None}


def test_view_only_session_ignores_keys(guest: Guest) -> None:
    guest.run("rm -f /tmp/view-only")
    with serve(guest.url, arguments=("--view-only",)) as server:
        with server.connect() as viewer:
            for key in (*b"touch /tmp/view-only", 0xFF0D):
                viewer.key(key, down=True)
                viewer.key(key, down=False)
            viewer.request(incremental=False)
            viewer.wait_update()
        server.stop()
    assert guest.run("test -e /tmp/view-only || echo none") == "none\n"


# ls


def test_ls_lists_urls_that_serve_accepts(guest: Guest) -> None:
    with Xvfb(width=320, height=200) as xvfb:
        listed = {found["url"]: found for found in json.loads(run("ls", "--json").out)}
        lines = [line.split(maxsplit=2) for line in run("ls").out.splitlines()]
        for url, pid in ((guest.url, guest.pid), (xvfb.url, xvfb.pid)):
            assert (listed[url]["pid"], listed[url]["tappable"], listed[url]["reason"]) == (pid, True, "")
            (words,) = (words for words in lines if words[0] == url)
            assert words[1] == str(pid)
            assert words[2].rstrip().endswith("yes")
            with serve(url) as server:
                server.stop()


# watch


def test_watch_prints_one_line_per_change(guest: Guest) -> None:
    painter = guest.spawn("fbtool draw 3 20")
    with started("watch", guest.url, "-n", "5") as program:
        finished = program.finish(None)
        assert finished.status == 0
        lines = finished.out.splitlines()
        assert len(lines) == 5
        for line in lines:
            found = re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} +(\d+) pages +(\d+) pixels  (.+)", line)
            assert found, line
            rects = [re.fullmatch(r"(\d+)x(\d+)\+\d+\+\d+", rect) for rect in found[3].split()]
            assert sum(int(rect[1]) * int(rect[2]) for rect in rects if rect) == int(found[2]) > 0
        assert re.fullmatch(rf"{re.escape(guest.url)} 1024x768, tracker hybrid: .+", finished.err.strip())
    guest.kill(painter)


@pytest.mark.parametrize("tracker", ["log", "compare"])
def test_watch_prints_json(guest: Guest, tracker: str) -> None:
    painter = guest.spawn("fbtool draw 3 20")
    finished = run("watch", guest.url, "--json", "--count", "5", "--tracker", tracker)
    guest.kill(painter)
    assert finished.status == 0
    assert finished.err == ""
    times = [line["time_s"] for line in finished.lines]
    assert len(times) == 5
    assert times == sorted(times)
    for line in finished.lines:
        assert (line["width"], line["height"], line["resized"]) == (1024, 768, False)
        assert line["pages"] > 0
        assert line["pixels"] == sum(width * height for _, _, width, height in line["rects"]) > 0
        assert all(x + w <= 1024 and y + h <= 768 for x, y, w, h in line["rects"])


def test_watch_ends_when_its_target_ends(writer: Writer) -> None:
    url = url_of(writer)
    writer.run_forever()
    with started("watch", url) as program:
        assert program.line()
        os.kill(writer.pid, signal.SIGKILL)
        finished = program.finish(None)
        assert finished.status == 0
        assert finished.err.splitlines()[1:] == [f"vramtap: {url}: process {writer.pid} exited"]


def test_watch_ends_when_its_reader_closes_the_pipe(writer: Writer) -> None:
    writer.run_forever()
    with started("watch", url_of(writer), "--json") as program:
        assert program.line()
        assert program.process.stdout is not None
        program.process.stdout.close()
        assert program.process.wait(PATIENCE_S) == 0
        assert program.log == ""


# screenshot


def test_screenshot_equals_the_screendump(guest: Guest, tmp_path: Path) -> None:
    file = tmp_path / "screen.png"
    for command in ("seq 1 50 >/dev/tty1", "fbtool mode 800 600 16; fbtool noise 1", "fbtool off"):
        guest.run(command)
        truth = guest.screendump()
        finished = run("screenshot", guest.url, "-o", file)
        assert (finished.status, finished.out) == (0, f"{file}: {truth.shape[1]}x{truth.shape[0]}\n")
        with Image.open(file) as image:
            red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.uint32), -1, 0)
        np.testing.assert_array_equal(red << np.uint32(16) | green << np.uint32(8) | blue, truth)


def test_screenshot_prints_json(writer: Writer, tmp_path: Path) -> None:
    file = tmp_path / "screen.png"
    finished = run("screenshot", url_of(writer), "--output", file, "--json")
    assert finished.lines == [{"target": url_of(writer), "file": str(file), "width": 640, "height": 480}]
    with Image.open(file) as image:
        assert image.size == (640, 480)


def test_screenshot_that_cannot_be_written_is_an_error(writer: Writer, tmp_path: Path) -> None:
    nowhere = tmp_path / "none" / "screen.png"
    assert_one_line(
        run("screenshot", url_of(writer), "-o", nowhere),
        1,
        rf"write {nowhere}: ENOENT \(check that the directory exists, .+\)",
    )
    assert_one_line(run("screenshot", url_of(writer), "-o", tmp_path), 1, rf"write {tmp_path}: EISDIR \(.+\)")
    assert list(tmp_path.iterdir()) == []


# Errors

BAD_TARGETS = {
    "unknown kind of target": (
        "qmu:/run/vm.qmp",
        2,
        r"target qmu:/run/vm\.qmp: 'qmu' is not a kind of .+",
    ),
    "no kind": ("/run/vm.qmp", 2, r"target /run/vm\.qmp: has no kind \(.+\)"),
    "unknown parameter": (
        "pid:1?adress=1",
        2,
        r"target pid:1\?adress=1: 'adress' is not a parameter of pid: \(did you mean address\? known: .+\)",
    ),
    "invalid mode": ("pid:1?address=1&mode=big", 2, r"target .+: mode=big is not WIDTHxHEIGHT .+"),
    "missing socket": (
        "qemu:/none",
        1,
        r"connect qemu:/none: no such socket \(start QEMU with -qmp .+\)",
    ),
    "file instead of socket": (f"qemu:{__file__}", 1, r"connect qemu:.+test_cli\.py: .+"),
    "missing file": ("shm:/none?mode=1x1", 1, r"attach shm:/none\?mode=1x1: .+"),
    "file too small": (
        f"shm:{__file__}?mode=4000x4000",
        1,
        r"attach .+: the file has \d+ bytes, the mode .+",
    ),
    "missing display": ("x11::64321", 1, r"connect :64321: no X server there .+"),
    "process that has exited": (
        f"pid:{1 << 22}?address=0x1000&mode=1x1",
        1,
        r"attach pid:4194304.+: no process .+",
    ),
}


@pytest.mark.parametrize(("target", "status", "line"), BAD_TARGETS.values(), ids=BAD_TARGETS)
def test_bad_target_is_a_one_line_error(target: str, status: int, line: str) -> None:
    assert_one_line(run("serve", target, *ANY_PORTS), status, line)


@pytest.mark.parametrize("command", ["watch", "screenshot"])
def test_watch_and_screenshot_report_the_same_errors(command: str, tmp_path: Path) -> None:
    more = {"watch": (), "screenshot": ("-o", str(tmp_path / "screen.png"))}[command]
    for name in ("unknown kind of target", "missing socket"):
        target, status, line = BAD_TARGETS[name]
        assert_one_line(run(command, target, *more), status, line)
    assert list(tmp_path.iterdir()) == []


def test_unmapped_address_is_an_error(writer: Writer) -> None:
    url = f"pid:{writer.pid}?address=0x1000&mode=64x64"
    assert_one_line(run("serve", url), 1, rf"attach {re.escape(url)}: .+")


def test_socket_without_qmp_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(PATIENCE_S)
        with started("serve", f"qemu:{path}") as program:
            monitor, _ = listener.accept()
            monitor.sendall(b"220 mail.example.org ESMTP\r\n")
            monitor.close()
            assert_one_line(program.finish(None), 1, rf"connect qemu:{path}: .+")


def test_device_without_linear_framebuffer_is_an_error() -> None:
    guest = Guest(vga="cirrus", video_mode="normal")
    guest.start()
    try:
        assert_one_line(run("serve", guest.url, *ANY_PORTS), 1, r"attach qemu:.+: .+ \(.*-vga std.*\)")
    finally:
        guest.stop()


def test_unknown_tracker_is_an_error(writer: Writer) -> None:
    known = ", ".join(map(repr, NAMES))
    assert_one_line(
        run("serve", url_of(writer), "--tracker", "magic"),
        2,
        rf"serve: Invalid value for '--tracker': 'magic' is not one of {known} \(see .+\)",
    )
