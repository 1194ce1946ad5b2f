"""The user of this process, and whether another process on this machine has ended."""

import getpass
import os
from pathlib import Path


def user_name() -> str:
    """The name of the user, or the number where there is no name, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def process_mark(pid: int) -> str | None:
    """Identify a running process by machine and start time; None if it has ended or is unknown."""
    machine = _machine_mark()
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    started = stat.rpartition(")")[2].split()[19]
    return f"{machine} {started}" if machine else None


def has_ended(mark: str | None, pid: int) -> bool:
    """Whether a process on this machine has ended; False for processes on other machines."""
    machine = _machine_mark()
    if mark is None or machine is None or not mark.startswith(machine):
        return False
    return process_mark(pid) != mark


def _machine_mark() -> str | None:
    """Identify this boot of this machine and its PID namespace; None if that is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None
