"""The seccomp filter of a container in the two shapes that runtimes take: OCI JSON, and ready BPF for crun.

Compiling takes milliseconds, so a filter is made once for each set of capabilities.
Sources: OCI runtime-spec, config-linux, seccomp; seccomp_rule_add(3) and its kin; crun(1), run.oci.seccomp_bpf_data.
"""

from __future__ import annotations

import base64
import ctypes
import errno
import functools
import os
import platform
from typing import Any, NamedTuple

import msgspec

from portlayer.substrates.linux import seccomp_profile as profile

_LIBRARY = "libseccomp.so.2"
_ALLOW = 0x7FFF_0000
_ERRNO = 0x0005_0000
_CONDITIONS = {"SCMP_CMP_NE": 1, "SCMP_CMP_EQ": 4, "SCMP_CMP_MASKED_EQ": 7}
_OPTIMIZE, _BINARY_TREE = 8, 2
_UNKNOWN = -1
# Architectures beside the machine's own whose programs it can run: name in OCI -> libseccomp's token.
_COMPATIBLE = {
    "x86_64": {"SCMP_ARCH_X86": 0x4000_0003, "SCMP_ARCH_X32": 0x4000_003E},
    "aarch64": {"SCMP_ARCH_ARM": 0x4000_0028},
    "s390x": {"SCMP_ARCH_S390": 0x16},
}
_OWN = {
    "x86_64": "SCMP_ARCH_X86_64",
    "aarch64": "SCMP_ARCH_AARCH64",
    "ppc64le": "SCMP_ARCH_PPC64LE",
    "riscv64": "SCMP_ARCH_RISCV64",
    "s390x": "SCMP_ARCH_S390X",
}


class Condition(NamedTuple):
    """Argument number `argument` compared with `value` (under `mask` for SCMP_CMP_MASKED_EQ)."""

    argument: int
    operator: str
    value: int
    mask: int = 0


class Rule(NamedTuple):
    """`errno` 0 allows the calls; else they fail with it. All conditions have to hold."""

    names: tuple[str, ...]
    errno: int = 0
    conditions: tuple[Condition, ...] = ()


def rules(capabilities: frozenset[str], machine: str) -> list[Rule]:
    """The profile for a process with *capabilities* (`CAP_...`); what no rule names fails with ENOSYS."""
    opened = [names for capability, names in profile.BY_CAPABILITY.items() if capability in capabilities]
    allowed = profile.ALWAYS.union(*opened) | profile.BY_MACHINE.get(machine, frozenset())
    conditional = _conditional(allowed, machine)
    gated = frozenset[str]().union(*profile.BY_CAPABILITY.values())
    elsewhere = profile.UNKNOWN_UNLESS_OPENED.union(*(rule.names for rule in conditional))
    refused = (gated | profile.NEVER) - allowed - elsewhere
    return [Rule(tuple(sorted(allowed))), *conditional, Rule(tuple(sorted(refused)), errno.EPERM)]


def _conditional(allowed: frozenset[str], machine: str) -> list[Rule]:
    found = [
        Rule(("socket",), 0, (Condition(0, "SCMP_CMP_NE", profile.AF_VSOCK),)),
        Rule(("socket",), errno.EPERM, (Condition(0, "SCMP_CMP_EQ", profile.AF_VSOCK),)),
        *(Rule(("personality",), 0, (Condition(0, "SCMP_CMP_EQ", value),)) for value in profile.PERSONALITIES),
    ]
    if "clone" not in allowed:
        flags = 1 if machine == "s390x" else 0
        made = sum(profile.NAMESPACE_FLAGS)
        found.append(Rule(("clone",), 0, (Condition(flags, "SCMP_CMP_MASKED_EQ", 0, made),)))
        found += [
            Rule(("clone",), errno.EPERM, (Condition(flags, "SCMP_CMP_MASKED_EQ", flag, flag),))
            for flag in profile.NAMESPACE_FLAGS
        ]
    return found


@functools.lru_cache(maxsize=64)
def oci(capabilities: frozenset[str]) -> msgspec.Raw:
    """`linux.seccomp` of a config.json."""
    machine = platform.machine()
    return msgspec.Raw(
        msgspec.json.encode(
            {
                "defaultAction": "SCMP_ACT_ERRNO",
                "defaultErrnoRet": errno.ENOSYS,
                "architectures": [_OWN[machine], *_COMPATIBLE.get(machine, {})],
                "syscalls": [_oci_rule(rule) for rule in rules(capabilities, machine)],
            }
        )
    )


def _oci_rule(rule: Rule) -> dict[str, Any]:
    encoded: dict[str, Any] = {
        "names": rule.names,
        "action": "SCMP_ACT_ERRNO" if rule.errno else "SCMP_ACT_ALLOW",
        "args": [_oci_condition(condition) for condition in rule.conditions],
    }
    return {**encoded, "errnoRet": rule.errno} if rule.errno else encoded


def _oci_condition(condition: Condition) -> dict[str, Any]:
    argument, operator, value, mask = condition
    if operator == "SCMP_CMP_MASKED_EQ":
        return {"index": argument, "op": operator, "value": mask, "valueTwo": value}
    return {"index": argument, "op": operator, "value": value}


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


@functools.lru_cache(maxsize=64)
def bpf(capabilities: frozenset[str]) -> str:
    """The filter as base64 of an array of `struct sock_filter`.

    Raises OSError where the library is not there or refuses.
    """
    machine = platform.machine()
    library = ctypes.CDLL(_LIBRARY)
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ERRNO | errno.ENOSYS)))
    try:
        # A balanced tree, for the kernel runs the filter once for every call number when it is loaded.
        _checked(library.seccomp_attr_set(context, _OPTIMIZE, ctypes.c_uint32(_BINARY_TREE)))
        for token in _COMPATIBLE.get(machine, {}).values():
            _checked(library.seccomp_arch_add(context, ctypes.c_uint32(token)))
        for rule in rules(capabilities, machine):
            _add(library, context, rule)
        return base64.b64encode(_export(library, context)).decode()
    finally:
        library.seccomp_release(context)


def _add(library: ctypes.CDLL, context: ctypes.c_void_p, rule: Rule) -> None:
    comparisons = (_Comparison * len(rule.conditions))(*map(_comparison, rule.conditions))
    action = ctypes.c_uint32(_ERRNO | rule.errno if rule.errno else _ALLOW)
    for name in rule.names:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number != _UNKNOWN:
            _checked(library.seccomp_rule_add_array(context, action, number, len(comparisons), comparisons))


def _comparison(condition: Condition) -> _Comparison:
    argument, operator, value, mask = condition
    operands = (mask, value) if operator == "SCMP_CMP_MASKED_EQ" else (value, 0)
    return _Comparison(argument, _CONDITIONS[operator], *operands)


def _export(library: ctypes.CDLL, context: ctypes.c_void_p) -> bytes:
    memory = os.memfd_create("seccomp")
    try:
        _checked(library.seccomp_export_bpf(context, memory))
        return os.pread(memory, os.fstat(memory).st_size, 0)
    finally:
        os.close(memory)


def _checked(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result), _LIBRARY)
