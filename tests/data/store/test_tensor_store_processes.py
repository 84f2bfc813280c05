"""The tensor store among processes that are killed, many, or out of disk."""

import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_stores import KEY, contents, fill, ids_of, listed_files, tensors_of, write_all

from tlcli.data.store.tensor_store import TensorStore

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks, signals and limits of POSIX")

ROWS = 120
ROWS_PER_SHARD = 2
SHARDS = ROWS // ROWS_PER_SHARD
NUMBERS = list(range(ROWS))


def run_worker(path: Path, log: Path, index: int, count: int) -> None:
    """Compute a share of the shards; the first worker waits for the others and seals."""
    ids = ids_of(NUMBERS)
    store = TensorStore.open_or_create(path, key=KEY)
    plans = store.adopt(store.plan(ids, rows_per_shard=ROWS_PER_SHARD))
    for plan in plans[index::count]:
        if not store.is_written(plan):
            with log.open("a") as file:
                file.write(f"{plan.name}\n")
            time.sleep(0.002)
            store.write(plan, tensors_of(plan.ids))
    if index:
        return
    while not all(store.is_written(plan) for plan in plans):
        time.sleep(0.001)
    store.seal(plans)
    store.write_items(pd.DataFrame({"path": [f"{n}.jpg" for n in NUMBERS]}), ids=ids)


def start_process(target: Callable[..., None], *args: object) -> multiprocessing.Process:
    """Fork, since a new interpreter would spend seconds on importing torch."""
    process = multiprocessing.get_context("fork").Process(target=target, args=args)
    process.start()
    return process


def kill_after(processes: list[multiprocessing.Process], *, seconds: float) -> None:
    time.sleep(seconds)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9__at_any_time_costs_one_shard_per_worker(tmp_path: Path, workers: int) -> None:
    """Killed while it starts, computes and seals, the work ends in the bytes of one go."""
    straight = fill(tmp_path / "straight", NUMBERS, rows_per_shard=ROWS_PER_SHARD)
    path, log = tmp_path / "killed", tmp_path / "log"
    log.touch()
    moments, stages = random.Random(workers), []

    def start_all() -> list[multiprocessing.Process]:
        return [start_process(run_worker, path, log, i, workers) for i in range(workers)]

    def written() -> int:
        return len(list(path.glob("shards/[0-9a-f]*")))

    for _ in range(3):
        kill_after(start_all(), seconds=moments.uniform(0, 0.008))
    for _ in range(10):
        processes, goal = start_all(), min(SHARDS, written() + moments.randint(1, 4))
        wait_for(lambda goal=goal: written() >= goal)  # type: ignore[misc]
        kill_after(processes, seconds=moments.uniform(0, 0.003))
        stages.append(written())
    processes = start_all()
    wait_for(lambda: written() == SHARDS)
    kill_after(processes, seconds=0)
    for _ in range(6):
        kill_after(start_all(), seconds=moments.uniform(0, 0.015))
    assert sum(stage < SHARDS for stage in stages) >= 3, "it was killed in the middle of the work"
    for process in start_all():
        process.join(30)
        assert process.exitcode == 0
    computed = log.read_text().split()
    assert len(set(computed)) == SHARDS
    assert SHARDS <= len(computed) <= SHARDS + 20 * workers
    assert contents(path) == contents(straight.path)


def test_two_processes__on_the_same_shards(tmp_path: Path) -> None:
    straight = fill(tmp_path / "straight", NUMBERS, rows_per_shard=ROWS_PER_SHARD)
    path, log = tmp_path / "shared", tmp_path / "log"
    processes = [start_process(run_worker, path, log, 0, 1) for _ in range(3)]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert contents(path) == contents(straight.path)


def write_over_and_over(path: Path, times: int) -> None:
    store = TensorStore.open_or_create(path, key=KEY)
    plans = store.plan(ids_of(NUMBERS), rows_per_shard=ROWS)
    for _ in range(times):
        write_all(store, plans)


def test_readers__never_see_half_a_shard(tmp_path: Path) -> None:
    store = fill(tmp_path, NUMBERS, rows_per_shard=ROWS)
    (file,) = listed_files(store)
    (plan,) = TensorStore.open_or_create(tmp_path / "other", key=KEY).plan(
        ids_of(NUMBERS), rows_per_shard=ROWS
    )
    whole = file.read_bytes()
    store.path.joinpath("manifest.json").write_bytes(
        (tmp_path / "other" / "manifest.json").read_bytes()
    )
    process = start_process(write_over_and_over, tmp_path, 100)
    looks = 0
    while process.is_alive():
        assert store.is_written(plan)
        assert file.read_bytes() == whole
        looks += 1
    process.join()
    assert process.exitcode == 0
    assert looks > 10


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from tiny_stores import KEY, ids_of
from tlcli.data.store.tensor_store import TensorStore
from tlcli.errors import MachineError

path = Path(sys.argv[1])
store = TensorStore.open_or_create(path, key=KEY)
small, large = store.plan(ids_of(range(2)), rows_per_shard=1)
store.write(small, {"x": torch.zeros(1, 4)})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    store.write(large, {"x": torch.zeros(1, 50_000)})
except MachineError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
try:
    store.seal([small])
except MachineError as error:
    print(error)
"""

MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
import pandas as pd
import torch
from tlcli.data.store.tensor_store import TensorStore
from tlcli.data.store.feature_export import export_npy, export_parquet

path, count = Path(sys.argv[1]), int(sys.argv[2])
ids = np.random.default_rng(0).integers(0, 256, (count, 32), dtype=np.uint8)
store = TensorStore.open_or_create(path / "store", key={"model": "a"})
plans = store.adopt(store.plan(ids, rows_per_shard=500))
for plan in plans:
    store.write(plan, {"x": torch.from_numpy(plan.ids[:, :8].copy()).float()})
store.seal(plans)
store.write_items(pd.DataFrame({"number": np.arange(count)}), ids=ids)
store = TensorStore.open(path / "store")
rows = store.rows(store.locate(ids))
total = sum(float(block.sum()) for _ in range(2) for block, _ in rows.blocks(size=4096))
assert total == 2 * float(ids[:, :8].sum(dtype=np.int64)), total
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
export_npy(store, path / "npy")
export_parquet(store, path / "features.parquet")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def run_script(code: str, *args: object) -> list[str]:
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parent.parent}"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_full_disk__nothing_half_is_left(tmp_path: Path) -> None:
    """A limit on the size of files makes the system refuse as a full disk does."""
    shard, manifest = run_script(FULL_DISK, tmp_path)
    assert shard.startswith(f"Cannot write '{tmp_path / 'shards'}")
    assert shard.endswith("File too large. Check the disk or choose another folder.")
    assert manifest.startswith(f"Cannot write '{tmp_path / 'manifest.json'}': File too large.")
    store = TensorStore.open_or_create(tmp_path, key=KEY)
    plans = store.plan(ids_of(range(2)), rows_per_shard=1)
    assert [store.is_written(plan) for plan in plans] == [True, False]
    names = ["manifest.json", f"shards/{plans[0].name}.safetensors"]
    assert sorted(contents(tmp_path)) == names
    assert len(store) == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_memory__hardly_grows_with_the_number_of_items(tmp_path: Path) -> None:
    few = [int(line) for line in run_script(MEMORY, tmp_path / "few", 1_000)]
    many = [int(line) for line in run_script(MEMORY, tmp_path / "many", 100_000)]
    store, export = np.subtract(many, few)
    assert store < 50, "MiB for 99,000 items more"
    assert export < 70, "MiB, which includes buffers of a fixed size"
