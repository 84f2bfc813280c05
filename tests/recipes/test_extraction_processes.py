"""Extraction by several processes, killed at random: the store is the same to the last byte."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from recipes.feature_runs import make_noisy_folders, store_bytes, weight_file

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL_SHARDS = """
from tlcli.recipes import store_filling

store_filling._SHARD_ROWS = 16

from tlcli.__main__ import main

main()
"""
IMAGES = 450
"""29 shards."""
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds child processes as Linux does"),
]


class Extraction:
    """Commands on the same images, each in a process of its own."""

    def __init__(self, root: Path) -> None:
        self.script = root / "tlcli_with_small_shards.py"
        self.script.write_text(SMALL_SHARDS)
        self.data = make_noisy_folders(root / "photos", counts={"train": 100, "val": 50})
        self.weights = weight_file(root / "w.safetensors", name="test_resnet")

    def command(self, output: Path, *words: str, processes: int = 1) -> list[str]:
        start = [sys.executable]
        if processes > 1:
            start += [*TORCHRUN, str(processes)]
        return [
            *(*start, str(self.script), "extract-features", "--data", str(self.data)),
            *("--model", "timm/test_resnet", "--weights", str(self.weights), "--offline"),
            *("--device", "cpu", "-j", str(processes), "--output", str(output), "--json", *words),
        ]

    def run(self, output: Path, *words: str, processes: int = 1) -> Any:
        done = subprocess.run(
            self.command(output, *words, processes=processes),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env=ENVIRONMENT,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def kill_when(self, output: Path, *, shards: int, delay: float, processes: int = 1) -> None:
        """Start, wait for so many shards and a moment more, kill all its processes."""
        process = subprocess.Popen(
            self.command(output, "--no-head", processes=processes),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )
        end = time.monotonic() + 120
        while num_shards(output) < shards and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.002)
        time.sleep(delay)
        for member in [process.pid, *children_of(process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        process.wait()


def children_of(parent: int) -> list[int]:
    """Return the processes that a process started; torchrun's are in sessions of their own."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def num_shards(output: Path) -> int:
    return len(list((output / "shards").glob("[0-9a-f]*.safetensors")))


@pytest.fixture(scope="module")
def extraction(tmp_path_factory: pytest.TempPathFactory) -> Extraction:
    return Extraction(tmp_path_factory.mktemp("extraction"))


@pytest.fixture(scope="module")
def whole(extraction: Extraction, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of a store that one process filled undisturbed."""
    path = tmp_path_factory.mktemp("whole") / "store"
    summary = extraction.run(path, "--no-head")
    assert summary["trunk_cache"]["misses"] == IMAGES
    assert num_shards(path) == 29
    return store_bytes(path)


def test_torchrun__two_processes_make_the_same_bytes_and_one_head(
    tmp_path: Path, extraction: Extraction, whole: dict[str, bytes]
) -> None:
    summary = extraction.run(tmp_path / "s", "--penalties", "0.01", processes=2)

    assert store_bytes(tmp_path / "s") == whole
    assert summary["trunk_cache"]["misses"] == IMAGES
    assert summary["run"] == str(tmp_path / "s" / "head")
    assert set(summary["results"]) == {"val"}


def test_torchrun__two_killed_then_one_process_goes_on(
    tmp_path: Path, extraction: Extraction, whole: dict[str, bytes]
) -> None:
    extraction.kill_when(tmp_path / "s", shards=5, delay=0.01, processes=2)
    done = num_shards(tmp_path / "s")

    summary = extraction.run(tmp_path / "s", "--no-head")

    assert 5 <= done < 29
    assert IMAGES - summary["trunk_cache"]["misses"] in (16 * done, 16 * done - 14)
    assert store_bytes(tmp_path / "s") == whole


def test_torchrun__one_killed_then_three_processes_go_on(
    tmp_path: Path, extraction: Extraction, whole: dict[str, bytes]
) -> None:
    extraction.kill_when(tmp_path / "s", shards=3, delay=0.0)

    extraction.run(tmp_path / "s", "--no-head", processes=3)

    assert store_bytes(tmp_path / "s") == whole


def test_torchrun__bad_image_ends_all_processes_and_is_named(
    tmp_path: Path, extraction: Extraction
) -> None:
    data = make_noisy_folders(tmp_path / "photos", counts={"train": 20, "val": 10})
    bad = data / "train" / "bee" / "7.png"
    bad.write_bytes(b"no picture")
    command = extraction.command(tmp_path / "s", processes=2)
    command[command.index("--data") + 1] = str(data)

    started = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=ENVIRONMENT
    )

    assert done.returncode != 0
    assert done.stdout == ""
    assert str(bad) in done.stderr
    assert time.monotonic() - started < 90


def test_kill__at_random_moments_costs_unfinished_shards_only(
    tmp_path: Path, extraction: Extraction, whole: dict[str, bytes]
) -> None:
    chance, seen = random.Random(0), []
    for _ in range(4):
        shards = min(27, num_shards(tmp_path / "s") + chance.randint(1, 5))
        extraction.kill_when(tmp_path / "s", shards=shards, delay=chance.uniform(0, 0.05))
        seen.append(num_shards(tmp_path / "s"))

    left = IMAGES - 16 * seen[-1]
    summary = extraction.run(tmp_path / "s", "--no-head")

    assert seen == sorted(seen)
    assert 0 < seen[0] < seen[-1] < 29
    assert summary["trunk_cache"]["misses"] in (left, left + 14)
    assert store_bytes(tmp_path / "s") == whole


def test_kill__while_the_store_is_started_anew(
    tmp_path: Path, extraction: Extraction, whole: dict[str, bytes]
) -> None:
    extraction.run(tmp_path / "s", "--no-head", "--dtype", "float32")
    process = subprocess.Popen(
        extraction.command(tmp_path / "s", "--no-head", "--overwrite"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    while (tmp_path / "s" / "items.parquet").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()

    extraction.run(tmp_path / "s", "--no-head", "--overwrite")

    assert store_bytes(tmp_path / "s") == whole


def test_ctrl_c__exits_with_130_and_the_next_run_goes_on(
    tmp_path: Path, extraction: Extraction, whole: dict[str, bytes]
) -> None:
    process = subprocess.Popen(
        extraction.command(tmp_path / "s", "--no-head"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    while num_shards(tmp_path / "s") < 2:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    done = num_shards(tmp_path / "s")

    assert (process.returncode, stdout) == (130, "")
    assert stderr.splitlines()[-1] == (
        f"error: Stopped; {16 * done} of 450 rows are kept in {tmp_path / 's'}. The same command "
        "goes on from there."
    )
    summary = extraction.run(tmp_path / "s", "--no-head")
    assert 2 <= done < 29
    assert summary["trunk_cache"]["hits"] == 16 * done
    assert store_bytes(tmp_path / "s") == whole


def test_benchmark__killed_extraction(tmp_path: Path) -> None:
    data = make_noisy_folders(tmp_path / "photos", counts={"train": 350, "val": 40}, size=16)
    script = REPOSITORY / "benchmarks" / "killed_extraction.py"
    options = ["--data", str(data), "--model", "timm/test_resnet", "--kills", "3"]

    done = subprocess.run(
        [sys.executable, str(script), *options],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=ENVIRONMENT,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-3:] == [
        "two: equal bytes",
        "mixed: equal bytes",
        "killed: equal bytes",
    ]
