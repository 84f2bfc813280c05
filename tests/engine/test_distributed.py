"""Shares of work."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tlcli.engine.distributed import Workers, together, workers_of_torchrun

SCRIPT = """
import sys
import numpy as np
from tlcli.engine.distributed import together, workers_of_torchrun

rows = np.arange(14, dtype=np.uint8).reshape(7, 2)
workers = workers_of_torchrun()
with together(workers):
    gathered = workers.gather_rows(rows[workers.rank :: workers.count], total=7)
    workers.wait()
assert np.array_equal(gathered, rows), gathered
with open(f"{sys.argv[1]}/{workers.rank}", "w") as file:
    file.write(f"{workers.count} {workers.on_this_machine} {workers.share(5)} {workers.is_first}")
"""


def test_workers_of_torchrun__a_single_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    workers = workers_of_torchrun()
    assert workers == Workers(rank=0, count=1, on_this_machine=1)
    with together(workers):
        workers.wait()
        rows = np.zeros((2, 3), dtype=np.uint8)
        assert workers.gather_rows(rows, total=2) is rows


def test_share__is_at_least_one_thread() -> None:
    assert Workers(count=4, on_this_machine=4).share(2) == 1
    assert Workers(count=4, on_this_machine=2).share(8) == 4


@pytest.mark.slow
def test_gather_rows__under_torchrun(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "3", script, tmp_path]
    subprocess.run([sys.executable, *map(str, command)], check=True, timeout=120)
    found = [(tmp_path / str(rank)).read_text() for rank in range(3)]
    assert found == ["3 3 1 True", "3 3 1 False", "3 3 1 False"]
