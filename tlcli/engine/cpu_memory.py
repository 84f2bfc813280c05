"""Let a process on the CPU keep the memory it frees, instead of fetching it anew every step.

glibc hands every large block back to the system when it is freed, so each step pays for mapping and
zeroing the same pages again. On a virtual machine that can be half of the time
(`benchmarks/kept_memory.py`). The price is that memory once used stays with the process.
"""

import ctypes
import gc
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pyarrow

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER_TRIM = -1
_ASSUMED_MEMORY = 8 << 30
_MACHINE = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")
"""Limits of a container or a job: control groups, version 2."""


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to keep what is freed; say whether it will.

    Does nothing on other systems and where the environment already sets `MALLOC_…` variables.
    """
    has_own_settings = any(name.startswith("MALLOC_") for name in os.environ)
    if has_own_settings or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM))


def return_freed_memory() -> None:
    """Give the system back what tables and listings left behind before long work begins.

    Lists of a hundred thousand files leave some 30 MB of freed pieces, which nothing else uses.
    """
    gc.collect()
    pyarrow.default_memory_pool().release_unused()
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


def available_memory() -> int:
    """Return the bytes that this process may use: the machine's, or its container's or job's.

    8 GiB where the system does not tell.
    """
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        physical = _ASSUMED_MEMORY
    try:
        limit = (_GROUP / "memory.max").read_text().strip()
    except OSError:
        return physical
    return min(physical, int(limit)) if limit.isdecimal() else physical


def free_memory() -> int:
    """Return the bytes that can still be taken: what nothing uses, or files that were read fill.

    Where the system does not tell, `available_memory`.
    """
    free = available_memory()
    with suppress(OSError, LookupError, ValueError):
        lines = _MACHINE.read_text().splitlines()
        free = min(free, 1024 * _number_of("MemAvailable:", lines))
    with suppress(OSError, LookupError, ValueError):
        lines = (_GROUP / "memory.stat").read_text().splitlines()
        used = int((_GROUP / "memory.current").read_text()) - _number_of("inactive_file", lines)
        free = min(free, max(0, int((_GROUP / "memory.max").read_text()) - used))
    return free


def _number_of(name: str, lines: Iterable[str]) -> int:
    words = {line.split()[0]: line.split()[1] for line in lines if len(line.split()) > 1}
    return int(words[name])


def available_cores() -> int:
    """Return how many cores this process may use, which a job on a cluster may have few of."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
