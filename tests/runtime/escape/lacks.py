"""What a runtime cannot hold, and why. `docs/runtimes.md` has the same table; a test compares them.

A test that needs one of these says so by `@pytest.mark.needs_wall(NAME)` and is skipped, with the reason, where it is
lacking.
"""

from dataclasses import dataclass

from tests.scoreboard import EXEC

EMBEDDED, RUNC, RUNSC, SINGLE = "embedded", "docker/runc", "docker/runsc", "embedded/single"


@dataclass(frozen=True, slots=True)
class Lack:
    """A wall that is not there."""

    wall: str
    runtimes: tuple[str, ...]
    why: str


LACKS = {
    lack.wall: lack
    for lack in (
        Lack(
            "memory files that cannot be executed",
            (EMBEDDED, RUNC, RUNSC),
            "`memfd_create` is what libraries share memory by; a program runs native code without it, too",
        ),
        Lack(
            "no description of the machine",
            (RUNC, RUNSC),
            "a container's `/proc` and `/sys` name its kernel, processors, memory and own control group, as libraries "
            "expect",
        ),
        Lack(
            "none of our own modules to be read",
            (EXEC, RUNC, RUNSC),
            "they are imported in the sandbox, there and where the embedded runtime has no zygote; nothing in them is "
            "secret",
        ),
        Lack(
            "a zygote that no program can reach",
            (RUNC, RUNSC),
            "each container has a zygote of its own; who kills it loses variables, and another is started",
        ),
        Lack("no terminals", (RUNC, RUNSC), "a container has `/dev/ptmx`, and a terminal system of its own behind it"),
        Lack(
            "a kernel that cannot be looked into",
            (RUNC, RUNSC),
            "a container's kernel can be looked into by its own children, which are the same program",
        ),
        Lack(
            "settings of a process that the host's kernel decides",
            (RUNSC,),
            "gVisor grants priorities and the like on a kernel of its own, and the host hears nothing of it",
        ),
        Lack(
            "a risk of being killed that only grows",
            (RUNC, RUNSC),
            "Docker sets `oom_score_adj` without making it a floor; what a sandbox holds is capped all the same",
        ),
        Lack(
            "a uid that is never used again",
            (RUNC, RUNSC, SINGLE),
            "a container's uid is another's when the container is gone, and its files and processes with it; a user "
            "with one id has no other to give",
        ),
        Lack(
            "devices of its own",
            (RUNSC, SINGLE),
            "only root can make device nodes; an ordinary user's sandboxes show the host's, and a lock on one is felt "
            "by all who lock it; gVisor locks none",
        ),
        Lack(
            "an init that cannot be looked into",
            (RUNSC, SINGLE),
            "gVisor shows the environment and the memory map of its PID 1, in which nothing is; with one id its "
            "command line and the numbers of its descriptors are seen, and what they lead to is not",
        ),
        Lack(
            "files that the loader does not run either",
            (RUNSC,),
            "gVisor's release of 2022 refuses to execute them, but not to map them as code",
        ),
        Lack(
            "no entrance for thirty-two bit programs",
            (RUNSC,),
            "gVisor answers `int 0x80` itself, by its own table of sixty-four bit calls",
        ),
        Lack(
            "nothing in `/dev` and `/sys` but what is needed",
            (RUNSC,),
            "gVisor shows `/dev/fuse`, `/sys/devices` and the like, all of its own making and nothing of the host's",
        ),
        Lack(
            "mounts that say that they honour no set-user bit",
            (RUNSC,),
            "gVisor's release of 2022 tells only `noexec`; no new privileges is what holds",
        ),
        Lack(
            "a number of files that is capped",
            (RUNSC,),
            "gVisor's tmpfs knows no number of inodes; their memory counts, and reaches the cap",
        ),
        Lack(
            "a memory cap that nothing gets past",
            (SINGLE,),
            "without control groups memory is looked at from outside, again and again, and `memfd_create` is not there",
        ),
        Lack(
            "pools of the host's kernel that are its own",
            (SINGLE,),
            "what the kernel counts by user, such as room in pipes and descriptors on their way, all of one id share: "
            "with enough descriptors on their way one keeps others from starting, and from having a next kernel",
        ),
        Lack(
            "processes that the host can look at",
            (RUNSC,),
            "gVisor's kernel keeps its processes to itself; the host sees gVisor",
        ),
    )
}
