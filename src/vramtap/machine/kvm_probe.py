"""Trial of KVM: runs a guest of four instructions and checks that KVM's log reports its store."""

from __future__ import annotations

from typing import Final

import numpy as np

from vramtap.errors import VramtapError
from vramtap.machine.boot import prepare
from vramtap.machine.cpu import ExitKind, NoPorts
from vramtap.machine.kvm_cpu import KvmCpu
from vramtap.machine.kvm_log import LOG_FORMS
from vramtap.machine.layout import BOOT_PML4, BOOT_STACK, IMAGE_BASE, VRAM_BASE
from vramtap.machine.memory import GuestMemory
from vramtap.pages import PAGE_SIZE, PageRuns

_PAGE: Final = 77
_CODE: Final = (
    b"\xb8"
    + (VRAM_BASE + _PAGE * PAGE_SIZE).to_bytes(4, "little")
    + bytes.fromhex("f4 c60001 f4")  # mov eax, the page; hlt; mov byte [rax], 1; hlt
)


def probe_kvm() -> dict[str, str | None]:
    """Run a guest once for each form of KVM's log.

    Returns:
        For each form: None if the log reported the page that the guest stored into, once and no other page;
            else
        what was wrong.

    Raises:
        NotFound: this host has no KVM.
        Refused: this user may not use it.
        VramtapError: KVM runs no guest.
    """
    memory = GuestMemory()
    prepare(memory, "")
    memory.ram[IMAGE_BASE : IMAGE_BASE + len(_CODE)] = np.frombuffer(_CODE, dtype=np.uint8)
    # Every KVM has the first form: its failure is a failure of KVM, so its errors propagate.
    found = {LOG_FORMS[0]: _try(memory, LOG_FORMS[0])}
    for form in LOG_FORMS[1:]:
        try:
            found[form] = _try(memory, form)
        except VramtapError as error:
            found[form] = str(error)
    return found


def _try(memory: GuestMemory, form: str) -> str | None:
    cpu = KvmCpu(memory, NoPorts(), log=form)
    try:
        cpu.start_at(IMAGE_BASE, stack=BOOT_STACK, argument=0, tables=BOOT_PML4)
        cpu.vram_log.start()
        for _ in range(2):
            before = cpu.vram_log.fetch()
            stop = cpu.run()
            if stop.kind is not ExitKind.HALT:
                at = cpu.registers().rip
                raise VramtapError("KVM_RUN", "trial guest", f"{stop.detail or stop.kind.name} at {at:#x}")
        seen = cpu.vram_log.fetch()
        after = cpu.vram_log.fetch()
    finally:
        cpu.close()
    if before.pages or seen.pages != PageRuns([(_PAGE, _PAGE + 1)]) or after.pages:
        return f"the guest wrote page {_PAGE}, the log reported {before.pages}, {seen.pages}, {after.pages}"
    return None
