"""`tlcli extract-features --no-head`: the right numbers, each computed once, and never mixed."""

import itertools
import os
import shutil
import signal
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor
from toy import CLASSES, make_split_folders

from recipes.feature_runs import (
    MODELS,
    all_bytes,
    cache_counts,
    embeddings,
    extract,
    extract_config,
    plain_embeddings,
    plain_input,
    plain_network,
    preprocessing_of,
    small_shards,
    solve,
    store_bytes,
    stored,
)
from recipes.runs import record_of, rows_of
from tlcli.config import ModelConfig
from tlcli.data.augment import train_transform, view_generator
from tlcli.data.images import read_image
from tlcli.data.preprocessing import Preprocessing
from tlcli.data.store.tensor_store import TensorStore
from tlcli.data.transforms import normalize
from tlcli.errors import (
    BadImageError,
    ConfigError,
    DataError,
    InterruptedRunError,
    ModelError,
    WeightsError,
)
from tlcli.recipes import extraction_job, store_filling
from tlcli.recipes.extract_features import _folders, parse_shard, split_models
from tlcli.recipes.feature_places import default_features_path

IMAGES = 27
"""In `photos`: 12 train, 9 val, 6 test."""
HALF_ULP = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 0.0}


@pytest.fixture(scope="session")
def plain_store(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """Features of `photos` without a head, several shards; for reading only."""
    path = tmp_path_factory.mktemp("plain") / "store"
    with pytest.MonkeyPatch.context() as patch:
        small_shards(patch, 5)
        extract(photos, path, no_head=True)
    return path


@pytest.fixture
def store(plain_store: Path, tmp_path: Path) -> Path:
    """A copy to work on."""
    return shutil.copytree(plain_store, tmp_path / "store")


def bmp_folders(root: Path, *, train: int = 4) -> Path:
    """Images whose files all have the same size."""
    png = make_split_folders(root / "png", counts={"train": train, "val": 2}, size=24)
    for path in sorted(png.rglob("*.png")):
        target = root / "bmp" / path.relative_to(png).with_suffix(".bmp")
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.save(target)
    return root / "bmp"


def close_to(found: Tensor, wanted: Tensor, *, dtype: str) -> bool:
    """Say whether values are the wanted ones, rounded to a dtype; float32 sums in any order."""
    slack = 1e-5 * float(wanted.abs().max())
    return bool(((found.float() - wanted).abs() <= HALF_ULP[dtype] * wanted.abs() + slack).all())


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("name", MODELS)
def test_run__embeddings_are_those_of_a_plain_loop(
    tmp_path: Path, photos: Path, timm_files: dict[str, Path], name: str, dtype: str
) -> None:
    weights = timm_files[name]
    extract(
        photos, tmp_path / "s", model=f"timm/{name}", weights=weights, dtype=dtype, no_head=True
    )

    rows = stored(tmp_path / "s")
    found = torch.stack([row["embedding"] for row in rows.values()])
    wanted = plain_embeddings(photos, [path for path, _ in rows], name=name, weights=weights)
    assert len(rows) == IMAGES
    assert found.dtype == getattr(torch, dtype)
    assert close_to(found, wanted, dtype=dtype)
    assert wanted.std() > 0.01
    record = record_of(tmp_path / "s")
    assert Preprocessing.from_json(record["preprocessing"]) == preprocessing_of(name)
    assert record["features"]["dims"] == {"embedding": [wanted.shape[1]]}


def hooked(name: str, weights: Path, module: str, pixels: Tensor) -> Tensor:
    """Return what a module of timm's own network puts out."""
    network, seen = plain_network(name, weights), []
    network.get_submodule(module).register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.inference_mode():
        network(pixels)
    result: Tensor = seen[-1]
    return result


@pytest.mark.parametrize(
    ("name", "layers", "pool", "oracle"),
    [
        ("test_resnet", ("layer2",), None, lambda out: out.mean((2, 3))),
        ("test_resnet", ("layer2", "layer4"), "avg", lambda out: out.mean((2, 3))),
        ("test_resnet", ("layer3",), "max", lambda out: out.amax((2, 3))),
        ("test_resnet", ("layer4",), "none", lambda out: out),
        ("test_vit", ("blocks.1", "blocks.3"), "cls", lambda out: out[:, 0]),
        ("test_vit", ("blocks.2",), "avg", lambda out: out[:, 1:].mean(1)),
        ("test_vit", ("blocks.2",), "max", lambda out: out[:, 1:].amax(1)),
        ("test_efficientnet", ("blocks.2", "blocks.3"), "avg", lambda out: out.mean((2, 3))),
    ],
)
def test_run__layers_are_outputs_of_stages_pooled(
    tmp_path: Path,
    photos: Path,
    timm_files: dict[str, Path],
    name: str,
    layers: tuple[str, ...],
    pool: str | None,
    oracle: Callable[[Tensor], Tensor],
) -> None:
    weights = timm_files[name]
    options = {"model": f"timm/{name}", "weights": weights, "layer": ",".join(reversed(layers))}
    extract(photos, tmp_path / "s", **options, pool=pool, dtype="float32", limit=3, no_head=True)

    rows = stored(tmp_path / "s")
    assert record_of(tmp_path / "s")["features"]["layers"] == list(layers)
    assert len(rows) == 9
    for (path, _), found in itertools.islice(rows.items(), 3):
        pixels = plain_input(photos / path, name=name)
        assert tuple(found) == layers
        for layer in layers:
            wanted = oracle(hooked(name, weights, layer, pixels))[0]
            assert found[layer].shape == wanted.shape
            assert close_to(found[layer], wanted, dtype="float32")


def test_run__bfloat16_is_the_rounded_float32(
    tmp_path: Path, photos: Path, timm_files: dict[str, Path]
) -> None:
    for dtype in ("bfloat16", "float32"):
        weights = timm_files["test_resnet"]
        extract(photos, tmp_path / dtype, weights=weights, dtype=dtype, no_head=True)

    rounded, exact = stored(tmp_path / "bfloat16"), stored(tmp_path / "float32")
    for key, row in exact.items():
        assert torch.equal(rounded[key]["embedding"], row["embedding"].bfloat16())


def test_run__value_that_does_not_fit_the_dtype_is_an_error(
    tmp_path: Path, photos: Path, timm_files: dict[str, Path]
) -> None:
    state = safetensors.torch.load_file(timm_files["test_resnet"])
    state["layer4.0.bn2.weight"] *= 1e7
    state["layer4.0.bn2.bias"] += 1e7
    weights = tmp_path / "large.safetensors"
    safetensors.torch.save_file(state, weights)

    with pytest.raises(DataError, match="exceeds float16: use --dtype bfloat16 or float32"):
        extract(photos, tmp_path / "s", weights=weights, no_head=True)
    extract(photos, tmp_path / "b", weights=weights, dtype="bfloat16", no_head=True)
    assert len(stored(tmp_path / "b")) == IMAGES


def test_run__views_are_random_views_of_train_images_only(
    tmp_path: Path, photos: Path, timm_files: dict[str, Path]
) -> None:
    weights, name = timm_files["test_resnet"], "test_resnet"
    options: dict[str, Any] = {"weights": weights, "seed": 7, "augment": "medium"}
    summary, _ = extract(photos, tmp_path / "s", **options, views=2, dtype="float32", no_head=True)

    rows = stored(tmp_path / "s")
    assert cache_counts(summary) == (0, IMAGES + 2 * 12)
    assert {view for path, view in rows if path.startswith("train/")} == {-1, 0, 1}
    assert {view for path, view in rows if not path.startswith("train/")} == {-1}
    network = plain_network(name, weights)
    network.reset_classifier(0)
    wanted = preprocessing_of(name)
    augment = train_transform(wanted, level="medium")
    for path, view in [("train/ant/0.png", 0), ("train/ant/0.png", 1), ("train/cat/3.png", 1)]:
        picture = read_image(photos / path)
        generator = view_generator(seed=7, content_key=picture.content_key, view=view)
        pixels = augment(picture.image, generator)
        with torch.inference_mode():
            alone = network(normalize(pixels[None], mean=wanted.mean, std=wanted.std))[0]
        assert close_to(rows[path, view]["embedding"], alone, dtype="float32")
        assert not close_to(rows[path, -1]["embedding"], alone, dtype="float32")


def test_run__more_views_compute_only_the_new_ones(tmp_path: Path, photos: Path) -> None:
    counts = []
    for views in (0, 2, 3, 1):
        summary, _ = extract(photos, tmp_path / "s", views=views, no_head=True)
        counts.append(cache_counts(summary))

    assert counts == [(0, 27), (27, 24), (51, 12), (39, 0)]
    assert len(stored(tmp_path / "s")) == 39
    other, _ = extract(photos, tmp_path / "s", views=1, augment="flip", no_head=True)
    assert cache_counts(other) == (27, 12)


def test_run__second_time_computes_nothing_and_changes_nothing(store: Path, photos: Path) -> None:
    before = store_bytes(store)

    summary, talk = extract(photos, store, no_head=True)

    assert cache_counts(summary) == (IMAGES, 0)
    assert store_bytes(store) == before
    assert f"Store: {store}: 0 of {IMAGES} rows to compute." in talk.notes
    assert not [note for note in talk.notes if note.startswith("Computed")]


def test_run__ten_new_images_compute_ten(tmp_path: Path) -> None:
    data = make_split_folders(tmp_path / "photos", counts={"train": 3, "val": 2})
    extract(data, tmp_path / "s", dtype="float32", no_head=True)
    before = embeddings(tmp_path / "s")
    more = make_split_folders(tmp_path / "more", counts={"train": 10}, classes=("bee",), seed=9)
    for path in (more / "train" / "bee").iterdir():
        shutil.copy(path, data / "train" / "bee" / f"new{path.name}")

    summary, _ = extract(data, tmp_path / "s", dtype="float32", no_head=True)
    extract(data, tmp_path / "fresh", dtype="float32", no_head=True)

    after, fresh = embeddings(tmp_path / "s"), embeddings(tmp_path / "fresh")
    assert cache_counts(summary) == (15, 10)
    assert list(after) == list(fresh)
    assert all(torch.equal(after[path], before[path]) for path in before)
    assert all(close_to(after[path], fresh[path], dtype="float32") for path in fresh)


def test_run__images_that_are_gone_are_left_out(tmp_path: Path) -> None:
    data = make_split_folders(tmp_path / "photos", counts={"train": 3, "val": 2})
    extract(data, tmp_path / "s", no_head=True)
    (data / "train" / "ant" / "0.png").unlink()

    summary, _ = extract(data, tmp_path / "s", no_head=True)

    assert cache_counts(summary) == (14, 0)
    assert "train/ant/0.png" not in embeddings(tmp_path / "s")


def test_run__image_changed_in_place_is_computed_again(tmp_path: Path) -> None:
    data = bmp_folders(tmp_path)
    extract(data, tmp_path / "s", no_head=True)
    before = embeddings(tmp_path / "s")
    path = data / "train" / "ant" / "1.bmp"
    stat = path.stat()
    path.write_bytes(path.read_bytes()[:-3] + bytes([0, 255, 0]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)

    summary, _ = extract(data, tmp_path / "s", no_head=True)

    after = embeddings(tmp_path / "s")
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert cache_counts(summary) == (17, 1)
    assert changed == ["train/ant/1.bmp"]


def test_run__renamed_image_is_not_computed_again(tmp_path: Path) -> None:
    data = make_split_folders(tmp_path / "photos", counts={"train": 3, "val": 2})
    extract(data, tmp_path / "s", no_head=True)
    before = embeddings(tmp_path / "s")["train/ant/0.png"]
    (data / "train" / "ant" / "0.png").rename(data / "train" / "ant" / "z.png")

    summary, _ = extract(data, tmp_path / "s", no_head=True)

    assert cache_counts(summary) == (15, 0)
    assert torch.equal(embeddings(tmp_path / "s")["train/ant/z.png"], before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float32"}, 'dtype is "float16" there and "float32" here'),
        ({"layer": "layer4"}, r'layers is \["embedding"\] there and \["layer4"\] here'),
        ({"seed": 1}, 'weights is "[0-9a-f]{64}" there and'),  # random weights
        ({"model": "timm/test_vit"}, 'model is "timm/test_resnet" there and "timm/test_vit" here'),
        ({"fold_norm": False}, 'batch_norms is "folded" there and "apart" here'),
    ],
    ids=str,
)
def test_run__other_settings_do_not_mix(
    store: Path, photos: Path, options: dict[str, Any], words: str
) -> None:
    before = all_bytes(store)

    with pytest.raises(ConfigError, match=f"was computed with other settings: .*{words}") as caught:
        extract(photos, store, no_head=True, **options)

    assert "Choose another --output, or start it anew with --overwrite." in str(caught.value)
    assert all_bytes(store) == before


def test_run__other_pooling_does_not_mix(tmp_path: Path, photos: Path) -> None:
    extract(photos, tmp_path / "s", layer="layer4", no_head=True)

    with pytest.raises(ConfigError, match='pool is "avg" there and "max" here'):
        extract(photos, tmp_path / "s", layer="layer4", pool="max", no_head=True)


def test_run__other_crop_does_not_mix(
    store: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = extraction_job.load_backbone

    def with_other_crop(model: ModelConfig, *, talk: Any) -> Any:
        backbone = load(model, talk=talk)
        preprocessing = replace(backbone.preprocessing, resize_size=(170, 170))
        return replace(backbone, preprocessing=preprocessing)

    monkeypatch.setattr(extraction_job, "load_backbone", with_other_crop)
    before = all_bytes(store)

    with pytest.raises(ConfigError, match=r"preprocessing\.resize_size is .* there and \[170, 170"):
        extract(photos, store, no_head=True)

    assert all_bytes(store) == before


def test_run__other_weights_in_a_file_of_the_same_name_do_not_mix(
    tmp_path: Path, photos: Path, timm_files: dict[str, Path]
) -> None:
    weights = tmp_path / "w.safetensors"
    state = safetensors.torch.load_file(timm_files["test_resnet"])
    safetensors.torch.save_file(state, weights)
    extract(photos, tmp_path / "s", weights=weights, no_head=True)
    state["layer1.0.conv1.weight"][0, 0, 0, 0] += 1e-3
    safetensors.torch.save_file(state, weights)

    with pytest.raises(ConfigError, match=r'weights is "[0-9a-f]{64}" there'):
        extract(photos, tmp_path / "s", weights=weights, no_head=True)


def test_run__weights_of_the_head_do_not_matter(
    tmp_path: Path, photos: Path, timm_files: dict[str, Path]
) -> None:
    weights = tmp_path / "w.safetensors"
    state = safetensors.torch.load_file(timm_files["test_resnet"])
    safetensors.torch.save_file(state, weights)
    extract(photos, tmp_path / "s", weights=weights, no_head=True)
    state["fc.weight"] += 1
    safetensors.torch.save_file(state, weights)

    summary, _ = extract(photos, tmp_path / "s", weights=weights, no_head=True)

    assert cache_counts(summary) == (IMAGES, 0)


def test_run__overwrite_starts_anew(store: Path, photos: Path) -> None:
    own = store / "notes.txt"
    own.write_text("mine")

    summary, _ = extract(photos, store, dtype="float32", overwrite=True, no_head=True)
    again, _ = extract(photos, store, dtype="float32", overwrite=True, no_head=True)

    assert cache_counts(summary) == cache_counts(again) == (0, IMAGES)
    assert {row["embedding"].dtype for row in stored(store).values()} == {torch.float32}
    assert own.read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
def test_run__folder_of_something_else_is_left_alone(
    tmp_path: Path, photos: Path, overwrite: bool
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "run.json").write_text('{"schema_version": 1, "kind": "classification"}')
    before = all_bytes(folder)

    with pytest.raises(ConfigError, match="is not empty and holds no features: choose another"):
        extract(photos, folder, overwrite=overwrite, no_head=True)
    with pytest.raises(ConfigError, match="is a file, not a folder: choose another --output"):
        extract(photos, folder / "run.json", overwrite=overwrite, no_head=True)

    assert all_bytes(folder) == before


def test_run__shards_without_a_manifest_are_found_again(
    store: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = store_bytes(store)
    (store / "manifest.json").unlink()  # the last thing that --overwrite deletes
    small_shards(monkeypatch, 5)

    summary, _ = extract(photos, store, no_head=True)

    assert cache_counts(summary) == (IMAGES, 0)
    assert store_bytes(store) == before


def test_run__exact_copies_are_computed_once_and_warned_of(tmp_path: Path) -> None:
    data = make_split_folders(tmp_path / "photos", counts={"train": 3, "val": 2})
    shutil.copy(data / "train" / "ant" / "0.png", data / "train" / "ant" / "copy.png")

    summary, talk = extract(data, tmp_path / "s", no_head=True)

    rows = embeddings(tmp_path / "s")
    assert cache_counts(summary) == (1, 15)
    assert summary["trunk_cache"]["copies"] == 1
    assert torch.equal(rows["train/ant/0.png"], rows["train/ant/copy.png"])
    (warning,) = talk.warnings
    assert warning.startswith("1 image is an exact copy of another in the same split. 'train/ant/")
    (row,) = rows_of(tmp_path / "s" / "duplicates.csv")
    assert (row["path"], row["same_as"]) == ("train/ant/copy.png", "train/ant/0.png")
    record = record_of(tmp_path / "s")["data"]
    assert (record["exact_copies"], record["copies_across_splits"]) == (1, 0)


def test_run__copies_in_two_splits_are_warned_of_with_views_too(tmp_path: Path) -> None:
    data = make_split_folders(tmp_path / "photos", counts={"train": 3, "val": 2})
    shutil.copy(data / "val" / "bee" / "0.png", data / "train" / "bee" / "copy.png")

    summary, talk = extract(data, tmp_path / "s", views=1, no_head=True)

    assert cache_counts(summary) == (1, 15 + 10)
    (warning,) = talk.warnings
    assert warning.startswith(
        "1 image is an exact copy of another, and 1 of the copied pictures lies in more than one "
        "split: results on val and test are flattered. 'val/bee/0.png' equals 'train/bee/copy.png'"
    )


def test_run__batch_size_moves_the_last_digits_at_most(tmp_path: Path, photos: Path) -> None:
    for size in (1, 5):
        extract(photos, tmp_path / f"{size}", batch_size=size, dtype="float32", no_head=True)
    summary, _ = extract(photos, tmp_path / "1", batch_size=5, dtype="float32", no_head=True)

    one, five = embeddings(tmp_path / "1"), embeddings(tmp_path / "5")
    assert all(close_to(one[path], five[path], dtype="float32") for path in five)
    assert cache_counts(summary) == (IMAGES, 0)


@pytest.mark.parametrize("workers", [1, 3])
def test_run__number_of_threads_changes_no_byte(
    tmp_path: Path,
    plain_store: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    small_shards(monkeypatch, 5)

    extract(photos, tmp_path / "s", num_workers=workers, no_head=True)

    assert len(list((tmp_path / "s" / "shards").iterdir())) == 6
    assert store_bytes(tmp_path / "s") == store_bytes(plain_store)


@pytest.mark.parametrize("order", [*itertools.permutations([1, 2, 3])], ids=str)
def test_shard__jobs_in_any_order_make_the_same_bytes(
    tmp_path: Path,
    plain_store: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    order: tuple[int, ...],
) -> None:
    small_shards(monkeypatch, 5)  # six shards, two for each job

    summaries, talks = zip(
        *(extract(photos, tmp_path / "s", shard=f"{number}/3", no_head=True) for number in order),
        strict=True,
    )

    last = summaries[-1]
    assert [one["status"] for one in summaries] == ["unfinished", "unfinished", "finished"]
    assert [one["missing_shards"] for one in summaries[:2]] == [4, 2]
    assert last["run"] is None
    assert talks[0].notes[-1] == "4 of 6 shards are still to be written by other jobs."
    assert talks[1].notes[-1] == "2 of 6 shards are still to be written by other jobs."
    assert store_bytes(tmp_path / "s") == store_bytes(plain_store)
    left = {1: 10, 2: 10, 3: 7}[order[-1]]
    assert cache_counts(last) == (IMAGES - left, left)


def test_shard__head_is_solved_by_the_command_without_it(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch, 20)  # fewer shards than jobs
    summaries = [extract(photos, tmp_path / "s", shard=f"{n}/3")[0] for n in (3, 2, 1)]

    assert [one["status"] for one in summaries] == ["unfinished", "unfinished", "finished"]
    assert (summaries[2]["run"], summaries[2]["results"]) == (None, {})
    assert not (tmp_path / "s" / "head").exists()
    whole, _ = extract(photos, tmp_path / "s")
    assert cache_counts(whole) == (IMAGES, 0)
    assert set(whole["results"]) == {"val", "test"}


def test_shard__several_models_are_listed_not_ranked(tmp_path: Path, photos: Path) -> None:
    both = {"model": "timm/test_resnet,timm/test_vit"}

    first, _ = extract(photos, tmp_path / "s", **both, shard="2/2")
    last, _ = extract(photos, tmp_path / "s", **both, shard="1/2")

    assert [run["status"] for run in first["runs"]] == ["unfinished", "unfinished"]
    assert set(last) == {"schema_version", "runs"}
    assert [run["store"] for run in last["runs"]] == [
        str(tmp_path / "s" / name) for name in ("test_resnet", "test_vit")
    ]


@pytest.mark.parametrize(
    "text", ["0/3", "4/3", "x", "1", "1/", "/3", "1/0", "-1/3", "1/3/3", "1.5/3"]
)
def test_parse_shard__nonsense(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--shard '{text}' is not understood: write 1/8, 2/8"):
        parse_shard(text)


def test_parse_shard__counts_from_one() -> None:
    assert parse_shard(None) is None
    assert parse_shard("1/1") == (1, 1)
    assert parse_shard("8/8") == (8, 8)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"layer": "layer9"}, ConfigError, "--layer 'layer9' matches no stage of this model"),
        ({"layer": "head"}, ConfigError, "--layer 'head'"),
        ({"layer": "layer4", "pool": "cls"}, ModelError, "cls"),
        ({"model": "timm/test_rexnet"}, ModelError, "No model is called 'timm/test_rexnet'"),
        ({"data": "nowhere"}, DataError, "There is no data at"),
        ({"penalties": "a,b", "no_head": False}, ConfigError, "--penalties 'a,b' is not under"),
        ({"shots": "0", "no_head": False}, ConfigError, "--shots '0' is not understood"),
        ({"shots": "5", "no_head": False}, DataError, "the smallest class has 4 train images"),
        ({"limit": 2}, ConfigError, "--limit 2 is smaller than the 3 classes"),
    ],
    ids=str,
)
def test_run__wrong_use_is_told(
    tmp_path: Path, photos: Path, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    values = {"data": photos, "no_head": True, **options}

    with pytest.raises(error, match=words):
        extract(values.pop("data"), tmp_path / "s", **values)


def test_run__head_needs_a_part_to_choose_by(tmp_path: Path) -> None:
    data = make_split_folders(tmp_path / "photos", counts={"train": 3})

    with pytest.raises(DataError, match="has no images in the part 'val'"):
        extract(data, tmp_path / "s", val_split=0.0)

    assert not (tmp_path / "s").exists()


def test_run__views_need_train_images(tmp_path: Path) -> None:
    data = make_split_folders(tmp_path / "photos", counts={"test": 3})

    with pytest.raises(ConfigError, match="--views are views of train images, and there are none"):
        extract(data, tmp_path / "s", views=1, no_head=True)


@pytest.mark.parametrize(
    ("model", "weights", "words"),
    [
        ("timm/test_resnet,timm/test_vit", "none,none,none", "3 weights for 2 models: give one"),
        ("timm/test_resnet,timm/test_vit,timm/test_vit2", "none,none", "2 weights for 3 models"),
        ("timm/test_vit,timm/test_vit", "none", "names a model twice"),
        ("timm/test_vit, timm/test_vit", "none", "names a model twice"),
        ("resnet18,torchvision/resnet18", "none", "names a model twice"),
    ],
)
def test_split_models__mistakes(model: str, weights: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        split_models(ModelConfig(model=model, weights=weights))


def test_split_models__all_are_looked_up_before_anything_is_computed() -> None:
    with pytest.raises(ModelError, match="No model is called 'timm/no_such'"):
        split_models(ModelConfig(model="timm/test_vit,timm/no_such", weights="none"))
    with pytest.raises(ModelError, match="No model is called ''"):
        split_models(ModelConfig(model="timm/test_vit,", weights="none"))
    with pytest.raises(ModelError, match="'V9' is no weight tag of timm/test_resnet"):
        split_models(ModelConfig(model="timm/test_vit,timm/test_resnet", weights="none,V9"))


def test_split_models__one_file_does_not_fit_two_models(timm_files: dict[str, Path]) -> None:
    models = ModelConfig(
        model="timm/test_resnet,timm/test_vit", weights=str(timm_files["test_vit"])
    )
    with pytest.raises(ConfigError, match="names 1 weights file for 2 models: give one for each"):
        split_models(models)


@pytest.mark.parametrize("pixels", [{"mean": "0.5"}, {"std": "0.5"}], ids=str)
def test_split_models__pixels_are_those_of_one_model(pixels: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="--mean and --std are those of one network"):
        split_models(ModelConfig(model="timm/test_resnet,timm/test_vit", weights="none", **pixels))
    (alone,) = split_models(ModelConfig(model="timm/test_vit", weights="none", **pixels))
    assert alone == ModelConfig(model="timm/test_vit", weights="none", **pixels)


def test_split_models__files_are_found_from_anywhere(
    timm_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = timm_files["test_vit"]
    monkeypatch.chdir(file.parent)
    (one,) = split_models(ModelConfig(model="timm/test_vit", weights=file.name))
    assert one.weights == str(file)


def test_run__all_models_are_loaded_before_the_first_is_extracted(
    tmp_path: Path, photos: Path, timm_files: dict[str, Path]
) -> None:
    both = {"model": "timm/test_resnet,timm/test_vit"}
    own, broken = timm_files["test_resnet"], tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")

    with pytest.raises(WeightsError, match="fits another architecture"):
        extract(photos, tmp_path / "s", **both, weights=f"{own},{own}", no_head=True)
    with pytest.raises(WeightsError, match=r"broken\.safetensors .* is damaged"):
        extract(photos, tmp_path / "s", **both, weights=f"{own},{broken}", no_head=True)
    with pytest.raises(ConfigError, match="--layer 'layer4' matches no stage"):
        extract(photos, tmp_path / "s", **both, layer="layer4", no_head=True)

    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layer": "layer9"}, "--layer 'layer9' matches no stage"),
        ({"layer": "layer4", "pool": "cls"}, "cls"),
    ],
)
def test_run__wrong_layers_are_told_before_images_are_looked_at(
    tmp_path: Path, options: dict[str, str], words: str
) -> None:
    with pytest.raises((ConfigError, ModelError), match=words):
        extract(tmp_path / "nowhere", tmp_path / "s", **options, no_head=True)


@pytest.mark.parametrize(
    ("images", "rows"), [(10, 10), (33, 32), (256, 32), (257, 33), (4000, 500), (9000, 512)]
)
def test_plan_shards__few_images_make_eight_shards_of_32_rows_or_more(
    tmp_path: Path, images: int, rows: int
) -> None:
    ids = np.random.default_rng(0).integers(0, 256, (images, 32), dtype=np.uint8)
    job: Any = SimpleNamespace(ids=ids, dims={"a": (4,)}, config=extract_config(tmp_path, None))
    store = TensorStore.open_or_create(tmp_path / "s", key={})

    sizes = [len(plan) for plan in store_filling.plan_shards(job, store)]

    assert sizes[:-1] == [rows] * (len(sizes) - 1)
    assert (sum(sizes), sizes[-1] <= rows) == (images, True)


def test_run__a_small_set_that_was_stopped_keeps_part_of_it(
    tmp_path: Path,
    noisy: Path,
    features: Path,
    timm_files: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embed, seen = store_filling._embed, []

    def embed_and_stop(job: Any, rows: Any) -> Any:
        seen.append(rows)
        if len(seen) == 10:  # eight rows each
            os.kill(os.getpid(), signal.SIGINT)
        return embed(job, rows)

    options = {"weights": timm_files["test_resnet"], "num_workers": 1, "no_head": True}
    with monkeypatch.context() as patch:
        patch.setattr(store_filling, "_embed", embed_and_stop)
        with pytest.raises(InterruptedRunError, match="Stopped; 64 of 126 rows are kept"):
            extract(noisy, tmp_path / "s", **options)

    summary, _ = extract(noisy, tmp_path / "s", **options)

    assert cache_counts(summary) == (64, 62)
    assert len(list((tmp_path / "s" / "shards").iterdir())) == 4
    assert store_bytes(tmp_path / "s") == store_bytes(features)


def test_split_models__weights_are_one_for_all_or_one_for_each(
    timm_files: dict[str, Path],
) -> None:
    file = str(timm_files["test_vit"])
    models = ModelConfig(model="timm/test_resnet, timm/test_vit", weights=f"none, {file}")

    assert split_models(models) == [
        ModelConfig(model="timm/test_resnet", weights="none"),
        ModelConfig(model="timm/test_vit", weights=file),
    ]
    assert {one.weights for one in split_models(replace(models, weights="none"))} == {"none"}


def test_folders__models_of_one_name_get_folders_of_their_own(tmp_path: Path) -> None:
    config = extract_config(tmp_path, tmp_path / "s", model="resnet18,timm/resnet18,timm/test_vit")

    assert _folders(config, split_models(config.model)) == [
        tmp_path / "s" / name for name in ("torchvision-resnet18", "timm-resnet18", "test_vit")
    ]


def spoil(photos: Path, folder: Path) -> tuple[Path, Path]:
    """Return a copy of the photos with an image that cannot be decoded, and that image."""
    data = shutil.copytree(photos, folder)
    bad = data / "train" / "cat" / "2.png"
    bad.write_bytes(bad.read_bytes()[:100])
    return data, bad


def test_run__bad_image_is_named_and_what_was_computed_is_kept(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch, 5)
    data, bad = spoil(photos, tmp_path / "photos")

    with pytest.raises(BadImageError) as caught:
        extract(data, tmp_path / "s", num_workers=1, no_head=True)

    assert caught.value.exit_code == 3
    assert str(bad) in str(caught.value)
    assert str(caught.value).endswith("or leave such images out with --on-bad-image skip.")
    written = len(list((tmp_path / "s" / "shards").iterdir()))
    shutil.copy(photos / "train" / "cat" / "2.png", bad)
    summary, _ = extract(data, tmp_path / "s", no_head=True)
    assert written > 0
    assert cache_counts(summary) == (5 * written, IMAGES - 5 * written)


def test_run__bad_image_is_skipped_where_that_is_asked_for(tmp_path: Path, photos: Path) -> None:
    data, bad = spoil(photos, tmp_path / "photos")

    summary, talk = extract(data, tmp_path / "s", on_bad_image="skip", no_head=True)

    assert cache_counts(summary) == (0, IMAGES - 1)
    assert "train/cat/2.png" not in embeddings(tmp_path / "s")
    assert [row["path"] for row in rows_of(tmp_path / "s" / "skipped_images.csv")] == [
        "train/cat/2.png"
    ]
    assert len(talk.warnings) == 1
    assert str(bad) in talk.warnings[0]
    assert record_of(tmp_path / "s")["data"]["skipped"] == 1


def shard_of(store: Path, number: int) -> Path:
    return sorted((store / "shards").iterdir())[number]


@pytest.mark.parametrize("how", ["cut", "gone", "overwritten"])
def test_run__damaged_shard_is_computed_again(store: Path, photos: Path, how: str) -> None:
    before, shard = store_bytes(store), shard_of(store, 2)
    if how == "cut":
        shard.write_bytes(shard.read_bytes()[:-7])
    elif how == "gone":
        shard.unlink()
    else:
        shard.write_bytes(b"no shard")

    with pytest.raises(DataError, match=rf"The shard '{shard}' is missing or damaged\. Run the"):
        solve(store)
    summary, talk = extract(photos, store, no_head=True)

    assert cache_counts(summary)[1] in (2, 5)
    assert len(talk.warnings) == 1
    assert talk.warnings[0].startswith(f"Missing or damaged in '{store}': 1 shard (")
    assert store_bytes(store) == before


def test_run__lost_items_are_written_again(store: Path, photos: Path) -> None:
    before = store_bytes(store)
    (store / "items.parquet").unlink()

    with pytest.raises(DataError, match=r"items\.parquet' is missing: unfinished work"):
        solve(store)
    summary, _ = extract(photos, store, no_head=True)

    assert cache_counts(summary) == (IMAGES, 0)
    assert store_bytes(store) == before


def test_run__damaged_manifest_is_told(store: Path, photos: Path) -> None:
    (store / "manifest.json").write_text("{")

    with pytest.raises(DataError, match=r"manifest\.json' is damaged .* compute again into"):
        extract(photos, store, no_head=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run__stopped_by_a_signal_goes_on_where_it_was(
    tmp_path: Path,
    plain_store: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    small_shards(monkeypatch, 5)
    batches: list[int] = []
    embed = store_filling._embed

    def embed_and_signal(job: Any, rows: Any) -> Any:
        batches.append(len(rows))
        if len(batches) == 4:
            os.kill(os.getpid(), number)
        return embed(job, rows)

    path = tmp_path / "s"
    with monkeypatch.context() as patch:
        patch.setattr(store_filling, "_embed", embed_and_signal)
        with pytest.raises(InterruptedRunError) as caught:
            extract(photos, path, num_workers=1, no_head=True)

    assert caught.value.exit_code == 128 + number
    with pytest.raises(DataError, match="are not finished: run the same extract-features command"):
        solve(path)
    written = len(list((path / "shards").iterdir()))
    assert str(caught.value) == (
        f"Stopped; {5 * written} of {IMAGES} rows are kept in {path}. The same command goes on "
        "from there."
    )
    summary, _ = extract(photos, path, no_head=True)
    assert 0 < written < 6
    assert cache_counts(summary) == (5 * written, IMAGES - 5 * written)
    assert store_bytes(path) == store_bytes(plain_store)


def test_verify__says_what_it_found(store: Path, photos: Path) -> None:
    _, talk = extract(photos, store, verify=0.4, no_head=True)

    said = [note for note in talk.notes if note.startswith("Verified: ")]
    assert len(said) == 1
    assert said[0].startswith(f"Verified: 11 of {IMAGES} rows computed again deviate by at most ")


def test_verify__finds_a_row_that_is_wrong(store: Path, photos: Path) -> None:
    shard = shard_of(store, 1)
    with safetensors.safe_open(shard, framework="pt") as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load_file(shard)
    tensors["embedding"][-1] *= 1.01
    safetensors.torch.save_file(tensors, shard, metadata=metadata)

    with pytest.raises(DataError, match="--verify: 27 of 27 rows computed again deviate") as caught:
        extract(photos, store, verify=1.0, no_head=True)
    assert f"The store '{store}' cannot be trusted: compute it again with --overwrite." in str(
        caught.value
    )


def test_run__record_proves_that_the_network_did_not_move(
    tmp_path: Path, photos: Path, timm_files: dict[str, Path]
) -> None:
    weights = timm_files["test_resnet"]
    summary, _ = extract(photos, tmp_path / "s", weights=weights, no_head=True)

    network = plain_network("test_resnet", weights)
    parameters = [n for n, _ in network.named_parameters() if not n.startswith("fc.")]
    buffers = [n for n, _ in network.named_buffers()]
    assert (summary["frozen"]["tensors"], summary["frozen"]["buffers"]) == (
        len(parameters),
        len(buffers),
    )
    assert summary["frozen"]["changed"] == 0
    saved = safetensors.torch.load_file(tmp_path / "s" / "backbone" / "model.safetensors")
    start = safetensors.torch.load_file(weights)
    assert all(torch.equal(saved[name], start[name]) for name in [*parameters, *buffers])
    assert not saved["fc.weight"].any()


def test_run__summary_and_record(plain_store: Path, store: Path, photos: Path) -> None:
    summary, _ = extract(photos, store, no_head=True)
    record = record_of(store)

    assert set(summary) == {
        *("schema_version", "run", "store", "status", "model", "best", "results"),
        *("features", "frozen", "trunk_cache", "seconds", "next"),
    }
    assert (summary["schema_version"], summary["run"], summary["best"]) == (1, None, None)
    assert (summary["status"], summary["results"]) == ("finished", {})
    assert (record["kind"], record["command"]) == ("features", "extract-features")
    assert record["classes"] == list(CLASSES)
    assert record["data"]["counts"]["train"] == dict.fromkeys(CLASSES, 4)
    assert record["trunk_cache"]["bytes"] == sum(map(len, store_bytes(store).values()))
    assert record["features"] == {
        "layers": [],
        "pool": None,
        "dims": {"embedding": [96]},
        "dtype": "float16",
        "rows": IMAGES,
        "threads": 2,
        "batch_size": 8,
        "seconds": record_of(plain_store)["seconds"]["extract"],
    }
    assert record["seconds"]["extract"] < record["features"]["seconds"]


def test_run__config_toml_makes_the_same_command(store: Path, photos: Path) -> None:
    options = tomllib.loads((store / "config.toml").read_text())

    assert options["data"] == str(photos)
    assert options["model"] == "timm/test_resnet"
    assert not {"output", "overwrite", "shard"} & options.keys()
    summary, _ = extract(photos, store, **{k: v for k, v in options.items() if k != "data"})
    assert cache_counts(summary) == (IMAGES, 0)


def test_run__without_output_the_cache_is_found_again(
    photos: Path, cache_dir: Path, noisy: Path
) -> None:
    first, _ = extract(photos, None, no_head=True)
    again, _ = extract(photos, None, no_head=True)
    other, _ = extract(photos, None, dtype="float32", no_head=True)
    elsewhere, _ = extract(noisy, None, no_head=True, limit=3)

    paths = [Path(summary["store"]) for summary in (first, other, elsewhere)]
    assert again["store"] == first["store"]
    assert (cache_counts(first), cache_counts(again)) == ((0, IMAGES), (IMAGES, 0))
    assert len(set(paths)) == 3
    assert {path.parent for path in paths} == {cache_dir / "features"}
    assert paths[0].name.startswith(f"test_resnet-{photos.stem}-")


def test_default_features_path__depends_on_model_data_and_key(cache_dir: Path) -> None:
    def path(name: str = "a", data: str = "/x/photos", key: str = "k") -> Path:
        return default_features_path(name, data=data, key_digest=key)

    paths = {path(), path("b"), path(data="/y/photos"), path(key="l"), path(data="sample:digits")}
    assert len(paths) == 5
    assert path() == path()
    assert path().name.startswith("a-photos-")
    assert path(data="sample:digits").name.startswith("a-digits-")


def test_run__splits_are_made_and_kept(tmp_path: Path, photos: Path) -> None:
    data = tmp_path / "photos"
    for source in sorted((photos / "train").rglob("*.png")):
        target = data / source.parent.name / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)

    extract(data, tmp_path / "s", val_split=0.25, test_split=0.25, no_head=True)

    rows = {row["path"]: row["split"] for row in rows_of(tmp_path / "s" / "splits.csv")}
    counts = {split: list(rows.values()).count(split) for split in ("train", "val", "test")}
    assert counts == {"train": 6, "val": 3, "test": 3}
    assert set(embeddings(tmp_path / "s")) == set(rows)


def test_run__both_sources(tmp_path: Path, photos: Path) -> None:
    summary, _ = extract(photos, tmp_path / "s", model="squeezenet1_1", limit=3, no_head=True)

    assert summary["model"]["name"] == "torchvision/squeezenet1_1"
    assert summary["features"]["dims"] == {"embedding": [512]}
    values = torch.stack(list(embeddings(tmp_path / "s").values()))
    assert np.isfinite(values.numpy()).all()
