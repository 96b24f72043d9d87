"""Domains through `xl`: create them from a template, find them, wait for them, destroy them."""

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
"""Directory in dom0 with the disks and initramfs of its guests."""
TEMPLATES: Final = Path(__file__).resolve().parents[1] / "guest"
XL_TIMEOUT_S: Final = 90.0
"""Time limit for `xl`, to end a hang. `xl create` takes 3 s in the emulated host."""
POLL_S: Final = 0.002

T = TypeVar("T")


def xl(*arguments: str) -> str:
    """Run `xl`.

    Returns:
        Its standard output.

    Raises:
        DriverError: `xl` fails, or takes longer than `XL_TIMEOUT_S`.
    """
    command = f"xl {' '.join(arguments)}"
    try:
        done = subprocess.run(
            ["xl", *arguments], capture_output=True, text=True, timeout=XL_TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise DriverError(f"{command}: xl not found (run this in dom0)") from error
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
        values: The values for its placeholders, including `name`.
        paused: Create the domain paused, for `xl unpause`.

    Returns:
        The domain's id.

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
    """Return the id of the domain with that name.

    Raises:
        DriverError: No domain has that name.
    """
    return int(xl("domid", name))


def find(name: str) -> int | None:
    """Return the id of the domain with that name, or None."""
    try:
        return domid_of(name)
    except DriverError:
        return None


def destroy(domid: int) -> None:
    """Destroy a domain if it still exists."""
    if str(domid) in ids():
        xl("destroy", str(domid))


def ids() -> set[str]:
    """Return the ids of all domains that `xl list` shows, including dom0."""
    return {line[40:].split()[0] for line in xl("list").splitlines()[1:]}


def wait_for(what: str, poll: Callable[[], T | None], timeout_s: float, every_s: float = POLL_S) -> T:
    """Poll until there is an answer.

    The boot-sector guest has no event channel and cannot signal dom0, and `xl` sends no events. Only polling
    remains.

    Args:
        what: The name of the awaited event, for the message.
        poll: Returns the answer, or None while there is none.
        timeout_s: The time limit.
        every_s: The pause between two polls.

    Raises:
        DriverError: The time is up without an answer.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        answer = poll()
        if answer is not None:
            return answer
        if time.monotonic() > deadline:
            raise DriverError(f"{what}: did not happen in {timeout_s:.0f} s")
        time.sleep(every_s)
