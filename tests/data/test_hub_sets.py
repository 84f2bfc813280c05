import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tlcli.data.catalog import load_table
from tlcli.data.csv_table import TableColumns
from tlcli.errors import ConfigError, DataError, MachineError

try:
    import datasets
except ImportError:
    datasets = None
needs_datasets = pytest.mark.skipif(
    datasets is None, reason="the package datasets is not installed: pip install 'tlcli[hf]'"
)


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TLCLI_CACHE_DIR", str(tmp_path / "cache"))
    if datasets is not None:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_datasets")
    return tmp_path / "cache" / "hf"


def png(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def save(folder: Path, columns: Mapping[str, list[Any]], features: Mapping[str, Any]) -> str:
    """Write a parquet data set with one train part and return its specification."""
    folder.mkdir()
    whole = datasets.Features(features)
    datasets.Dataset.from_dict(dict(columns), features=whole).to_parquet(folder / "train.parquet")
    return f"hf:{folder}"


def pictures(count: int) -> list[dict[str, Any]]:
    return [{"bytes": png(number), "path": None} for number in range(count)]


@needs_datasets
def test_load_table__image_folder_as_datasets_reads_it(tmp_path: Path, write_images) -> None:
    names = [f"train/{name}/{i}.png" for name in ("a b", "猫") for i in range(3)]
    write_images(tmp_path / "set", [*names, "validation/a b/9.png", "validation/猫/9.png"])

    table = load_table(f"hf:{tmp_path}/set")

    oracle = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "set"))
    kind = oracle["train"].features["label"]
    expected = {
        (row["image"]["path"], kind.int2str(row["label"]), {"validation": "val"}.get(name, name))
        for name, part in oracle.items()
        for row in part.cast_column("image", datasets.Image(decode=False))
    }
    found = table.items[["path", "label", "split"]].itertuples(index=False, name=None)
    assert set(found) == expected
    assert len(expected) == 8
    assert table.spec == f"hf:{tmp_path}/set"


@needs_datasets
def test_load_table__bytes_are_written_as_they_are(caches: Path, tmp_path: Path) -> None:
    features = {"pic": datasets.Image(), "kind": datasets.ClassLabel(names=["x", "y"])}
    spec = save(tmp_path / "set", {"pic": pictures(4), "kind": [0, 1, -1, 1]}, features)

    table = load_table(spec)

    assert table.items[["path", "label", "split"]].values.tolist() == [
        ["tlcli-v1/train-0000000.png", "x", "train"],
        ["tlcli-v1/train-0000001.png", "y", "train"],
        ["tlcli-v1/train-0000003.png", "y", "train"],
    ]
    assert [path.read_bytes() for path in table.paths("train")] == [png(0), png(1), png(3)]
    left_out = f"{spec}: 1 image has no label and is left out of the part 'train'."
    assert table.remarks == load_table(spec).remarks == (left_out,)
    assert table.root.parent == caches
    assert load_table(spec).fingerprint == table.fingerprint


@needs_datasets
def test_load_table__columns_and_groups(tmp_path: Path) -> None:
    features = {
        "left": datasets.Image(),
        "right": datasets.Image(),
        "kind": datasets.Value("string"),
        "who": datasets.Value("int64"),
    }
    columns = {
        "left": pictures(3),
        "right": pictures(4)[1:],
        "kind": ["001", "None", "001"],
        "who": [7, 8, 7],
    }
    spec = save(tmp_path / "set", columns, features)
    chosen = TableColumns(path="right", label="kind", group="who")

    table = load_table(spec, columns=chosen)

    assert list(table.items["label"]) == ["001", "001", "None"]
    assert list(table.items["group"]) == ["7", "7", "8"]
    assert [path.read_bytes() for path in table.paths("train")] == [png(1), png(3), png(2)]
    for columns, message in (
        (TableColumns(label="kind"), "has 2 columns of images among 'left', 'right', 'kind'"),
        (TableColumns(path="left"), "Which column of .* is the one label .* 'kind', 'who'; name"),
        (TableColumns(path="kind"), "--path-column 'kind' is no such column of .*; of use are"),
        (TableColumns(path="left", label="x"), "--label-column 'x' is no such column"),
        (
            TableColumns(path="left", label="kind", group="x"),
            "--group-column 'x' is no such column",
        ),
    ):
        with pytest.raises(DataError, match=message):
            load_table(spec, columns=columns)


@needs_datasets
def test_load_table__changed_folder_is_exported_anew(tmp_path: Path, write_images) -> None:
    write_images(tmp_path / "set", ["train/a/1.png", "train/b/1.png"])
    assert len(load_table(f"hf:{tmp_path}/set").items) == 2
    write_images(tmp_path / "set", ["train/b/2.png"])
    assert len(load_table(f"hf:{tmp_path}/set").items) == 3


@needs_datasets
def test_load_table__saved_to_disk(tmp_path: Path) -> None:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])}
    )
    part = datasets.Dataset.from_dict({"image": pictures(2), "label": [1, 0]}, features=features)
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(str(tmp_path / "set"))

    table = load_table(f"hf:{tmp_path}/set")

    assert table.splits == ("train", "test")
    assert list(table.part("test")["label"]) == ["x", "y"]


@needs_datasets
def test_load_table__other_parts_are_told(tmp_path: Path) -> None:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])}
    )
    part = datasets.Dataset.from_dict({"image": pictures(2), "label": [1, 0]}, features=features)
    parts = {"train": part, "extra": part, "unsupervised": part}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "set"))
    spec = f"hf:{tmp_path}/set"
    for _ in range(2):
        assert load_table(spec).remarks == (
            f"{spec}: the parts 'extra', 'unsupervised' are not used.",
        )


@needs_datasets
def test_load_table__parts_of_no_known_name(tmp_path: Path) -> None:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])}
    )
    part = datasets.Dataset.from_dict({"image": pictures(2), "label": [1, 0]}, features=features)
    datasets.DatasetDict({"small": part}).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(DataError, match="has the parts 'small'; one must be called train"):
        load_table(f"hf:{tmp_path}/set")


@needs_datasets
def test_load_table__folder_that_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(DataError, match=f"Cannot load hf:{tmp_path}/set: "):
        load_table(f"hf:{tmp_path}/set")


def test_load_table__offline_downloads_nothing(caches: Path) -> None:
    with pytest.raises(DataError, match="not exported on this machine yet, and --offline forbids"):
        load_table("hf:nobody/nothing", offline=True)


def test_load_table__split_column_has_no_effect() -> None:
    with pytest.raises(ConfigError, match="--split-column has no effect on hf:mnist, which has"):
        load_table("hf:mnist", columns=TableColumns(split="part"))


@pytest.mark.skipif(datasets is not None, reason="the package datasets is installed")
def test_load_table__without_the_extra(tmp_path: Path) -> None:
    message = r"needs the package 'datasets': pip install 'tlcli\[hf\]'\."
    with pytest.raises(MachineError, match=message):
        load_table(f"hf:{tmp_path}")
