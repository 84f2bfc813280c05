import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_stores import (
    KEY,
    OTHER_KEY,
    contents,
    fill,
    ids_of,
    listed_files,
    names_of,
    shard_file,
    tensors_of,
    write_all,
)

from tlcli.data.store.row_ids import RowIds
from tlcli.data.store.tensor_store import ShardPlan, TensorSpec, TensorStore, digest_of_key
from tlcli.errors import ConfigError, DataError

lists = st.lists(st.integers(0, 20), max_size=20)
shard_sizes = st.integers(1, 7)
quick = settings(max_examples=40, deadline=None)


def create(path: Path) -> TensorStore:
    return TensorStore.open_or_create(path, key=KEY)


def start(path: Path, ids: RowIds, *, rows_per_shard: int) -> tuple[TensorStore, list[ShardPlan]]:
    """What every process does before it computes."""
    store = create(path)
    plans = store.adopt(store.plan(ids, rows_per_shard=rows_per_shard))
    assert names_of(plans) == names_of(store.plan(ids, rows_per_shard=rows_per_shard))
    return store, list(plans)


def numbers_in(plans: list[ShardPlan], numbers: list[int]) -> list[int]:
    return [numbers[place] for plan in plans for place in plan.positions]


def names_of_listed(store: TensorStore) -> set[str]:
    manifest = json.loads((store.path / "manifest.json").read_text())
    return {entry["name"] for entry in manifest["shards"]}


# Plans


@quick
@given(lists, shard_sizes)
def test_plan__unique_ids_in_order_cut_into_chunks(numbers: list[int], size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = create(Path(folder))
        ids = ids_of(numbers)
        plans = store.plan(ids, rows_per_shard=size)
        unique = list(dict.fromkeys(numbers))
        assert numbers_in(list(plans), numbers) == unique
        assert [len(plan) for plan in plans] == [
            min(size, len(unique) - start) for start in range(0, len(unique), size)
        ]
        for plan in plans:
            assert np.array_equal(plan.ids, ids[plan.positions])
            assert all(numbers.index(numbers[place]) == place for place in plan.positions)
        assert contents(Path(folder)).keys() == {"manifest.json"}, "a plan writes nothing"


@quick
@given(lists, lists, shard_sizes, shard_sizes)
def test_plan__only_what_is_not_sealed(
    old: list[int], new: list[int], old_size: int, new_size: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = fill(Path(folder), old, rows_per_shard=old_size)
        plans = list(store.plan(ids_of(new), rows_per_shard=new_size))
        assert numbers_in(plans, new) == [n for n in dict.fromkeys(new) if n not in old]


@quick
@given(st.data(), lists, shard_sizes)
def test_resume__same_plans_names_and_bytes_whatever_came_between(
    data: st.DataObject, numbers: list[int], size: int
) -> None:
    """Any order of finishing, any number of processes, started at any time."""
    ids = ids_of(numbers)
    with tempfile.TemporaryDirectory() as folder:
        straight = fill(Path(folder) / "straight", numbers, rows_per_shard=size)
        path = Path(folder) / "resumed"
        first = create(path).plan(ids, rows_per_shard=size)
        for plan in data.draw(st.permutations(first)):
            store, plans = start(path, ids, rows_per_shard=size)
            assert names_of(plans) == names_of(first)
            assert not store.is_written(plan)
            store.write(plan, tensors_of(plan.ids))
            assert create(path).is_written(plan)
            assert len(TensorStore.open(path)) == 0, "nothing counts for readers yet"
        store, plans = start(path, ids, rows_per_shard=size)
        store.seal(plans)
        store.write_items(pd.DataFrame({"path": [f"{n}.jpg" for n in numbers]}), ids=ids)
        assert contents(path) == contents(straight.path)


@quick
@given(st.data(), lists, lists, shard_sizes, shard_sizes)
def test_adopt__another_list_loses_nothing_and_computes_nothing_twice(
    data: st.DataObject, old: list[int], new: list[int], old_size: int, new_size: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, ids = Path(folder), ids_of(new)
        old_store, old_plans = start(path, ids_of(old), rows_per_shard=old_size)
        done = [plan for plan in old_plans if data.draw(st.booleans())]
        write_all(old_store, done)
        store, plans = start(path, ids, rows_per_shard=new_size)
        lacking = [plan for plan in plans if not store.is_written(plan)]
        computed = {n for plan in done for n in numbers_in([plan], old)}
        expected = [n for n in dict.fromkeys(new) if n not in computed]
        assert numbers_in(lacking, new) == expected
        assert all(plan in plans or plan.name in names_of_listed(store) for plan in done)
        for plan in lacking:
            late, late_plans = start(path, ids, rows_per_shard=new_size)
            assert names_of(late_plans) == names_of(plans), "as those that started before"
            late.write(plan, tensors_of(plan.ids))
        store.seal(plans)
        read = TensorStore.open(path).read(ids)
        assert {plan.name for plan in done} <= names_of_listed(store)
        assert not new or list(read) == ["embedding", "map"]
        for name, values in read.items():
            assert torch.equal(values, tensors_of(ids)[name])


def test_adopt__ten_new_images_compute_ten_images(tmp_path: Path) -> None:
    old = list(range(100))
    store, plans = start(tmp_path, ids_of(old), rows_per_shard=8)
    write_all(store, plans[:9])
    new = sorted([*old, *range(1000, 1010)], key=lambda number: str(number))
    store, plans = start(tmp_path, ids_of(new), rows_per_shard=8)
    assert len(store) == 72
    assert sum(len(plan) for plan in plans) == 28 + 10


def test_adopt__shards_of_another_process_that_adopted_first(tmp_path: Path) -> None:
    """A process that planned before must not take the other's shards for strays."""
    store, plans = start(tmp_path, ids_of(range(8)), rows_per_shard=2)
    write_all(store, plans[1:2])
    ids = ids_of([7, 6, 5, 4, 3, 2, 1, 0])
    late = create(tmp_path)
    outdated = late.plan(ids, rows_per_shard=2)
    other, other_plans = start(tmp_path, ids, rows_per_shard=2)
    assert names_of(other_plans) != names_of(outdated)
    write_all(other, other_plans[:2])
    assert names_of(late.adopt(outdated)) == names_of(other_plans)
    assert len(late) == 2


def test_adopt__positions_are_those_of_the_first_list(tmp_path: Path) -> None:
    store, plans = start(tmp_path, ids_of([4, 5]), rows_per_shard=2)
    write_all(store, plans)
    ids = ids_of([9, 4, 5, 8])
    _, plans = start(tmp_path, ids, rows_per_shard=3)
    assert [plan.positions.tolist() for plan in plans] == [[0, 3]]


def test_plan__no_rows_per_shard(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="A shard has 1 row or more, not 0"):
        create(tmp_path).plan(ids_of([1]), rows_per_shard=0)


# Writing and sealing


def test_seal__says_how_many_are_missing(tmp_path: Path) -> None:
    store, plans = start(tmp_path, ids_of(range(7)), rows_per_shard=2)
    write_all(store, plans[1:2])
    with pytest.raises(DataError, match=r"3 of 4 shards of '.*' are not computed yet"):
        store.seal(plans)
    assert len(TensorStore.open(tmp_path)) == 0


def test_seal__exact_copies_are_stored_once(tmp_path: Path) -> None:
    store = fill(tmp_path, [1, 2, 1, 1, 3])
    assert len(store) == 3
    assert store.locate(ids_of([1, 1])).tolist() == [[0, 0], [0, 0]]


def test_seal__tidies_up(tmp_path: Path) -> None:
    before = contents(fill(tmp_path, range(5)).path)
    for name in (".0123456789abcdef.tmp.json", "shards/.0123456789abcdef.tmp.safetensors"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "shards" / f"{'0' * 32}.safetensors").write_bytes(b"broken, and not listed")
    create(tmp_path).seal(())
    assert contents(tmp_path) == before


def test_seal__leaves_files_of_others(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    fill(tmp_path, range(2))
    (tmp_path / "shards" / "notes.txt").write_text("mine")
    create(tmp_path).seal(())
    assert (tmp_path / "run.json").read_text() == "{}"
    assert (tmp_path / "shards" / "notes.txt").read_text() == "mine"


def test_seal__twice_writes_nothing(tmp_path: Path) -> None:
    store, plans = start(tmp_path, ids_of(range(4)), rows_per_shard=2)
    write_all(store, plans)
    store.seal(plans)
    manifest = tmp_path / "manifest.json"
    stamp = manifest.stat().st_mtime_ns
    create(tmp_path).seal(plans)
    assert manifest.stat().st_mtime_ns == stamp


def test_seal__keeps_what_another_process_listed(tmp_path: Path) -> None:
    one, two = create(tmp_path), create(tmp_path)
    for store, numbers in ((one, [1, 2]), (two, [3, 4])):
        plans = store.plan(ids_of(numbers), rows_per_shard=2)
        write_all(store, plans)
        store.seal(plans)
    assert len(two) == len(TensorStore.open(tmp_path)) == 4


def test_seal__shards_of_other_tensors(tmp_path: Path) -> None:
    store, plans = start(tmp_path, ids_of(range(4)), rows_per_shard=2)
    store.write(plans[0], {"x": torch.zeros(2, 3)})
    store.write(plans[1], {"x": torch.zeros(2, 4)})
    with pytest.raises(DataError, match=r"The shard '.*' does not fit the others: delete it"):
        store.seal(plans)
    assert len(TensorStore.open(tmp_path)) == 0


def test_write__other_tensors_than_those_listed(tmp_path: Path) -> None:
    store = fill(tmp_path, range(2))
    (plan,) = store.plan(ids_of([9]), rows_per_shard=1)
    with pytest.raises(ValueError, match=r"The store holds .*, not \{'x': "):
        store.write(plan, {"x": torch.zeros(1, 3)})
    assert not store.is_written(plan)


def test_manifest__says_all(tmp_path: Path) -> None:
    store = fill(tmp_path, range(4))
    names = sorted(path.stem for path in listed_files(store))
    values = json.loads((tmp_path / "manifest.json").read_text())
    rows = {entry["name"]: entry["rows"] for entry in values["shards"]}
    assert sorted(rows.values()) == [1, 3]
    assert list(rows) == names
    assert values == {
        "schema_version": 1,
        "kind": "tensors",
        "key": KEY,
        "key_digest": digest_of_key(KEY),
        "tensors": {
            "embedding": {"dtype": "float16", "shape": [3]},
            "map": {"dtype": "bfloat16", "shape": [2, 2]},
        },
        "shards": [{"name": name, "rows": rows[name]} for name in names],
    }
    assert store.tensors["map"] == TensorSpec(dtype="bfloat16", shape=(2, 2))


# Keys


def test_open_or_create__another_key_names_what_differs(tmp_path: Path) -> None:
    before = contents(fill(tmp_path, range(3)).path)
    with pytest.raises(ConfigError) as caught:
        TensorStore.open_or_create(tmp_path, key=OTHER_KEY)
    assert str(caught.value) == (
        f"'{tmp_path}' was computed with other settings: crop.pct is not set there and 1 here;"
        ' crop.size is [8, 8] there and [8, 9] here; model is "timm/resnet18" there and'
        ' "timm/resnet34" here. Choose another --output, or start it anew with --overwrite.'
    )
    assert contents(tmp_path) == before


def test_open_or_create__same_key_in_another_order(tmp_path: Path) -> None:
    fill(tmp_path, range(3))
    turned: dict[str, Any] = {**dict(reversed(KEY.items())), "crop": {"size": (8, 8)}}
    assert len(TensorStore.open_or_create(tmp_path, key=turned)) == 3


def test_keys__never_mix(tmp_path: Path) -> None:
    """Shards of one key in the folder of another are neither written, adopted nor listed."""
    other = fill(tmp_path / "other", range(6))
    store = TensorStore.open_or_create(tmp_path / "store", key=OTHER_KEY)
    ids = ids_of(range(6))
    plans = store.plan(ids, rows_per_shard=3)
    for file, plan in zip(listed_files(other), plans, strict=True):
        shutil.copy(file, shard_file(store, plan.name))
        shutil.copy(file, store.path / "shards")
    assert not any(store.is_written(plan) for plan in plans)
    assert names_of(store.adopt(plans)) == names_of(plans)
    with pytest.raises(DataError, match="2 of 2 shards"):
        store.seal(plans)
    assert len(TensorStore.open(store.path)) == 0


def test_seal__store_started_anew_with_another_key(tmp_path: Path) -> None:
    store, plans = start(tmp_path, ids_of(range(3)), rows_per_shard=3)
    write_all(store, plans)
    TensorStore.delete(tmp_path)
    TensorStore.open_or_create(tmp_path, key=OTHER_KEY)
    write_all(store, plans)
    with pytest.raises(ConfigError, match="was started anew with other settings while"):
        store.seal(plans)
    assert len(TensorStore.open(tmp_path)) == 0


# Damage


def test_open__none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no store of features: it has no manifest\.json"):
        TensorStore.open(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut off", "noise", "of another key"])
def test_damaged_shard__readers_stop_and_the_next_run_mends_it(tmp_path: Path, damage: str) -> None:
    ids = ids_of(range(10))
    before = contents(fill(tmp_path / "store", range(10)).path)
    path = listed_files(TensorStore.open(tmp_path / "store"))[1]
    rows = json.loads(before["manifest.json"])["shards"][1]["rows"]
    if damage == "missing":
        path.unlink()
    elif damage == "of another key":
        store, plans = TensorStore.open_or_create(tmp_path / "other", key=OTHER_KEY), ()
        plans = store.plan(ids_of(range(3)), rows_per_shard=3)
        write_all(store, plans)
        shutil.copy(shard_file(store, plans[0].name), path)
    else:
        new = {"empty": b"", "cut off": path.read_bytes()[:-1], "noise": os.urandom(99)}[damage]
        path.write_bytes(new)
    reader = TensorStore.open(tmp_path / "store")
    with pytest.raises(DataError, match=rf"{path.name}' is missing or damaged\. Run the command"):
        reader.locate(ids)
    store = create(tmp_path / "store")
    assert store.remarks == (
        f"Missing or damaged in '{store.path}': 1 shard ({path.stem}) with"
        f" {rows} row{'s' * (rows > 1)}, computed again where asked for.",
    )
    store, plans = start(store.path, ids, rows_per_shard=3)
    assert (sum(len(plan) for plan in plans), names_of(plans)) == (rows, [path.stem])
    write_all(store, plans)
    store.seal(plans)
    assert contents(store.path) == before
    assert create(store.path).remarks == ()


def test_damaged_shard__of_a_list_that_is_gone_is_deleted(tmp_path: Path) -> None:
    store = fill(tmp_path, range(6))
    path = listed_files(store)[0]
    path.write_bytes(b"noise")
    store, plans = start(tmp_path, ids_of([5, 4, 3, 2, 1, 0]), rows_per_shard=2)
    write_all(store, plans)
    store.seal(plans)
    assert not path.exists()
    assert len(store) == 6


def test_damaged_shard__written_but_not_listed(tmp_path: Path) -> None:
    store, plans = start(tmp_path, ids_of(range(6)), rows_per_shard=3)
    write_all(store, plans)
    path = shard_file(store, plans[0].name)
    path.write_bytes(path.read_bytes()[:-1])
    assert [store.is_written(plan) for plan in plans] == [False, True]


# Reading


def test_locate__says_how_many_are_missing(tmp_path: Path) -> None:
    store = fill(tmp_path, range(6))
    with pytest.raises(DataError, match=r"2 of 4 rows are not in '.*': run the command that"):
        store.locate(ids_of([1, 77, 2, 78]))


def test_rows__unknown_name(tmp_path: Path) -> None:
    store = fill(tmp_path, range(2))
    with pytest.raises(DataError, match=r"has no tensor 'layer4'; it has: embedding, map\."):
        store.rows(store.locate(ids_of([1])), ["map", "layer4"])


def test_read__in_the_order_of_the_ids(tmp_path: Path) -> None:
    store = fill(tmp_path, range(9))
    ids = ids_of([8, 0, 3, 3, 7])
    read = store.read(ids, ["map"])
    assert list(read) == ["map"]
    assert torch.equal(read["map"], tensors_of(ids)["map"])


def test_read__nothing_from_nothing(tmp_path: Path) -> None:
    store = create(tmp_path)
    assert store.read(ids_of([])) == {}
    assert (len(store), dict(store.tensors)) == (0, {})


def test_read_items__with_places_that_are_right_after_the_store_grew(tmp_path: Path) -> None:
    numbers = [3, 1, 3]
    fill(tmp_path, numbers)
    store, plans = start(tmp_path, ids_of(range(50)), rows_per_shard=1)
    write_all(store, plans)
    store.seal(plans)
    items = TensorStore.open(tmp_path).read_items()
    assert items.columns.tolist() == ["path", "shard", "row"]
    assert items["path"].tolist() == ["3.jpg", "1.jpg", "3.jpg"]
    loaded = store.rows(items[["shard", "row"]].to_numpy()).load()
    assert torch.equal(loaded["embedding"], tensors_of(ids_of(numbers))["embedding"])


def test_size__all_bytes_of_the_store(tmp_path: Path) -> None:
    store = fill(tmp_path, range(9))
    assert store.size() == sum(len(data) for data in contents(tmp_path).values())
    (tmp_path / "run.json").write_text("{}")
    assert store.size() == sum(len(data) for data in contents(tmp_path).values()) - 2


# Deleting


def test_delete__leaves_what_is_not_the_stores(tmp_path: Path) -> None:
    fill(tmp_path, range(5))
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "shards" / ".0123456789abcdef.tmp.safetensors").touch()
    (tmp_path / "shards" / "notes.txt").write_text("mine")
    TensorStore.delete(tmp_path)
    assert contents(tmp_path) == {"run.json": b"{}", "shards/notes.txt": b"mine"}


def test_delete__no_store_there(tmp_path: Path) -> None:
    (tmp_path / "items.parquet").write_bytes(b"of another tool")
    TensorStore.delete(tmp_path)
    TensorStore.delete(tmp_path / "none")
    assert contents(tmp_path) == {"items.parquet": b"of another tool"}
