"""The system calls that a sandboxed program is refused, as a seccomp filter.

The namespaces already keep a program in; this makes less of the kernel reachable from there: what
looks into other processes, what holds memory that no limit counts (`memfd_create`, keys), what has
often been a way out (`io_uring`, `bpf`, `userfaultfd`, mounting, namespaces of its own), and every
family of sockets but Unix and IP ones: `AF_VSOCK` leaves a virtual machine without any network. A
refused call is EPERM; `clone3`, whose flags no filter can see, looks as if there were none.
"""

from __future__ import annotations

import errno
import platform
import socket
import struct

# Numbers on x86_64 and on aarch64.
_REFUSED = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "perf_event_open": (298, 241),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "quotactl": (179, 60),
    "acct": (163, 89),
    "swapon": (167, 224),
    "reboot": (169, 142),
    "syslog": (103, 116),
    "personality": (135, 92),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
}
_CLONE = (56, 220)
_CLONE3 = (435, 435)
_NAMESPACES = 0x7E020000
"""The flags of `clone` that make namespaces: CLONE_NEW…"""
_SOCKET = (41, 198)
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column of the table, and the kernel's name of the architecture (AUDIT_ARCH_…)."""
_X32 = 0x40000000
"""Calls from this number on are x86_64's second set, which would pass by the table."""

# Classic BPF, linux/filter.h: load a word of seccomp_data; jump if equal, not below, if any of the
# bits is set; return.
_LOAD, _JUMP_EQUAL, _JUMP_FROM, _JUMP_ANY, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
_MISSING = 0x00050000 | errno.ENOSYS


def system_call_filter(machine: str | None = None) -> bytes:
    """Return the program for the kernel. Raises OSError on machines it has no table for."""
    machine = machine or platform.machine()
    if machine not in _MACHINES:
        raise OSError(errno.ENOSYS, f"no system call filter for {machine}")
    column, architecture = _MACHINES[machine]
    refused = [numbers[column] for numbers in _REFUSED.values()]
    families = len(_FAMILIES)
    refuse = len(refused) + 6 + families  # so many steps after the test for x32
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_FROM, refuse, 0, _X32),
        *((_JUMP_EQUAL, refuse - 1 - place, 0, call) for place, call in enumerate(refused)),
        (_JUMP_EQUAL, families + 7, 0, _CLONE3[column]),
        (_JUMP_EQUAL, 0, 2, _CLONE[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_JUMP_ANY, families + 2, families + 3, _NAMESPACES),
        (_JUMP_EQUAL, 0, families + 2, _SOCKET[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        *((_JUMP_EQUAL, families - place, 0, each) for place, each in enumerate(_FAMILIES)),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _MISSING),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
