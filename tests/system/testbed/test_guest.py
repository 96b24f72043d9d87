"""Tests of the real guest that other tests use."""

from __future__ import annotations

import numpy as np
import pytest

from support.testbed.errors import TestbedError
from support.testbed.guest import PROMPT, TABLET, Guest


def test_boots_into_a_console_with_a_prompt(fresh_guest: Guest) -> None:
    fresh_guest.quiet()
    booted = fresh_guest.screendump()
    assert booted.shape == (768, 1024)
    assert 1000 < np.count_nonzero(booted) < booted.size // 4
    assert (
        fresh_guest.run("dmesg | grep -c 'Console: switching to colour frame buffer device 128x48'") == "1\n"
    )


def test_run_returns_output_and_checks_status(guest: Guest) -> None:
    assert guest.run("echo one; echo two >&2; printf three") == "one\ntwo\nthree"
    assert guest.run("true") == ""
    with pytest.raises(TestbedError, match="exit status 3: said so"):
        guest.run("echo said so; exit 3")
    with pytest.raises(TestbedError, match="no end after 0 s"):
        guest.run("usleep 300000", timeout_s=0)
    # Output of the command that ran into its limit is dropped.
    assert guest.run("echo still here") == "still here\n"


def test_screen_does_not_change_after_quiet(guest: Guest) -> None:
    first = guest.screendump_once()
    guest.run("sleep 1")
    np.testing.assert_array_equal(guest.screendump_once(), first)


def test_single_pixels_and_fills(guest: Guest) -> None:
    guest.run("fbtool fill 0x203040")
    guest.run("fbtool edges 0xFFFFFF")
    guest.run("fbtool pixel 100 200 0xABCDEF")
    expected = np.full((768, 1024), 0x203040, np.uint32)
    for y, x in (
        (0, 0),
        (0, -1),
        (-1, 0),
        (-1, -1),
        (0, 512),
        (-1, 512),
        (384, 0),
        (384, -1),
        (1, 1),
        (-2, -2),
    ):
        expected[y, x] = 0xFFFFFF
    expected[200, 100] = 0xABCDEF
    np.testing.assert_array_equal(guest.screendump(), expected)


def test_noise_is_the_same_for_the_same_seed(guest: Guest) -> None:
    guest.run("fbtool noise 5 1")
    first = guest.screendump()
    guest.run("fbtool noise 6")
    second = guest.screendump()
    guest.run("fbtool noise 5")
    np.testing.assert_array_equal(guest.screendump(), first)
    assert np.count_nonzero(first != second) > first.size * 0.99


def test_scroll_moves_the_picture(guest: Guest) -> None:
    guest.run("fbtool noise 9")
    before = guest.screendump()
    guest.run("fbtool scroll 16 3")
    np.testing.assert_array_equal(guest.screendump()[:-48], before[48:])


@pytest.mark.parametrize(
    ("width", "height", "bits"),
    [(800, 600, 32), (640, 480, 24), (1280, 720, 16), (800, 600, 15), (640, 480, 8)],
)
def test_fbtool_sets_the_mode(guest: Guest, width: int, height: int, bits: int) -> None:
    guest.run(f"fbtool mode {width} {height} {bits}")
    guest.run("fbtool palette 1")
    guest.run("fbtool noise 2")
    dump = guest.screendump()
    assert dump.shape == (height, width)
    assert len(np.unique(dump)) > 200


def test_offset_shows_another_part_of_the_virtual_screen(guest: Guest) -> None:
    guest.run("fbtool mode 800 600 32 1024 1200")
    guest.run("fbtool noise 4")
    whole = guest.screendump()
    guest.run("fbtool offset 8 100")
    np.testing.assert_array_equal(guest.screendump()[:500, :792], whole[100:, 8:])


def test_flip_shows_the_hidden_page(guest: Guest) -> None:
    guest.run("fbtool flip 1 3")
    assert "y_offset=768" in guest.run("fbtool info")
    first = guest.screendump()
    guest.run("fbtool flip 1 4")
    assert "y_offset=0" in guest.run("fbtool info")
    assert (guest.screendump() != first).any()
    assert len(np.unique(first)) == 2


def test_guest_survives_random_display_registers(guest: Guest) -> None:
    for seed in range(3):
        assert guest.run(f"fbtool random-dispi {seed} 2000").startswith("id=")
    guest.restore()
    assert guest.screendump().shape == (768, 1024)


def test_draws_until_killed(guest: Guest) -> None:
    before = guest.screendump()
    painter = guest.spawn("fbtool draw 1 1")
    pictures = (guest.screendump_once() for _ in range(1000))
    assert any((picture != before).any() for picture in pictures)
    assert guest.run(f"test -d /proc/{painter} && echo painting") == "painting\n"
    guest.kill(painter)
    np.testing.assert_array_equal(guest.screendump(), guest.screendump())


def test_show_writes_on_the_console(guest: Guest) -> None:
    before = guest.screendump()
    guest.show("it's 100% \\ here\nand there")
    changed = np.flatnonzero((guest.screendump() != before).any(axis=1))
    assert changed.min() < 16
    assert 16 <= changed.max() < 64


def test_typed_keys_reach_the_console_shell(guest: Guest) -> None:
    guest.run("rm -f /tmp/typed")
    guest.prompt()
    # echo abc >/tmp/typed
    keys = [*"echo", "spc", *"abc", "spc", "shift dot", "slash", *"tmp", "slash", *"typed", "ret"]
    for held in keys:
        pressed = [{"type": "qcode", "data": key} for key in held.split()]
        guest.monitor.execute("send-key", keys=pressed)
    guest.until("test -s /tmp/typed")
    assert guest.run("cat /tmp/typed") == "abc\n"


def test_prompt_drops_characters_without_enter(guest: Guest) -> None:
    guest.prompt()
    guest.monitor.execute("send-key", keys=[{"type": "qcode", "data": "x"}])
    guest.await_console(f"{PROMPT}x")
    guest.prompt()
    assert f"{PROMPT}x" not in guest.run("cat /dev/vcs1")


def test_type_sends_a_line_in_parts_and_then_enter(guest: Guest) -> None:
    names = {" ": "spc", "\n": "ret"}
    parts: list[str] = []

    def send(part: str) -> None:
        parts.append(part)
        for character in part:
            key = {"type": "qcode", "data": names.get(character, character)}
            guest.monitor.execute("send-key", keys=[key])

    guest.type("echo abc defg", send)
    assert "".join(parts) == "echo abc defg\n"
    assert max(map(len, parts)) * 4 <= 16
    # The console has 128 columns: the answer fills a line of its own, before the next prompt.
    guest.await_console("abc defg".ljust(128) + PROMPT.rstrip())


def test_reboots_and_resets(fresh_guest: Guest) -> None:
    fresh_guest.run("touch /tmp/mark")
    fresh_guest.reboot()
    assert fresh_guest.run("test -e /tmp/mark || echo gone") == "gone\n"
    fresh_guest.run("touch /tmp/mark")
    fresh_guest.reset()
    fresh_guest.wait_ready()
    assert fresh_guest.run("test -e /tmp/mark || echo gone") == "gone\n"


def test_pointer_events_arrive() -> None:
    with Guest(TABLET) as guest:
        guest.run("load-input")
        guest.spawn("sh -c 'fbtool input 2 >/tmp/input'")
        guest.run("until grep -q listening /tmp/input; do usleep 20000; done")
        position = [{"type": "abs", "data": {"axis": axis, "value": 16384}} for axis in ("x", "y")]
        guest.monitor.execute("input-send-event", events=position)
        seen = guest.run("until test $(wc -l </tmp/input) -ge 3; do usleep 20000; done; cat /tmp/input")
        assert sorted(line.split()[0] for line in seen.splitlines()[1:]) == ["abs", "abs"]


def test_failed_start_reports_the_output_of_qemu() -> None:
    with (
        pytest.raises(TestbedError, match=r"QEMU did not start: .*no-such-device"),
        Guest(("-device", "no-such-device")),
    ):
        pass


def test_command_fails_after_qemu_has_ended(fresh_guest: Guest) -> None:
    fresh_guest.monitor.execute("quit")
    assert fresh_guest.wait_end() == 0
    assert not fresh_guest.running
    with pytest.raises(TestbedError, match="guest: "):
        fresh_guest.run("true")
