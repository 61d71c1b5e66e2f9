"""Take from this process every right that the program must not have.

The keeper calls these functions in a fresh interpreter with one thread, just before the program.
Nothing here can be undone. `reward.code.sandbox` describes the three levels.
"""

import ctypes
import errno
import os
import resource
import sys
from contextlib import suppress

from reward.code import seccomp

# The program works in this folder if it has a private root.
PRIVATE_FOLDER = "/program"
OLD_ROOT = "/old"
NOBODY = 65534
# Enough for a recursion of tens of thousands of calls through C, such as functools.cache.
STACK_BYTES = 64 << 20
OPEN_FILES = 64
BLOCK_BYTES = 4096

_libc = ctypes.CDLL(None, use_errno=True)

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
_MS_READ_ONLY, _MS_NO_SUID, _MS_NO_DEVICES, _MS_REMOUNT = 1, 2, 4, 32
_MS_BIND, _MS_RECURSIVE, _MS_PRIVATE = 4096, 16384, 1 << 18
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38
_SIGKILL = 9
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION = 0x20080522

# Landlock has the same system call numbers on every machine.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_REG = 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8
_TRUNCATE = 1 << 14
# Number of file rights, by version of Landlock's interface. Later versions add other rights.
_NUM_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_BIND_AND_CONNECT_TCP, _ABSTRACT_SOCKETS_AND_SIGNALS = 0b11, 0b11


class _CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _SockFprog(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def adopt_orphans() -> None:
    """Make this process the parent of orphans among the program's processes."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)


def enter_user_and_pid_namespaces() -> None:
    """Enter a user namespace, and a pid namespace whose first process is the next fork."""
    user, group = os.geteuid(), os.getegid()
    _check(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWPID), "unshare(user, pid)")
    # An ordinary user may map only itself. It may map its group only without setgroups().
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{NOBODY} {user} 1"),
        ("gid_map", f"{NOBODY} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def enter_private_root(file_bytes: int) -> None:
    """Leave the machine's network and files. Only the interpreter and an empty folder remain.

    Args:
        file_bytes: size of the folder. It is in memory and vanishes with the process.
    """
    _check(
        _libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS),
        "unshare(mount, net, ipc, uts)",
    )
    sources = {path: os.path.realpath(path) for path in readable_paths()}
    _mount(None, "/", None, _MS_RECURSIVE | _MS_PRIVATE)
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NO_SUID | _MS_NO_DEVICES, "size=1m,mode=755")
    os.chdir("/tmp")
    os.mkdir(f".{OLD_ROOT}")
    _check(_libc.pivot_root(b".", f".{OLD_ROOT}".encode()), "pivot_root")
    os.chdir("/")
    for path, source in sources.items():
        _show(OLD_ROOT + source, path)
    os.mkdir(PRIVATE_FOLDER)
    options = f"size={file_bytes},nr_inodes={file_bytes // BLOCK_BYTES + 2},mode=700"
    _mount("tmpfs", PRIVATE_FOLDER, "tmpfs", _MS_NO_SUID | _MS_NO_DEVICES, options)
    _check(_libc.umount2(OLD_ROOT.encode(), _MNT_DETACH), "umount2")
    os.rmdir(OLD_ROOT)
    _make_read_only("/")


def limit_resources(*, memory_bytes: int, cpu_seconds: int, file_bytes: int) -> None:
    """Set the limits of this process, which it cannot raise again.

    The limit on processes is not used: it counts all processes of the user, and does not hold for
    root.
    """
    stack = resource.getrlimit(resource.RLIMIT_STACK)[1]
    stack = STACK_BYTES if stack == resource.RLIM_INFINITY else min(stack, STACK_BYTES)
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_STACK, stack),
        (resource.RLIMIT_AS, memory_bytes),
    ):
        hard = resource.getrlimit(limit)[1]
        # A second later than the soft limit of CPU time, whose signal says what happened.
        above = value + 1 if limit == resource.RLIMIT_CPU and value else value
        value, above = (
            x if hard == resource.RLIM_INFINITY else min(x, hard) for x in (value, above)
        )
        resource.setrlimit(limit, (value, above))
    # If the machine has no memory left, it should end the program, not the grader.
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def drop_capabilities() -> None:
    """Give up every capability, and the way to regain one through a set-user-ID program."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    header = _CapabilityHeader(_CAPABILITY_VERSION, 0)
    _check(_libc.capset(ctypes.byref(header), (ctypes.c_uint32 * 6)()), "capset")


def landlock_version() -> int:
    """Return the version of Landlock's interface, or 0 if the kernel has none or forbids it."""
    version = _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 0 and ctypes.get_errno() not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
        _check(version, "landlock_create_ruleset")
    return max(version, 0)


def enter_landlock(version: int, folder: str) -> None:
    """Allow only reading the interpreter, and reading and writing plain files in `folder`."""
    rights = (1 << _NUM_FILE_RIGHTS[min(version, max(_NUM_FILE_RIGHTS))]) - 1
    handled = (ctypes.c_uint64 * 3)(rights, _BIND_AND_CONNECT_TCP, _ABSTRACT_SOCKETS_AND_SIGNALS)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _libc.syscall(_CREATE_RULESET, handled, ctypes.c_size_t(size), 0)
    _check(ruleset, "landlock_create_ruleset")
    admitted = {path: _READ_FILE | _READ_DIR for path in readable_paths()}
    admitted[folder] = _READ_FILE | _READ_DIR | _WRITE_FILE | _REMOVE_FILE | _MAKE_REG | _TRUNCATE
    admitted[os.devnull] = _READ_FILE | _WRITE_FILE | _TRUNCATE
    for path, access in admitted.items():
        if not os.path.isdir(path):
            access &= _READ_FILE | _WRITE_FILE | _TRUNCATE
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        # struct landlock_path_beneath_attr is packed: 64 bits for rights, 32 for the descriptor.
        rule = (access & rights).to_bytes(8, sys.byteorder) + descriptor.to_bytes(4, sys.byteorder)
        _check(_libc.syscall(_ADD_RULE, ruleset, 1, rule, 0), f"landlock_add_rule({path})")
        os.close(descriptor)
    _check(_libc.syscall(_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)


def enter_seccomp() -> None:
    """Install the filter of system calls in the kernel."""
    code = seccomp.program(os.uname().machine, os.getpid())
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(_SockFprog(len(code) // 8, code)))


def readable_paths() -> list[str]:
    """Return the paths of the interpreter and of the system's shared libraries, none nested."""
    installed = [os.path.join(prefix, "lib") for prefix in (sys.base_prefix, sys.base_exec_prefix)]
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", os.devnull]
    chosen: list[str] = []
    for path in sorted({*installed, os.path.dirname(os.__file__), *system}):
        if os.path.exists(path) and not any(path.startswith(f"{outer}/") for outer in chosen):
            chosen.append(path)
    return chosen


def _show(source: str, path: str) -> None:
    """Mount a file or folder of the old root read-only at `path`."""
    if os.path.isdir(source):
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with suppress(FileExistsError):
            os.mknod(path)
    _mount(source, path, None, _MS_BIND | _MS_RECURSIVE)
    if path != os.devnull:
        _make_read_only(path)


def _make_read_only(path: str) -> None:
    # Repeat the restrictions of the mount, otherwise the kernel refuses.
    kept = os.statvfs(path).f_flag & 0b1111
    flags = _MS_REMOUNT | _MS_BIND | _MS_READ_ONLY | _MS_NO_SUID | _MS_NO_DEVICES
    _mount(None, path, None, flags | kept)


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, options: str | None = None
) -> None:
    texts = [text and text.encode() for text in (source, target, kind, options)]
    result = _libc.mount(*texts[:3], ctypes.c_ulong(flags), texts[3])
    _check(result, f"mount {source or 'again'} on {target}")


def _prctl(option: int, *arguments: object) -> None:
    # Some options of prctl require unused arguments to be 0. All arguments are longs.
    values = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in (*arguments, 0, 0, 0)[:4]]
    _check(_libc.prctl(option, *values), f"prctl({option})")


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
