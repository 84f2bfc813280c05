"""Pictures that are kept for a detector are those of the files, no larger than it looks at them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from recipes.box_runs import detect, detect_config, make_box_folder
from recipes.runs import metrics_of, record_of, results_of
from tlcli.data.images import content_key
from tlcli.engine.extraction import ViewRequest
from tlcli.errors import BadImageError, ConfigError, MachineError
from tlcli.recipes.cache import list_cache
from tlcli.recipes.kept_pictures import PackedPictures, PictureLimits, unpacked

FAST: dict[str, Any] = {"model": "fcos", "epochs": 2, "augment": "light"}
COUNTS = {"train": 5, "val": 3}
EXIF_ORIENTATION = 0x0112
TURN_RIGHT = 6


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TLCLI_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize("tier", ["ram", "disk"])
def test_run__pictures_that_are_small_already_change_nothing(tmp_path: Path, tier: str) -> None:
    data = make_box_folder(tmp_path / "scenes", counts=COUNTS, size=(60, 48))
    detect(tmp_path / "off", data=data, **FAST)
    _, talk = detect(tmp_path / "kept", data=data, image_cache=tier, **FAST)
    detect(tmp_path / "again", data=data, image_cache=tier, **FAST)

    assert results_of(tmp_path / "kept") == results_of(tmp_path / "off")
    assert results_of(tmp_path / "again") == results_of(tmp_path / "off")
    assert "image_cache" not in record_of(tmp_path / "off")
    kept, again = (record_of(tmp_path / name)["image_cache"] for name in ("kept", "again"))
    assert kept == {"hits": 0, "misses": 5, "bytes": 5 * (16 + 3 * 64 * 107)}
    assert again["misses"] == (0 if tier == "disk" else 5)
    assert again["hits"] == (5 if tier == "disk" else 0)
    assert any("5 train pictures kept" in note for note in talk.notes)


def test_run__larger_pictures_give_nearly_the_same_losses(tmp_path: Path) -> None:
    data = make_box_folder(tmp_path / "scenes", counts=COUNTS, size=(150, 100))
    options = {**FAST, "augment": "flip", "data": data}
    detect(tmp_path / "off", **options)
    detect(tmp_path / "kept", image_cache="disk", **options)

    first, other = (metrics_of(tmp_path / name)[0] for name in ("off", "kept"))
    assert float(other["train/loss"]) == pytest.approx(float(first["train/loss"]), rel=0.02)
    (entry,) = list_cache()
    assert (entry.kind, entry.rows) == ("images", 5)


def test_run__another_size_is_kept_apart(tmp_path: Path) -> None:
    data = make_box_folder(tmp_path / "scenes", counts=COUNTS)
    for size in (64, 48):
        detect(tmp_path / str(size), data=data, image_cache="disk", image_size=size, **FAST)

    assert record_of(tmp_path / "48")["image_cache"]["misses"] == 5
    assert len(list_cache()) == 2


def test_run__bad_picture_is_named_before_training(tmp_path: Path) -> None:
    data = make_box_folder(tmp_path / "scenes", counts=COUNTS)
    file = data / "train" / "3.png"
    file.write_bytes(file.read_bytes()[:300])

    with pytest.raises(BadImageError, match=r"3\.png: .* --on-bad-image skip"):
        detect(tmp_path / "run", data=data, image_cache="disk", **FAST)


def test_run__no_room_is_told(tmp_path: Path) -> None:
    data = make_box_folder(tmp_path / "scenes", counts=COUNTS)
    common = {"data": data, "cache_limit": "10KB", **FAST}
    with pytest.raises(ConfigError, match=r"--image-cache disk: .* do not fit --cache-limit"):
        detect(tmp_path / "disk", image_cache="disk", **common)
    with pytest.raises(MachineError, match="--image-cache ram holds more than --cache-limit"):
        detect(tmp_path / "ram", image_cache="ram", **common)


def test_config__room_for_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="--cache-limit 1GB has no effect with --image-cache off"):
        detect_config(None, cache_limit="1GB")


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90))
def test_packed__small_pictures_come_back(
    height: int, width: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("packed") / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    limits = PictureLimits(shortest=90, longest=90)

    picture = unpacked(PackedPictures({path: True}, limits)([ViewRequest(path)])[0])

    assert np.array_equal(np.asarray(picture.image), pixels)
    assert picture.content_key == content_key(path.read_bytes())


@settings(max_examples=60, deadline=None)
@given(height=st.integers(8, 200), width=st.integers(8, 200))
def test_shrunk__is_what_the_detector_would_see(height: int, width: int) -> None:
    pixels = torch.randint(
        0, 256, (3, height, width), generator=torch.Generator().manual_seed(0)
    ).to(torch.uint8)
    limits = PictureLimits(shortest=40, longest=66)
    resize = GeneralizedRCNNTransform(40, 66, [0.0] * 3, [1.0] * 3).resize

    small = limits.shrunk(pixels)
    seen, _ = resize(small.float())
    directly, _ = resize(pixels.float())

    assert small.numel() + 16 <= limits.row_bytes
    assert all(abs(a - b) <= 1 for a, b in zip(seen.shape, directly.shape, strict=True))
    if seen.shape == directly.shape == small.shape:  # else a column more is resampled once more
        assert float((seen - directly).abs().max()) <= 0.501


def test_packed__turned_and_stored_pictures_have_their_own_shapes(tmp_path: Path) -> None:
    path, exif = tmp_path / "a.jpg", Image.Exif()
    exif[EXIF_ORIENTATION] = TURN_RIGHT
    Image.new("RGB", (30, 20)).save(path, exif=exif)
    limits = PictureLimits(shortest=40, longest=66)

    sizes = [
        unpacked(PackedPictures({path: upright}, limits)([ViewRequest(path)])[0]).image.size
        for upright in (True, False)
    ]

    assert sizes == [(20, 30), (30, 20)]
