"""Rows in memory: refused before they are computed, and put together without a second copy."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy import CollectedTalk

from tlcli.engine.extraction import ViewRequest
from tlcli.engine.view_pass import ViewPass
from tlcli.errors import MachineError
from tlcli.recipes import trunk_rows
from tlcli.recipes.row_costs import add_row_seconds, read_row_seconds
from tlcli.recipes.trunk_rows import KeptRows, Views

WIDTH = 6
"""float32 values of a row: 24 bytes."""


def views_of(count: int) -> Views:
    ids = np.random.default_rng(0).integers(0, 256, (count, 32), dtype=np.uint8)
    return Views(requests=[ViewRequest(Path(str(n))) for n in range(count)], ids=ids)


def rows_of(*, read: Any, most_bytes: int) -> KeptRows:
    return KeptRows(
        source=ViewPass(
            read=read,
            compute=lambda pixels: {"a": pixels, "b": pixels[:, :1]},
            threads=2,
            batch_size=3,
            check_stop=lambda: None,
        ),
        dtype=torch.float32,
        row_bytes=4 * (WIDTH + 1),
        most_bytes=most_bytes,
        option="--trunk-cache",
        remedy="fewer --views",
        talk=CollectedTalk(),
    )


def numbers(requests: Sequence[ViewRequest]) -> Tensor:
    return torch.stack([torch.full((WIDTH,), float(str(r.path))) for r in requests])


def unreadable(requests: Sequence[ViewRequest]) -> Tensor:
    raise AssertionError(f"{len(requests)} images were read")


def test_kept_rows__values_of_several_batches() -> None:
    rows, views = rows_of(read=numbers, most_bytes=1000), views_of(8)
    rows.prepare(views.part(np.arange(4)), label="")
    rows.prepare(views, label="")

    taken = rows.take(views)

    assert taken["a"].tolist() == [[float(n)] * WIDTH for n in range(8)]
    assert taken["b"].tolist() == [[float(n)] for n in range(8)]
    assert (rows.counts.misses, rows.counts.bytes) == (8, 8 * 28)
    assert [rows.access(views)(n)["b"].item() for n in (7, 0)] == [7, 0]


def test_kept_rows__limit_is_told_before_anything_is_read() -> None:
    rows = rows_of(read=unreadable, most_bytes=100)
    message = (
        r"--trunk-cache ram holds more than --cache-limit allows \(224 bytes of 100 bytes\)\. Use "
        r"--trunk-cache disk, fewer --views, or a larger --cache-limit\."
    )
    with pytest.raises(MachineError, match=message):
        rows.prepare(views_of(8), label="")


def test_kept_rows__memory_is_told_before_anything_is_read() -> None:
    rows = rows_of(read=unreadable, most_bytes=1 << 60)
    rows.row_bytes = 1 << 50
    with pytest.raises(MachineError, match=r"GB do not fit the free memory \(.* GB\)\. Use --tr"):
        rows.prepare(views_of(8), label="")


def test_kept_rows__know_what_they_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.accumulate(itertools.cycle([1.0, 2.0]))  # two seconds in, one between
    monkeypatch.setattr(trunk_rows, "time", SimpleNamespace(perf_counter=clock.__next__))
    rows, views = rows_of(read=numbers, most_bytes=1000), views_of(8)
    assert rows.counts.saved_seconds == 0
    rows.prepare(views.part(np.arange(4)), label="")
    rows.prepare(views, label="")

    for _ in range(3):
        rows.take(views)

    assert rows.counts.row_seconds == 4 / 8
    assert rows.counts.saved_seconds == 16 * 4 / 8


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"rows": 1e400, "seconds": 1}', '{"rows": 2, "seconds": NaN}', "[" * 5000]
)
def test_row_seconds__damaged_file_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "cost.json").write_text(text)
    assert read_row_seconds(tmp_path) is None

    assert add_row_seconds(tmp_path, rows=4, seconds=1.0) == 0.25
    assert add_row_seconds(tmp_path, rows=1, seconds=1.5) == 0.5
    assert read_row_seconds(tmp_path) == 0.5


def test_row_seconds__disk_that_refuses_ends_no_run(tmp_path: Path) -> None:
    (tmp_path / "cost.json").mkdir()

    assert add_row_seconds(tmp_path, rows=4, seconds=1.0) == 0.25
    assert read_row_seconds(tmp_path) is None
