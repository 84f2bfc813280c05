"""`tlcli cache`: what is kept, how large it is, taking it away, handing it to other tools."""

import csv
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from recipes.feature_runs import embeddings, extract, solve, stored
from tlcli.errors import ConfigError, DataError
from tlcli.recipes.cache import clear_cache, list_cache, show_store
from tlcli.recipes.cache_export import export_store
from tlcli.recipes.feature_folder import open_features


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("TLCLI_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def used_at(path: Path, seconds: int) -> None:
    for entry in [path, *path.iterdir()]:
        os.utime(entry, (seconds, seconds))


@pytest.fixture
def filled(cache: Path, photos: Path) -> dict[str, Path]:
    """Features of two models, finished and not, and sample data."""
    paths = {}
    for number, name in enumerate(("test_vit", "test_resnet")):
        summary, _ = extract(photos, None, model=f"timm/{name}", no_head=True)
        paths[name] = Path(summary["store"])
        used_at(paths[name], 2_000_000 + number)
    begun, _ = extract(photos, None, model="timm/test_efficientnet", shard="2/2", no_head=True)
    assert begun["status"] == "unfinished"
    (paths["unfinished"],) = set((cache / "features").iterdir()) - set(paths.values())
    used_at(paths["unfinished"], 1_000_000)
    paths["sample"] = cache / "sample-digits-v1"
    paths["sample"].mkdir()
    (paths["sample"] / "0.png").write_bytes(bytes(1234))
    used_at(paths["sample"], 3_000_000)
    return paths


def test_list__of_nothing(cache: Path) -> None:
    assert list_cache() == []
    cache.mkdir()
    assert list_cache() == []


def test_list__entries_with_sizes_last_used_first(filled: dict[str, Path], photos: Path) -> None:
    entries = list_cache()

    assert [entry.path for entry in entries] == [
        str(filled[name]) for name in ("sample", "test_resnet", "test_vit", "unfinished")
    ]
    assert [(e.kind, e.state, e.model, e.data, e.rows) for e in entries] == [
        ("sample", "finished", None, None, 0),
        ("features", "finished", "timm/test_resnet", str(photos), 27),
        ("features", "finished", "timm/test_vit", str(photos), 27),
        ("features", "unfinished", "timm/test_efficientnet", None, 0),
    ]
    assert [entry.bytes for entry in entries] == [size_of(Path(entry.path)) for entry in entries]
    assert entries[0].bytes == 1234
    assert [entry.used for entry in entries] == [3_000_000, 2_000_001, 2_000_000, 1_000_000]
    assert [entry.name for entry in entries] == [Path(entry.path).name for entry in entries]
    assert entries[1].to_json()["rows"] == 27


@pytest.mark.parametrize("lost", ["shards", "manifest.json"])
def test_list__damaged_features_are_called_so(filled: dict[str, Path], lost: str) -> None:
    path = filled["test_vit"] / lost
    if path.is_dir():
        (shard,) = path.iterdir()
        shard.write_bytes(shard.read_bytes()[:-1])
    else:
        path.unlink()

    states = {entry.path: entry.state for entry in list_cache()}

    assert states[str(filled["test_vit"])] == "damaged"
    assert states[str(filled["test_resnet"])] == "finished"


def test_list__does_not_follow_other_files(filled: dict[str, Path], cache: Path) -> None:
    (cache / "note.txt").write_text("mine")
    (cache / "features" / "note.txt").write_text("mine")
    assert len(list_cache()) == 4


def test_show__by_path_and_by_name(filled: dict[str, Path], photos: Path) -> None:
    path = filled["test_vit"]
    solve(path, penalties="1")

    shown = show_store(str(path))

    assert shown == show_store(path.name)
    assert set(shown) == {"schema_version", "path", "bytes", "key", "features", "data", "runs"}
    assert (shown["path"], shown["bytes"]) == (str(path), size_of(path))
    assert shown["key"]["model"] == "timm/test_vit"
    assert shown["key"]["dtype"] == "float16"
    assert shown["features"]["rows"] == 27
    assert shown["data"]["spec"] == str(photos)
    assert shown["runs"] == [str(path / "probe-linear")]


def test_show__of_a_head_names_its_features(features: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"solved on features: give their folder, '{features}'"):
        show_store(str(features / "head"))


def test_show__of_nothing_is_told(filled: dict[str, Path]) -> None:
    with pytest.raises(DataError, match="There is no folder 'no_such'"):
        show_store("no_such")
    with pytest.raises(DataError, match="are not finished: run the same extract-features command"):
        show_store(filled["unfinished"].name)
    with pytest.raises(DataError, match=r"is no store of features: it has no manifest\.json"):
        show_store(str(filled["sample"]))


def test_clear__named_entries_only(filled: dict[str, Path]) -> None:
    names = [filled["unfinished"].name, filled["sample"].name, filled["sample"].name]
    sizes = [size_of(filled["unfinished"]), 1234]

    deleted = clear_cache(names, everything=False)

    assert [entry.name for entry in deleted] == names[:2]
    assert [entry.bytes for entry in deleted] == sizes
    assert {name for name, path in filled.items() if path.exists()} == {"test_vit", "test_resnet"}


def test_clear__everything(filled: dict[str, Path], cache: Path) -> None:
    assert len(clear_cache([], everything=True)) == 4
    assert list_cache() == []
    assert cache.is_dir()
    assert clear_cache([], everything=True) == []


@pytest.mark.parametrize(
    ("names", "everything"), [([], False), (["sample-digits-v1"], True)], ids=["neither", "both"]
)
def test_clear__must_be_told_what(
    filled: dict[str, Path], names: list[str], everything: bool
) -> None:
    with pytest.raises(ConfigError, match="Name entries of 'tlcli cache list', or give --all"):
        clear_cache(names, everything=everything)
    assert len(list_cache()) == 4


@pytest.mark.parametrize("name", ["no_such", "../mine", "features", ".", "", "features/.."])
def test_clear__nothing_is_deleted_where_a_name_is_wrong(
    filled: dict[str, Path], tmp_path: Path, name: str
) -> None:
    (tmp_path / "mine").mkdir()

    with pytest.raises(
        DataError, match=f"^The cache has no '{name}'. It has: sample-digits-v1, test_"
    ):
        clear_cache(["sample-digits-v1", name], everything=False)

    assert len(list_cache()) == 4
    assert (tmp_path / "mine").is_dir()


def test_clear__features_are_computed_again(filled: dict[str, Path], photos: Path) -> None:
    before = embeddings(filled["test_vit"])
    clear_cache([filled["test_vit"].name], everything=False)

    summary, _ = extract(photos, None, model="timm/test_vit", no_head=True)

    assert summary["store"] == str(filled["test_vit"])
    assert summary["trunk_cache"]["misses"] == 27
    after = embeddings(filled["test_vit"])
    assert all(torch.equal(after[path], before[path]) for path in before)


def test_export__npy(features: Path, tmp_path: Path) -> None:
    path = tmp_path / "out"

    assert export_store(str(features), kind="npy", output=path) == 126

    assert {file.name for file in path.iterdir()} == {"embedding.npy", "items.csv"}
    values = np.load(path / "embedding.npy")
    rows = stored(features)
    with (path / "items.csv").open(newline="") as file:
        items = list(csv.DictReader(file))
    assert values.shape == (126, 96)
    assert [(item["path"], int(item["view"])) for item in items] == list(rows)
    assert {item["split"] for item in items} == {"train", "val", "test"}
    wanted = torch.stack([row["embedding"] for row in rows.values()])
    np.testing.assert_array_equal(values, wanted.numpy())


def test_export__parquet(features: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"

    assert export_store(str(features), kind="parquet", output=path) == 126

    table = pq.read_table(path).to_pydict()
    rows = stored(features)
    assert table["path"] == [path for path, _ in rows]
    assert table["label"] == open_features(str(features)).items["label"].tolist()
    wanted = torch.stack([row["embedding"].float() for row in rows.values()])
    np.testing.assert_array_equal(np.array(table["embedding"], dtype=np.float32), wanted.numpy())


def test_export__mistakes(features: Path, tmp_path: Path, filled: dict[str, Path]) -> None:
    (tmp_path / "mine").mkdir()

    with pytest.raises(ConfigError, match="mine' exists: choose another --output"):
        export_store(str(features), kind="npy", output=tmp_path / "mine")
    with pytest.raises(DataError, match="There is no folder"):
        export_store(str(tmp_path / "nowhere"), kind="npy", output=tmp_path / "out")
    with pytest.raises(DataError, match="are not finished"):
        export_store(filled["unfinished"].name, kind="npy", output=tmp_path / "out")

    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "mine").iterdir())


@pytest.mark.parametrize(
    ("name", "kind", "is_table"),
    [
        ("a.parquet", None, True),
        ("a", "parquet", True),
        ("a", None, False),
        ("a.v2", None, False),
        ("a.v2", "npy", False),
    ],
)
def test_export__suffix_decides_where_no_format_is_given(
    features: Path, tmp_path: Path, name: str, kind: Any, is_table: bool
) -> None:
    export_store(str(features), kind=kind, output=tmp_path / name)

    assert (tmp_path / name).is_file() == is_table
    if is_table:
        assert pq.read_metadata(tmp_path / name).num_rows == 126


@pytest.mark.parametrize(("name", "kind"), [("a.parquet", "npy"), ("a.npy", "parquet")])
def test_export__suffix_that_contradicts_the_format_is_refused(
    features: Path, tmp_path: Path, name: str, kind: Any
) -> None:
    words = f"{name}' ends as {name.partition('.')[2]}, --format asks for {kind}: make them agree"

    with pytest.raises(ConfigError, match=words):
        export_store(str(features), kind=kind, output=tmp_path / name)

    assert not (tmp_path / name).exists()


def test_export__damaged_shard_is_told(features: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(features, tmp_path / "copy")
    shard = sorted((copy / "shards").iterdir())[0]
    shard.unlink()

    with pytest.raises(DataError, match=rf"The shard '{shard}' is missing or damaged"):
        export_store(str(copy), kind="npy", output=tmp_path / "out")


def test_clear__leaves_what_tlcli_did_not_make(filled: dict[str, Path]) -> None:
    cache = filled["sample"].parent
    for name in ("thesis", "features/mine"):
        (cache / name).mkdir()
        (cache / name / "a.txt").write_text("kept")

    names = {entry.name for entry in list_cache()}
    clear_cache([], everything=True)

    assert not {"thesis", "mine"} & names
    assert (cache / "thesis" / "a.txt").read_text() == "kept"
    assert (cache / "features" / "mine" / "a.txt").read_text() == "kept"
