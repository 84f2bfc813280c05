"""Pictures that are kept for a detector: it learns what it would learn from the files."""

import multiprocessing
import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from toy import CollectedTalk

from recipes.box_runs import detect, detect_config, make_box_folder
from recipes.runs import metrics_of, record_of, results_of
from tlcli.cli.training_output import show_training
from tlcli.config import ImageCacheConfig
from tlcli.data.boxes.box_augment import BoxAugmentLevel
from tlcli.data.boxes.box_batches import BoxDataset, BoxSample, LoadedImage, box_samples
from tlcli.data.boxes.box_catalog import load_boxes
from tlcli.data.boxes.picture_rows import row_bytes_for
from tlcli.engine.extraction import ViewRequest
from tlcli.errors import BadImageError, ConfigError, InterruptedRunError, MachineError
from tlcli.models.detectors.detector import DetectorBuild
from tlcli.recipes import detect_finetune
from tlcli.recipes.cache import list_cache
from tlcli.recipes.kept_pictures import KeptPictures, PackedPictures, keep_pictures
from tlcli.recipes.trunk_places import list_trunks

FAST: dict[str, Any] = {"model": "fcos", "epochs": 2, "augment": "light"}
COUNTS = {"train": 5, "val": 3}
EXIF_ORIENTATION = 0x0112
TURN_RIGHT = 6
FCOS = DetectorBuild(model="fcos", image_size=64, max_size=107, mean=(0.5,), std=(0.5,))
SSDLITE = DetectorBuild(
    model="torchvision/ssdlite320_mobilenet_v3_large",
    image_size=64,
    max_size=64,
    mean=(0.5,),
    std=(0.5,),
)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TLCLI_CACHE_DIR", str(tmp_path / "cache"))


def samples_of(data: Path) -> list[BoxSample]:
    return box_samples(load_boxes(str(data), on_bad_box="fix"), "train", for_training=True)


def kept_of(
    samples: Sequence[BoxSample],
    *,
    root: Path,
    build: DetectorBuild = FCOS,
    augment: BoxAugmentLevel = "light",
    tier: str = "disk",
) -> KeptPictures:
    kept = keep_pictures(
        samples,
        root=root,
        config=ImageCacheConfig(image_cache=tier),  # type: ignore[arg-type]
        build=build,
        augment=augment,
        threads=1,
        check_stop=lambda: None,
        talk=CollectedTalk(),
    )
    assert kept is not None
    return kept


def items_of(dataset: BoxDataset) -> Iterator[LoadedImage]:
    for reference in [(index, view) for index in range(len(dataset)) for view in range(3)]:
        item = dataset[reference]
        assert isinstance(item, LoadedImage)
        yield item


def with_reading(patch: pytest.MonkeyPatch, before: Callable[[], object]) -> None:
    """Do something before a few pictures are decoded."""
    read = PackedPictures.__call__

    def reading(self: PackedPictures, requests: Sequence[ViewRequest]) -> Tensor:
        before()
        return read(self, requests)

    patch.setattr(PackedPictures, "__call__", reading)


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["ram", "disk"])
def test_run__pictures_that_are_small_already_change_nothing(tmp_path: Path, tier: str) -> None:
    data = make_box_folder(tmp_path / "scenes", counts=COUNTS, size=(60, 48))
    shutil.copy(data / "train/0.png", data / "train/1.png")
    detect(tmp_path / "off", data=data, **FAST)
    _, talk = detect(tmp_path / "kept", data=data, image_cache=tier, **FAST)
    detect(tmp_path / "again", data=data, image_cache=tier, **FAST)

    assert results_of(tmp_path / "kept") == results_of(tmp_path / "off")
    assert results_of(tmp_path / "again") == results_of(tmp_path / "off")
    assert "image_cache" not in record_of(tmp_path / "off")
    kept, again = (record_of(tmp_path / name)["image_cache"] for name in ("kept", "again"))
    size = 4 * row_bytes_for([(48, 60)])
    assert {**kept, "seconds": 0} == {
        "hits": 0,
        "misses": 4,
        "copies": 1,
        "bytes": size,
        "seconds": 0,
    }
    assert again["misses"] == (0 if tier == "disk" else 4)
    assert again["hits"] == (4 if tier == "disk" else 0)
    where = {"ram": "in memory", "disk": "on disk"}[tier]
    assert any(
        f"keeping 4 train pictures {where}, {size / 1e3:.1f} KB" in note for note in talk.notes
    )


def test_run__seconds_of_decoding_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_box_folder(tmp_path / "scenes", counts=COUNTS)
    with_reading(monkeypatch, lambda: time.sleep(0.3))
    summary, talk = detect(tmp_path / "run", data=data, image_cache="disk", max_time="0.2s", **FAST)
    show_training(summary, as_json=False)

    record = record_of(tmp_path / "run")
    seconds = record["seconds"]
    assert record["image_cache"]["seconds"]["decode"] >= 0.3
    assert seconds["pictures"] == record["image_cache"]["seconds"]["total"] >= 0.3
    assert seconds["total"] == pytest.approx(sum(v for k, v in seconds.items() if k != "total"))
    assert summary["image_cache"] == record["image_cache"]
    assert "0 of 5 train pictures there already, 5 decoded to 1" in capsys.readouterr().out
    assert record["stopped"] == "max_time"
    assert any("The time is up (--max-time) after 0 epochs and 0 steps" in n for n in talk.notes)


@pytest.mark.slow
def test_run__larger_pictures_give_nearly_the_same_losses(tmp_path: Path) -> None:
    data = make_box_folder(tmp_path / "scenes", counts=COUNTS, size=(150, 100))
    options = {**FAST, "augment": "flip", "data": data}
    detect(tmp_path / "off", **options)
    detect(tmp_path / "kept", image_cache="disk", **options)

    first, other = (metrics_of(tmp_path / name)[0] for name in ("off", "kept"))
    assert float(other["train/loss"]) == pytest.approx(float(first["train/loss"]), rel=0.005)
    (entry,) = list_cache()
    assert (entry.kind, entry.rows) == ("images", 5)
    assert record_of(tmp_path / "kept")["image_cache"]["bytes"] == 5 * row_bytes_for([(64, 96)])


@pytest.mark.parametrize("augment", ["none", "flip", "light", "medium"])
@pytest.mark.parametrize(
    ("build", "size"),
    [(FCOS, (320, 240)), (FCOS, (480, 120)), (SSDLITE, (240, 120))],
    ids=["large", "wide", "ssdlite"],
)
def test_keep_pictures__detector_sees_no_less(
    tmp_path: Path, build: DetectorBuild, size: tuple[int, int], augment: BoxAugmentLevel
) -> None:
    data = make_box_folder(tmp_path / "scenes", counts={"train": 4, "val": 1}, size=size)
    samples = samples_of(data)
    kept = kept_of(samples, root=data, build=build, augment=augment)
    fixed = (64, 64) if build is SSDLITE else None
    transform = GeneralizedRCNNTransform(64, 107, [0.0] * 3, [1.0] * 3, fixed_size=fixed)

    def seen(dataset: BoxDataset) -> list[Tensor]:
        return [transform.resize(item.image.float())[0] for item in items_of(dataset)]

    def sharpness(pictures: list[Tensor]) -> float:
        """Mean gradient along rows and columns."""
        steps = [picture.diff(dim=side).abs().mean() for picture in pictures for side in (1, 2)]
        return float(torch.stack(steps).mean())

    files, others = (
        seen(BoxDataset(samples, augment=augment, pictures=pictures))
        for pictures in (None, kept.read)
    )

    assert sharpness(others) == pytest.approx(sharpness(files), rel=0.01)
    for file, other in zip(files, others, strict=True):
        if augment in ("light", "medium"):
            assert torch.equal(file, other)
        else:
            assert float((file - other).abs().max()) <= 0.51


@pytest.mark.slow
def test_run__another_size_is_kept_apart(tmp_path: Path) -> None:
    data = make_box_folder(tmp_path / "scenes", counts=COUNTS)
    for size in (64, 48):
        options = {**FAST, "augment": "none", "image_size": size}
        detect(tmp_path / str(size), data=data, image_cache="disk", **options)

    assert record_of(tmp_path / "48")["image_cache"]["misses"] == 5
    assert len(list_cache()) == 2


def test_keep_pictures__a_larger_one_more_starts_anew(tmp_path: Path) -> None:
    data = make_box_folder(tmp_path / "scenes", counts=COUNTS)
    samples = samples_of(data)
    before = kept_of(samples, root=data)
    before.rows.release()
    with Image.open(data / "train/2.png") as picture:
        picture.resize((192, 144)).save(data / "train/2.png")  # its boxes still lie in 96 x 72

    after = kept_of(samples, root=data)

    assert after.record()["misses"] == 5
    assert after.record()["bytes"] == 5 * row_bytes_for([(144, 192)])
    assert len(list_trunks()) == 2
    assert after.read(2).image.size == (192, 144)
    assert after.read(3).image.size == (96, 72)
    assert list(items_of(BoxDataset(samples, pictures=after.read)))


@pytest.mark.parametrize("tier", ["ram", "disk"])
def test_keep_pictures__are_small_to_send_to_workers(tmp_path: Path, tier: str) -> None:
    data = make_box_folder(tmp_path / "scenes", counts=COUNTS)
    samples = samples_of(data)
    kept = kept_of(samples, root=data, tier=tier)
    dataset = BoxDataset(samples, augment="light", pictures=kept.read)
    here = list(items_of(dataset))

    there = list(items_of(pickle.loads(pickle.dumps(dataset))))

    assert len(there) == len(here)
    assert all(torch.equal(a.image, b.image) for a, b in zip(here, there, strict=True))
    if tier == "disk":
        assert len(pickle.dumps(kept.read)) < 5 * 32 + 2000


@pytest.fixture
def spawning() -> Iterator[None]:
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(None, force=True)


@pytest.mark.slow
@pytest.mark.usefixtures("spawning")
@pytest.mark.parametrize("tier", ["ram", "disk"])
def test_run__workers_that_are_spawned(tmp_path: Path, tier: str) -> None:
    data = make_box_folder(tmp_path / "scenes", counts=COUNTS)
    options = {**FAST, "epochs": 1, "data": data}
    detect(tmp_path / "off", num_workers=0, **options)
    detect(tmp_path / "kept", image_cache=tier, num_workers=1, **options)

    assert results_of(tmp_path / "kept") == results_of(tmp_path / "off")


def test_run__bad_picture_is_named_before_training(tmp_path: Path) -> None:
    data = make_box_folder(tmp_path / "scenes", counts=COUNTS)
    file = data / "train" / "3.png"
    file.write_bytes(file.read_bytes()[:300])

    with pytest.raises(BadImageError, match=r"3\.png: .* --on-bad-image skip"):
        detect(tmp_path / "run", data=data, image_cache="disk", **FAST)
    assert not any(folder.is_in_use for folder in list_trunks())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"image_cache": "disk", "cache_limit": "10KB"},
            ConfigError,
            r"--image-cache disk: 113 KB do not fit --cache-limit \(10 KB\) or the disk of .* "
            r"Use fewer images \(--limit\), --augment flip, which .*, a larger --cache-limit, 'tl",
        ),
        (
            {"image_cache": "ram", "cache_limit": "10KB"},
            MachineError,
            r"--image-cache ram holds more than --cache-limit allows \(113 KB of 10 KB\)\. Use "
            r"--image-cache disk, fewer images \(--limit\), --augment flip",
        ),
        (
            {"image_cache": "ram", "cache_limit": "10KB", "augment": "none"},
            MachineError,
            r"Use --image-cache disk, fewer images \(--limit\), a smaller --image-size, or a ",
        ),
        (
            {"image_cache": "ram"},
            MachineError,
            r"--image-cache ram: 113 KB do not fit the free memory \(50 KB\)\. Use --image-cache "
            r"disk, or fewer images",
        ),
    ],
    ids=["disk", "ram", "shrunk", "memory"],
)
def test_run__no_room_is_told_before_anything_is_decoded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    data = make_box_folder(tmp_path / "scenes", counts=COUNTS)
    monkeypatch.setattr("tlcli.recipes.trunk_rows.free_memory", lambda: 50_000)
    for file in (data / "train").iterdir():
        file.write_bytes(file.read_bytes()[:300])  # none of them can be decoded
    config = detect_config(tmp_path / "run", data=data, **{**FAST, **options})
    talk = CollectedTalk()

    with pytest.raises(error, match=message):
        detect_finetune.run(config, talk=talk)

    assert any(note.startswith("Pictures: keeping 5 train pictures") for note in talk.notes)


def test_run__stopped_while_pictures_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_box_folder(tmp_path / "scenes", counts={"train": 20, "val": 3})
    options = {**FAST, "epochs": 1, "data": data, "image_cache": "disk"}
    with monkeypatch.context() as patch:
        signals = iter([signal.SIGINT])
        with_reading(patch, lambda: [os.kill(os.getpid(), number) for number in signals])
        with pytest.raises(InterruptedRunError) as caught:
            detect(tmp_path / "run", **options)

    assert str(caught.value) == (
        "Stopped while train pictures were decoded; those that are on disk already are found again."
        " Start the run anew with --overwrite."
    )
    assert caught.value.exit_code == 130
    assert record_of(tmp_path / "run")["status"] == "interrupted"
    assert not any(folder.is_in_use for folder in list_trunks())
    detect(tmp_path / "run", overwrite=True, **options)
    assert record_of(tmp_path / "run")["status"] == "finished"


def test_run__stopped_while_pictures_are_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_box_folder(tmp_path / "scenes", counts={"train": 20, "val": 3})
    options = {**FAST, "data": data, "image_cache": "ram"}
    detect(tmp_path / "run", max_time="0.001s", **options)
    signals = iter([signal.SIGTERM])
    with_reading(monkeypatch, lambda: [os.kill(os.getpid(), number) for number in signals])

    with pytest.raises(InterruptedRunError) as caught:
        detect(tmp_path / "run", resume=True, max_time="1h", **options)

    again = f"tlcli detect-finetune --output {tmp_path / 'run'} --resume"
    assert str(caught.value) == (f"Stopped while train pictures were decoded. Go on with: {again}")
    assert caught.value.exit_code == 143


def test_run__store_is_let_go_of_when_training_cannot_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_box_folder(tmp_path / "scenes", counts=COUNTS)
    held: list[bool] = []

    def failing(*_: object, **__: object) -> None:
        held.extend(folder.is_in_use for folder in list_trunks())
        raise RuntimeError("no optimizer")

    monkeypatch.setattr(detect_finetune, "_training", failing)
    with pytest.raises(RuntimeError, match="no optimizer"):
        detect(tmp_path / "run", data=data, image_cache="disk", **FAST)

    assert held == [True]
    assert not any(folder.is_in_use for folder in list_trunks())


def test_config__room_for_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="--cache-limit 1GB has no effect with --image-cache off"):
        detect_config(None, cache_limit="1GB")


def test_packed__turned_and_stored_pictures_have_their_own_shapes(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = TURN_RIGHT
    for name in ("a.jpg", "b.jpg"):  # the same content
        Image.new("RGB", (30, 20)).save(tmp_path / name, exif=exif)
    data = make_box_folder(tmp_path / "scenes", counts=COUNTS)
    sample = samples_of(data)[0]
    turned = [
        BoxSample(**{**vars(sample), "path": tmp_path / name, "is_upright": upright})
        for name, upright in (("a.jpg", True), ("b.jpg", False))
    ]

    kept = kept_of(turned, root=tmp_path)

    assert [kept.read(number).image.size for number in (0, 1)] == [(20, 30), (30, 20)]
