import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tlcli.engine.cpu_memory import available_memory

CODE = """
import resource, torch
from tlcli.engine.cpu_memory import keep_freed_memory
kept = keep_freed_memory() if {keep} else False
for _ in range(30):
    torch.ones(32 * 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(32 * 2**20)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(*, keep: bool, **extra: str) -> tuple[str, int]:
    plain = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    command = [sys.executable, "-c", CODE.format(keep=keep)]
    made = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**plain, **extra}
    )
    kept, faults = made.stdout.split()
    return kept, int(faults)


@pytest.mark.slow
@pytest.mark.skipif(os.confstr("CS_GNU_LIBC_VERSION") is None, reason="needs glibc")
def test_keep_freed_memory__large_blocks_are_not_mapped_anew() -> None:
    _, returned = run(keep=False)
    said, kept = run(keep=True)

    assert said == "True"
    assert kept < returned / 10
    assert returned >= 10 * 128 * 2**20 // resource.getpagesize() // 512  # huge pages count as one


def test_keep_freed_memory__own_settings_of_the_user_stay() -> None:
    assert run(keep=True, MALLOC_ARENA_MAX="2")[0] == "False"


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs Linux")
def test_available_memory__is_what_the_kernel_says() -> None:
    first = Path("/proc/meminfo").read_text().splitlines()[0].split()
    assert (first[0], first[2]) == ("MemTotal:", "kB")
    assert available_memory() == pytest.approx(1024 * int(first[1]), rel=1e-3)


def test_available_memory__where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sysconf")
    assert available_memory() == 8 * 2**30
