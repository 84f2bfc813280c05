import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tlcli.engine import cpu_memory
from tlcli.engine.cpu_memory import available_memory, free_memory

CODE = """
import resource, torch
from tlcli.engine import cpu_memory
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


@pytest.mark.parametrize(
    ("limit", "free"), [("max", 6 << 20), (str(5 << 20), 4 << 20), (str(1 << 20), 0)]
)
def test_free_memory__of_the_machine_and_of_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, free: int
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\n\nMemAvailable:    6144 kB\n")
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{3 << 20}\n")
    (tmp_path / "memory.stat").write_text(f"anon {1 << 20}\ninactive_file {2 << 20}\n")
    if limit == str(1 << 20):
        (tmp_path / "memory.current").write_text(f"{4 << 20}\n")
    monkeypatch.setattr(cpu_memory, "_MACHINE", tmp_path / "meminfo")
    monkeypatch.setattr(cpu_memory, "_GROUP", tmp_path)

    assert free_memory() == free


def test_free_memory__where_the_system_does_not_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_memory, "_MACHINE", tmp_path / "none")
    monkeypatch.setattr(cpu_memory, "_GROUP", tmp_path / "none")

    assert free_memory() == available_memory() > 0
