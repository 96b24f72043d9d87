"""TARGET strings: what the user wrote, taken apart and checked before anything is opened.

    KIND:REST                      qemu:/run/vm.qmp    x11::99
    KIND:REST?NAME=VALUE&...       pid:812?address=0x7f3a10000000&mode=1024x768
    KIND:?NAME=VALUE&...           demo:?workload=scroll&seed=7

In REST and in values `%XX` stands for a byte, so that a path may hold a `?` (`%3F`).
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from vramtap.display.mode import MAX_DIMENSION, MAX_STRIDE_BYTES, Mode, PixelFormat
from vramtap.errors import ModeError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_URL_CHARS: Final = 8192
"""Longer than any path the kernel takes (PATH_MAX 4096), percent signs or not."""
_MAX_NUMBER: Final = (1 << 64) - 1

_GEOMETRY: Final = ("mode", "format", "stride", "offset")
_EXAMPLES: Final = {
    "qemu": "qemu:/run/vm.qmp",
    "x11": "x11::99",
    "pid": "pid:812?address=0x7f3a10000000&mode=1024x768",
    "shm": "shm:/dev/shm/screen?mode=1024x768",
    "xen": "xen:debian",
    "demo": "demo:?workload=video-window",
}
_PARAMETERS: Final[Mapping[str, tuple[str, ...]]] = {
    "qemu": (),
    "x11": (),
    "pid": ("address", *_GEOMETRY),
    "shm": _GEOMETRY,
    "xen": (),
    "demo": ("workload", "seed", "hz", "mode", "frames", "cpu", "log", "image"),
}
_NAMELESS: Final = frozenset({"demo"})
"""Kinds that need no more than their name."""
_SIZE: Final = re.compile(r"([0-9]{1,5})x([0-9]{1,5})", re.ASCII)
_GREYS: Final = tuple(level * 0x010101 for level in range(256))


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """A TARGET string, taken apart.

    Args:
        url: As the user wrote it.
        kind: What is tapped: `qemu`, `x11`, `pid`, `shm`, `xen`, `demo`.
        rest: What stands between the colon and the question mark: a path, a display, a pid;
            empty for `demo`.
        query: The parameters; only names that the kind knows.
    """

    url: str
    kind: str
    rest: str
    query: Mapping[str, str] = field(default_factory=dict)

    def number(self, name: str, default: int | None = None) -> int:
        """A parameter that is a number, decimal or with 0x, at most 64 bits.

        Args:
            name: Of the parameter.
            default: Taken when it was not given; None if it must be.

        Raises:
            UsageError: it is missing or no such number.
        """
        text = self.query.get(name)
        if text is None:
            if default is None:
                raise UsageError("target", self.url, f"{name}= is missing", f"as in {_EXAMPLES[self.kind]}")
            return default
        value = parse_number(text)
        if value is None:
            raise UsageError("target", self.url, f"{name}={text} is not a number", "decimal, or hex with 0x")
        return value

    def choice(self, name: str, known: Iterable[str], default: str) -> str:
        """A parameter that is one of a few words.

        Args:
            name: Of the parameter.
            known: The words.
            default: Taken when it was not given.

        Raises:
            UsageError: it is another word; says which may have been meant.
        """
        text = self.query.get(name, default)
        words = list(known)
        if text not in words and text != default:
            raise UsageError("target", self.url, f"{name}={text} is not known", _hint(text, words))
        return text

    def size(self) -> tuple[int, int]:
        """The width and height that `mode=WxH` gives, in pixels; each below 100,000.

        Raises:
            UsageError: it is missing or of another form.
        """
        text = self.query.get("mode", "")
        size = _SIZE.fullmatch(text)
        if size is None:
            what = f"mode={text} is not WIDTHxHEIGHT" if text else "mode= is missing"
            raise UsageError("target", self.url, what, f"as in {_EXAMPLES[self.kind]}")
        return int(size[1]), int(size[2])

    def mode(self) -> Mode:
        """The geometry that `mode=WxH&format=&stride=&offset=` give.

        Format is XR24 by default, stride a row of pixels, offset 0. `C8` has no colours of its own here
        and is shown as 256 levels of grey.

        Raises:
            UsageError: a parameter is missing, unknown or out of bounds.
        """
        width, height = self.size()
        name = self.query.get("format", PixelFormat.XR24.fourcc)
        known = {known.fourcc: known for known in PixelFormat}
        pixel_format = known.get(name.upper())
        if pixel_format is None:
            raise UsageError("target", self.url, f"format={name} is not known", _hint(name.upper(), known))
        # A row that is too wide is reported by Mode, not as a stride that nobody wrote.
        stride = self.number("stride", min(width, MAX_DIMENSION) * pixel_format.bytes_per_pixel)
        palette = _GREYS if pixel_format is PixelFormat.C8 else None
        try:
            return Mode(width, height, stride, pixel_format, self.number("offset", 0), palette)
        except ModeError as error:
            remedy = f"a side has at most {MAX_DIMENSION} pixels, a stride at most {MAX_STRIDE_BYTES} bytes"
            raise UsageError("target", self.url, error.reason, remedy) from error


def parse_number(text: str) -> int | None:
    """A number in decimal or with 0x, at most 64 bits; None for anything else."""
    # 20 digits hold 2**64; Python's int() would take underscores, signs, spaces and other scripts' digits.
    if not re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}", text, re.ASCII):
        return None
    value = int(text, 16) if text[:2] in ("0x", "0X") else int(text)
    return value if value <= _MAX_NUMBER else None


def parse(url: str) -> TargetSpec:
    """Take a TARGET string apart.

    Args:
        url: As the user wrote it.

    Returns:
        Its parts; the kind is known, the rest not empty, every parameter known to the kind.

    Raises:
        UsageError: it means nothing; says what is known and what may have been meant.
    """
    shown = url if len(url) <= 200 else url[:200] + "..."
    if len(url) > MAX_URL_CHARS or not url.isprintable():
        raise UsageError("target", repr(shown), f"is longer than {MAX_URL_CHARS} or not printable")
    kind, colon, tail = url.partition(":")
    if not colon or kind not in _PARAMETERS:
        what = f"{kind!r} is no kind of target" if colon else "has no kind"
        raise UsageError("target", shown, what, _hint(kind, _PARAMETERS, _examples()))
    rest, _, query = tail.partition("?")
    if bool(rest) == (kind in _NAMELESS):
        what = f"{rest!r} names nothing" if rest else f"nothing after {kind}:"
        raise UsageError("target", shown, what, f"as in {_EXAMPLES[kind]}")
    spec = TargetSpec(url, kind, unquote(rest), _parse_query(shown, kind, query))
    if "\0" in spec.rest:
        raise UsageError("target", shown, "holds a zero byte")
    return spec


def _parse_query(shown: str, kind: str, query: str) -> dict[str, str]:
    known = _PARAMETERS[kind]
    found: dict[str, str] = {}
    for part in query.split("&") if query else ():
        name, equals, value = part.partition("=")
        if name not in known:
            remedy = (
                _hint(name, known) if known else f"{kind}: takes no parameters; write %3F for ? in a path"
            )
            raise UsageError("target", shown, f"{name!r} is no parameter of {kind}:", remedy)
        if not equals or not value:
            raise UsageError("target", shown, f"{name}= has no value")
        if name in found:
            raise UsageError("target", shown, f"{name}= is given twice")
        found[name] = unquote(value)
    return found


def _hint(word: str, known: Iterable[str], listing: str = "") -> str:
    """What may have been meant, and all that is known."""
    names = list(known)
    close = difflib.get_close_matches(word[:64], names, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    return f"{meant}known: {listing or ', '.join(names)}"


def _examples() -> str:
    return ", ".join(_EXAMPLES.values())
