"""Parsing of TARGET strings."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vramtap.display.mode import MAX_DIMENSION, PixelFormat
from vramtap.errors import UsageError
from vramtap.targets.url import MAX_URL_CHARS, TargetSpec, format_url, parse, parse_number


@pytest.mark.parametrize(
    ("url", "kind", "rest", "query"),
    [
        ("qemu:/run/vm.qmp", "qemu", "/run/vm.qmp", {}),
        ("qemu:relative.qmp", "qemu", "relative.qmp", {}),
        ("x11::99", "x11", ":99", {}),
        ("x11::99.1", "x11", ":99.1", {}),
        ("pid:812?address=0x7f00&mode=4x2", "pid", "812", {"address": "0x7f00", "mode": "4x2"}),
        ("shm:/dev/shm/a%3Fb?mode=4x2", "shm", "/dev/shm/a?b", {"mode": "4x2"}),
        ("shm:/dev/shm/a?", "shm", "/dev/shm/a", {}),
        ("shm:/tmp/100%/x", "shm", "/tmp/100%/x", {}),
        ("demo:", "demo", "", {}),
        ("demo:?seed=7&image=/a%26b", "demo", "", {"seed": "7", "image": "/a&b"}),
    ],
)
def test_a_target_string_is_parsed(url: str, kind: str, rest: str, query: dict[str, str]) -> None:
    assert parse(url) == TargetSpec(url, kind, rest, query)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", r"has no kind.*known: qemu:"),
        ("/run/vm.qmp", r"has no kind"),
        ("qmeu:/run/vm.qmp", r"'qmeu' is not a kind of target \(did you mean qemu\? known: qemu:"),
        ("vnc:1", r"not a kind of target \(known: "),
        ("qemu:", r"nothing after qemu: \(as in qemu:/run/vm.qmp\)"),
        ("x11:?", r"nothing after x11:"),
        ("demo:caret", r"unexpected 'caret' after demo: \(as in demo:\?workload=video-window\)"),
        (
            "pid:1?adress=1",
            r"'adress' is not a parameter of pid: \(did you mean address\? known: address, mode,",
        ),
        ("shm:/x?address=1", r"'address' is not a parameter of shm:"),
        ("qemu:/a?b", r"qemu: takes no parameters; write %3F"),
        ("pid:1?mode", r"mode= has no value"),
        ("pid:1?mode=", r"mode= has no value"),
        ("pid:1?mode=1x1&mode=2x2", r"mode= is given twice"),
        ("pid:1?&", r"'' is not a parameter"),
        ("shm:a%00b?mode=1x1", r"zero byte"),
        ("shm:a\nb", r"not printable"),
        ("shm:" + "a" * MAX_URL_CHARS, r"is longer than"),
    ],
)
def test_an_invalid_string_is_refused_with_what_is_valid(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse(url)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_an_unknown_kind_is_refused_with_all_kinds() -> None:
    with pytest.raises(UsageError) as caught:
        parse("vbox:1")
    assert all(f"{kind}:" in caught.value.remedy for kind in ("qemu", "x11", "xen", "pid", "shm", "demo"))


@given(st.sampled_from(["qemu", "x11", "xen"]), st.text(min_size=1, max_size=40))
def test_format_url_is_the_inverse_of_parse(kind: str, rest: str) -> None:
    url = format_url(kind, rest)
    assume(url.isprintable() and "\0" not in rest)
    assert parse(url) == TargetSpec(url, kind, rest)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("4096", 4096),
        ("0x1000", 4096),
        ("0XfF", 255),
        ("0xffffffffffffffff", 2**64 - 1),
        ("18446744073709551615", 2**64 - 1),
        ("18446744073709551616", None),
        ("99999999999999999999", None),
        ("0x10000000000000000", None),
        ("-1", None),
        ("+1", None),
        (" 1", None),
        ("1_0", None),
        ("0x", None),
        ("1e3", None),
        ("\u0661", None),
        ("", None),
    ],
)
def test_parse_number(text: str, value: int | None) -> None:
    assert parse_number(text) == value


def test_a_mode_has_defaults() -> None:
    mode = parse("pid:1?mode=640x480").mode()
    assert (mode.width, mode.height, mode.stride_bytes) == (640, 480, 2560)
    assert (mode.format, mode.offset_bytes, mode.palette) == (PixelFormat.XR24, 0, None)


def test_all_parameters_of_a_mode_are_read() -> None:
    mode = parse("shm:/x?mode=640x480&format=rg16&stride=0x600&offset=4100").mode()
    assert (mode.stride_bytes, mode.format, mode.offset_bytes) == (1536, PixelFormat.RG16, 4100)


def test_c8_is_shown_as_grey() -> None:
    palette = parse("shm:/x?mode=8x8&format=C8").mode().palette
    assert palette is not None
    assert palette[:2] == (0, 0x010101)
    assert palette[255] == 0xFFFFFF


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", r"mode= is missing \(as in pid:"),
        ("?mode=640", r"mode=640 is not WIDTHxHEIGHT"),
        ("?mode=640x480x24", r"is not WIDTHxHEIGHT"),
        ("?mode=0x480", r"width 0 is outside"),
        ("?mode=1x99999", r"height 99999 is outside"),
        (f"?mode={MAX_DIMENSION + 1}x1", r"width 16385 is outside"),
        ("?mode=16384x16384", r"pixels 268435456 is outside"),
        ("?mode=640x480&format=RX24", r"format=RX24 is not known \(did you mean XR24\? known: XR24, AR24"),
        ("?mode=640x480&stride=2559", r"stride 2559 is outside 2560"),
        ("?mode=640x480&stride=-1", r"stride=-1 is not a number"),
        ("?mode=640x480&offset=0xffffffffffffffff", r"offset 18446744073709551615 is outside"),
    ],
)
def test_a_mode_out_of_bounds_is_refused(query: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse("pid:1" + query).mode()


def test_a_required_number_is_missing() -> None:
    with pytest.raises(UsageError, match=r"address= is missing \(as in pid:"):
        parse("pid:1?mode=1x1").number("address")


@given(
    st.text(max_size=60)
    | st.from_regex(r"(qemu|x11|pid|shm|demo):[^\n]{0,20}\?[a-z=&0-9x%]{0,40}", fullmatch=True)
)
def test_any_text_is_parsed_or_refused(text: str) -> None:
    message = ""
    try:
        spec = parse(text)
        end = spec.mode().end_bytes if spec.kind in ("pid", "shm") else 1
    except UsageError as error:
        end, message = 0, str(error)
    assert end > 0 or (message and "\n" not in message)
