import os
import re
import struct
from pathlib import Path

import pytest

from reward.code import seccomp

UNISTD = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def evaluate(program, architecture, number, arguments=()):
    """Return the answer of a filter. This interprets the few instructions that filters use."""
    data = struct.pack("<iIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    steps = list(struct.iter_unpack("HBBI", program))
    held, at = 0, 0
    while True:
        code, if_true, if_false, value = steps[at]
        at += 1
        if code == 0x20:
            (held,) = struct.unpack_from("<I", data, value)
        elif code == 0x54:
            held &= value
        elif code == 0x06:
            return value
        else:
            met = held == value if code == 0x15 else held >= value
            at += if_true if met else if_false


ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x50001, 0x50026, 0x80000000


@pytest.mark.parametrize("machine", seccomp.AUDIT_ARCHITECTURE)
def test_the_filter_allows_and_refuses_the_intended_calls(machine):
    program, architecture = seccomp.program(machine, pid=7), seccomp.AUDIT_ARCHITECTURE[machine]
    is_x86 = machine == "x86_64"

    def answer(x86, arm, *arguments):
        return evaluate(program, architecture, x86 if is_x86 else arm, arguments)

    refused = {pair[0 if is_x86 else 1] for pair in seccomp.REFUSED.values()} - {None}
    assert {evaluate(program, architecture, number) for number in refused} == {EPERM}
    assert answer(0, 63) == answer(1, 64) == answer(9, 222) == answer(202, 98) == ALLOW
    assert answer(56, 220, 17) == EPERM and answer(56, 220, 0x3D0F00) == ALLOW
    assert answer(62, 129, 7, 15) == ALLOW and answer(62, 129, 8, 15) == EPERM
    assert answer(62, 129, 2**64 - 1, 9) == EPERM and answer(62, 129, 0, 9) == EPERM
    assert answer(302, 261, 0) == ALLOW and answer(302, 261, 7) == EPERM
    assert [answer(72, 25, 0, command) for command in (1, 4, 8, 15, 1030)] == [
        ALLOW,
        ALLOW,
        EPERM,
        EPERM,
        ALLOW,
    ]
    assert answer(257, 56, 3, 0, os.O_TRUNC) == EPERM
    assert answer(257, 56, 3, 0, os.O_TRUNC | os.O_WRONLY) == ALLOW
    assert [answer(n, n) for n in (425, 435, 436, 439, 600, 0x40000029)] == [
        ENOSYS,
        ENOSYS,
        ALLOW,
        ALLOW,
        ENOSYS,
        ENOSYS,
    ]
    assert evaluate(program, 0x40000003, 0) == KILL


def test_an_unknown_machine_is_refused():
    with pytest.raises(ValueError, match="riscv64"):
        seccomp.program("riscv64", 1)


@pytest.mark.parametrize("machine", seccomp.AUDIT_ARCHITECTURE)
def test_the_numbers_of_system_calls_are_the_kernels(machine):
    if not UNISTD[machine].exists():
        pytest.skip(f"no {UNISTD[machine]}")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\n", UNISTD[machine].read_text())
    numbers = {}
    for name, number in found:
        numbers.setdefault(name, int(number))
    column = list(seccomp.AUDIT_ARCHITECTURE).index(machine)
    for name, pair in seccomp.REFUSED.items():
        assert pair[column] == numbers.get(name), name
