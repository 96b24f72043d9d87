"""Help text about TARGET, shared by the commands that take one."""

from __future__ import annotations

from typing import Final

TARGET_KINDS: Final = "qemu:, x11:, xen:, pid:, shm: or demo:"
TARGET_HELP: Final = """\b
TARGET is one of:
  qemu:SOCKET            QEMU guest, by the path of its QMP socket
  x11::N                 X display :N of an Xvfb
  xen:NAME, xen:ID       Xen HVM domain, from dom0
  pid:PID?address=0x...&mode=WxH
                         memory of a process
  shm:PATH?mode=WxH      file or shared memory
  demo:                  built-in VM

pid: and shm: also take format=, stride= and offset=, in bytes. demo: takes workload=, seed=, hz=, mode=,
frames=, cpu=, log= and image=.

`vramtap ls` lists the targets on this machine.
"""
"""Epilog of a command with a TARGET argument."""
