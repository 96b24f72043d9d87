"""VramLog on the real /dev/kvm: exact in each form, also with a full ring."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.kvm_guest import FORMS, KickingPorts, TinyMachine, enter_user_mode
from vramtap.errors import Refused, TargetGone
from vramtap.machine.cpu import Exit, ExitKind
from vramtap.machine.layout import BOOT_PML4, BOOT_STACK, IMAGE_BASE, VRAM_BASE
from vramtap.pages import PAGE_SIZE, PageRuns

KICKED = Exit(ExitKind.KICKED)

# mov eax, VRAM_BASE + 0x5000;
# 1: inc byte [rax]; inc byte [rax + 0x1000]; inc byte [rax + 0x400000]; hlt; jmp 1b
STORES = bytes.fromhex("b8005000e0 fe00 fe8000100000 fe8000004000 f4 ebef")
STORED = PageRuns([(5, 7), (1029, 1030)])
PAGES = 4096


@pytest.mark.parametrize("form", FORMS)
def test_log_reports_each_written_page_once(form: str) -> None:
    with TinyMachine(STORES, form) as tiny:
        tiny.until_halt()
        tiny.kvm.vram_log.start()
        assert not tiny.kvm.vram_log.has_pages()
        for _ in range(3):
            tiny.until_halt()
            assert tiny.kvm.vram_log.has_pages() in (True, None)
            fetched = tiny.kvm.vram_log.fetch()
            assert (fetched.pages, fetched.overflow) == (STORED, False)
            assert not tiny.kvm.vram_log.has_pages()
            assert tiny.kvm.vram_log.fetch().pages == PageRuns()


def test_manual_form_clears_only_the_fetched_range() -> None:
    with TinyMachine(STORES, "manual") as tiny:
        tiny.kvm.vram_log.start()
        tiny.until_halt()
        assert tiny.kvm.vram_log.fetch(6, 1000).pages == PageRuns([(6, 7)])
        assert tiny.kvm.vram_log.fetch().pages == PageRuns([(5, 6), (1029, 1030)])


LIST = 0x2_0000
"""Address of the list for the guest below: number of stores, then their offsets, 32 bits each."""
# 3: mov esi, LIST; lodsd; mov ecx, eax;
# 1: jrcxz 2f; lodsd; mov byte [rdi + rax], 1; dec ecx; jmp 1b; 2: out 0x10, al; jmp 3b
STORE_LIST = bytes.fromhex("be00000200 ad 89c1 e309 ad c6040701 ffc9 ebf5 e610 ebe9")


@pytest.mark.parametrize("ring", [0, 3])
@pytest.mark.parametrize("form", FORMS)
def test_log_is_exact(form: str, ring: int) -> None:
    with TinyMachine(STORE_LIST, form, ports=KickingPorts(lambda: tiny.kvm.kick())) as tiny:
        tiny.kvm.start_at(IMAGE_BASE, stack=BOOT_STACK, argument=VRAM_BASE, tables=BOOT_PML4)
        if ring == 3:
            enter_user_mode(tiny.memory, tiny.kvm)
        stores = tiny.memory.ram[LIST : LIST + 4 * 2000].view(np.uint32)
        tiny.kvm.vram_log.start()

        @settings(max_examples=40, deadline=None)
        @given(st.lists(st.sampled_from([*range(70), *range(500, 520), 4000, 4095]), max_size=300))
        def check(pages: list[int]) -> None:
            stores[0] = len(pages)
            stores[1 : len(pages) + 1] = [page * PAGE_SIZE + page % PAGE_SIZE for page in pages]
            assert tiny.kvm.run() == KICKED
            fetched = tiny.kvm.vram_log.fetch()
            assert (fetched.pages, fetched.overflow) == (PageRuns.from_pages(pages), False)

        check()


@pytest.mark.parametrize("form", FORMS)
def test_second_reader_is_refused_and_a_later_one_starts_empty(form: str) -> None:
    with TinyMachine(STORES, form) as tiny:
        tiny.kvm.vram_log.start()
        with pytest.raises(Refused, match="another tracker"):
            tiny.kvm.vram_log.start()
        tiny.until_halt()
        tiny.kvm.vram_log.stop()
        tiny.kvm.vram_log.stop()
        tiny.until_halt()
        tiny.kvm.vram_log.start()
        assert tiny.kvm.vram_log.fetch().pages == PageRuns()
        tiny.until_halt()
        assert tiny.kvm.vram_log.fetch().pages == STORED


# 3: mov edi, VRAM_BASE; mov ecx, 4096; 1: inc dword [rdi]; add edi, 4096; dec ecx; jnz 1b; hlt; jmp 3b
ALL_PAGES = bytes.fromhex("bf000000e0 b900100000 ff07 81c700100000 ffc9 75f4 f4 ebe7")


def test_full_ring_loses_no_page_or_reports_overflow() -> None:
    with TinyMachine(ALL_PAGES, "ring", ring_entries=1024) as tiny:
        tiny.kvm.vram_log.start()
        for turn in range(1, 6):
            tiny.until_halt()
            assert (tiny.memory.vram[::PAGE_SIZE] == turn).all()
            fetched = tiny.kvm.vram_log.fetch()
            assert fetched.overflow or fetched.pages == PageRuns.full(PAGES)
            assert tiny.kvm.vram_log.fetch().pages == PageRuns()


def test_default_ring_holds_all_pages() -> None:
    with TinyMachine(ALL_PAGES, "ring") as tiny:
        tiny.kvm.vram_log.start()
        for _ in range(3):
            tiny.until_halt()
            fetched = tiny.kvm.vram_log.fetch()
            assert (fetched.pages, fetched.overflow) == (PageRuns.full(PAGES), False)


@pytest.mark.parametrize("form", FORMS)
def test_closed_vm_raises_target_gone(form: str) -> None:
    with TinyMachine(STORES, form) as tiny:
        log = tiny.kvm.vram_log
        log.start()
        tiny.kvm.close()
        log.stop()
        for call in (log.start, log.fetch, log.has_pages):
            with pytest.raises(TargetGone, match="closed"):
                call()
