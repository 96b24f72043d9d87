"""Domains by `xl`: created from a template, found by name, waited for, destroyed."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from xen.dom0.driver_errors import DriverError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

GUESTS: Final = Path(os.environ.get("VRAMTAP_XEN_GUESTS", "/guests"))
"""Where dom0 holds the disks and initramfs of its guests."""
TEMPLATES: Final = Path(__file__).resolve().parents[1] / "guest"
XL_TIMEOUT_S: Final = 90.0
"""`xl create` takes 3 s in the emulated host; a hang must still end."""
POLL_S: Final = 0.002

T = TypeVar("T")


def xl(*arguments: str) -> str:
    """Run `xl`.

    Returns:
        What it wrote to its standard output.

    Raises:
        DriverError: it fails, or takes more than `XL_TIMEOUT_S`.
    """
    command = f"xl {' '.join(arguments)}"
    try:
        done = subprocess.run(
            ["xl", *arguments], capture_output=True, text=True, timeout=XL_TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise DriverError(f"{command}: no xl here (this runs in dom0 only)") from error
    except subprocess.TimeoutExpired as error:
        raise DriverError(f"{command}: not done after {XL_TIMEOUT_S:.0f} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise DriverError(f"{command}: exit status {done.returncode}: {said}")
    return done.stdout


def create(template: str, values: Mapping[str, object], *, paused: bool = False) -> int:
    """Create a domain.

    Args:
        template: The name of a file in tests/xen/guest.
        values: What stands in its braces; `name` among them.
        paused: Leave it paused, as `xl unpause` expects it.

    Returns:
        Its id.

    Raises:
        DriverError: `xl` fails.
    """
    text = (TEMPLATES / template).read_text().format_map(values)
    with tempfile.NamedTemporaryFile("w", suffix=".cfg") as config:
        config.write(text)
        config.flush()
        xl("create", "-q", *(["-p"] if paused else []), config.name)
    return domid_of(str(values["name"]))


def domid_of(name: str) -> int:
    """The id of the domain of that name.

    Raises:
        DriverError: there is none.
    """
    return int(xl("domid", name))


def find(name: str) -> int | None:
    """The id of the domain of that name, or None."""
    try:
        return domid_of(name)
    except DriverError:
        return None


def destroy(domid: int) -> None:
    """Destroy a domain; one that is gone already is fine."""
    if str(domid) in ids():
        xl("destroy", str(domid))


def ids() -> set[str]:
    """The ids of all domains that `xl list` shows, dom0's among them."""
    return {line[40:].split()[0] for line in xl("list").splitlines()[1:]}


def wait_for(what: str, poll: Callable[[], T | None], timeout_s: float, every_s: float = POLL_S) -> T:
    """Poll until there is an answer.

    The boot-sector guest has no way to signal dom0 (it has no event channel), and `xl` is asked, not listened
    to: polling with a short sleep is all there is.

    Args:
        what: What is waited for, for the message.
        poll: Gives the answer, or None while there is none.
        timeout_s: How long to go on.
        every_s: The pause between two polls.

    Raises:
        DriverError: there is no answer by then.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        answer = poll()
        if answer is not None:
            return answer
        if time.monotonic() > deadline:
            raise DriverError(f"{what}: not after {timeout_s:.0f} s")
        time.sleep(every_s)
