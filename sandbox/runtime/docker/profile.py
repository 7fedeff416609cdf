"""Docker's form of our table of system calls.

The same table as the embedded runtime's filter, as far as Docker's format can say it: what it cannot (a comparison of
half a register) is in the filter itself, which every kernel loads on top of this one.
"""

import json
import os
from typing import Any

from sandbox.runtime.embedded import seccomp

_ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_EPERM, _EINVAL, _ENOSYS = 1, 22, 38
_OPENAT2 = "openat2"
"""Init's; a kernel's own filter hides it."""


def profile() -> str:
    """The JSON for `SecurityOpt: ["seccomp=…"]`."""
    conditional = seccomp.CONDITIONS.keys()
    plain = sorted(({*seccomp.ALLOWED} - conditional) | {_OPENAT2})
    rules: list[dict[str, Any]] = [{"names": plain, "action": "SCMP_ACT_ALLOW"}]
    for name, conditions in seccomp.CONDITIONS.items():
        rules += [_rule(name, condition) for condition in conditions]
    # libzmq aborts the process on another error.
    rules.append(
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": _EINVAL,
            "args": [{"index": 0, "value": seccomp.AF_NETLINK, "op": "SCMP_CMP_EQ"}],
        }
    )
    absent = sorted({*seccomp.ABSENT} - {_OPENAT2})
    rules.append({"names": absent, "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS})
    machine = os.uname().machine
    return json.dumps(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": _EPERM,
            # No other ABI of the processor: a rule about an argument of one is none about the other's.
            "architectures": [_ARCHITECTURES.get(machine, f"SCMP_ARCH_{machine.upper()}")],
            "syscalls": rules,
        }
    )


def _rule(name: str, condition: seccomp.Condition) -> dict[str, Any]:
    argument = {"index": condition.argument, "value": condition.value, "op": "SCMP_CMP_EQ"}
    if condition.mask is not None:
        argument = {"index": condition.argument, "value": condition.mask, "valueTwo": condition.value}
        argument["op"] = "SCMP_CMP_MASKED_EQ"
    return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [argument]}
