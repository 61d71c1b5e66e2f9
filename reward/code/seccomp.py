"""Build the filter of system calls for a program in the sandbox, in the kernel's classic BPF.

The filter refuses calls that act outside the process, that outlive it, or that neither namespaces
nor Landlock control: sockets, new processes, signals to others, shared memory, changes of a file's
owner or mode. Reading, writing, memory and threads stay allowed. This needs no library. The numbers
are those of Linux on x86_64 and aarch64.
"""

import errno
import struct
from typing import NamedTuple


class Arguments(NamedTuple):
    """Refuse a call if `argument & mask` equals `value`; with `unless`, if it does not."""

    index: int
    mask: int
    value: int
    unless: bool = False


AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# Name: numbers on x86_64 and aarch64. None means that the machine lacks the call.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    # sendto() takes an address, so a pair could reach any other socket.
    "socketpair": (53, 199),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "syslog": (103, 116),
    "io_setup": (206, 0),
    # These make memory that outlives the process or that no limit counts.
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    # Landlock does not control these. Its oldest version does not control truncation either.
    "truncate": (76, 45),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
}

CLONE_THREAD = 0x10000
ACCESS_AND_TRUNCATE, TRUNCATE_UNWRITTEN = 0o1003, 0o1000

# From here on, numbers are the same on every machine and new calls appear. All are refused as
# unknown, and libc then uses older calls. The exceptions are close_range, faccessat2, epoll_pwait2
# and futex_waitv.
FIRST_RECENT = 424
RECENT_ALLOWED = (436, 439, 441, 449)

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data


def program(machine: str, pid: int) -> bytes:
    """Return the filter for the process `pid`: an array of struct sock_filter.

    Raises:
        ValueError: the system calls of this machine are not known here.
    """
    if machine not in AUDIT_ARCHITECTURE:
        raise ValueError(
            f"the machine is {machine!r}; the filter knows {', '.join(AUDIT_ARCHITECTURE)}. "
            f"Grade code on one of them."
        )
    column = list(AUDIT_ARCHITECTURE).index(machine)
    steps = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_JUMP_EQUAL, AUDIT_ARCHITECTURE[machine], if_true=1),
        _step(_RETURN, _KILL_PROCESS),
        _step(_LOAD, _NUMBER),
    ]
    for number in RECENT_ALLOWED:
        steps += [_step(_JUMP_EQUAL, number, if_false=1), _step(_RETURN, _ALLOW)]
    steps += [
        _step(_JUMP_AT_LEAST, FIRST_RECENT, if_false=1),
        _step(_RETURN, _ERRNO | errno.ENOSYS),
    ]
    for numbers in REFUSED.values():
        if (number := numbers[column]) is not None:
            steps += [_step(_JUMP_EQUAL, number, if_false=1), _step(_RETURN, _ERRNO | errno.EPERM)]
    for numbers, arguments in _refused_arguments(pid):
        if (number := numbers[column]) is not None:
            steps += _refuse_arguments(number, arguments)
    steps.append(_step(_RETURN, _ALLOW))
    return b"".join(steps)


def _refused_arguments(pid: int) -> list[tuple[tuple[int | None, int | None], Arguments]]:
    """Return pairs of a call's numbers and the arguments with which it is refused."""
    only_itself = Arguments(0, 0xFFFFFFFF, pid, unless=True)
    return [
        ((56, 220), Arguments(0, CLONE_THREAD, 0)),  # clone: only for threads
        ((62, 129), only_itself),  # kill
        ((234, 131), only_itself),  # tgkill
        ((302, 261), Arguments(0, 0xFFFFFFFF, 0, unless=True)),  # prlimit64: only its own
        ((72, 25), Arguments(1, 0xFFFFFFF8, 8)),  # fcntl: F_SETOWN and its like send signals
        ((2, None), Arguments(1, ACCESS_AND_TRUNCATE, TRUNCATE_UNWRITTEN)),  # open
        ((257, 56), Arguments(2, ACCESS_AND_TRUNCATE, TRUNCATE_UNWRITTEN)),  # openat
    ]


def _refuse_arguments(number: int, arguments: Arguments) -> list[bytes]:
    """Return the steps of the filter that refuse these arguments of a call."""
    refused, allowed = (1, 0) if arguments.unless else (0, 1)
    return [
        _step(_JUMP_EQUAL, number, if_false=5),
        _step(_LOAD, _ARGUMENTS + 8 * arguments.index),  # the low half (little-endian)
        _step(_AND, arguments.mask),
        _step(_JUMP_EQUAL, arguments.value, if_true=refused, if_false=allowed),
        _step(_RETURN, _ERRNO | errno.EPERM),
        _step(_RETURN, _ALLOW),
    ]


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
