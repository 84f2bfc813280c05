import hashlib
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlcli.data.boxes.digit_scenes import compose_scene, digit_scenes_folder, is_scene_folder
from tlcli.errors import DataError, MachineError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TLCLI_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def contents(folder: Path) -> dict[str, str]:
    """Return a digest per file, of pixels for pictures."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            Image.open(path).tobytes() if path.suffix == ".png" else path.read_bytes()
        ).hexdigest()
        for path in sorted(folder.rglob("*.*"))
    }


def test_digit_scenes_folder__boxes_are_tight_around_ink_and_apart(cache: Path) -> None:
    folder = digit_scenes_folder()
    for split, number in (("train", 160), ("val", 40), ("test", 40)):
        document = json.loads((folder / f"annotations/instances_{split}.json").read_text())
        assert len(document["images"]) == number
        for record in document["images"]:
            image = Image.open(folder / split / record["file_name"])
            assert (image.mode, image.size) == ("L", (160, 160))
            ink = np.asarray(image) > 60
            found = [
                item["bbox"] for item in document["annotations"] if item["image_id"] == record["id"]
            ]
            assert len(found) <= 6
            cover = np.zeros((160, 160), dtype=int)
            for x, y, width, height in found:
                assert min(x, y) >= 0
                window = ink[y : y + height, x : x + width]
                assert window.shape == (height, width)
                assert all(
                    side.any() for side in (window[0], window[-1], window.T[0], window.T[-1])
                )
                cover[y : y + height, x : x + width] += 1
            assert cover.max(initial=0) <= 1
            assert not ink[cover == 0].any()


def test_digit_scenes_folder__is_the_same_each_time_and_made_once(cache: Path) -> None:
    folder = digit_scenes_folder()
    assert [path.name for path in cache.iterdir()] == [folder.name]
    first, stamp = contents(folder), folder.stat().st_mtime_ns
    assert digit_scenes_folder().stat().st_mtime_ns == stamp
    shutil.rmtree(folder)
    assert contents(digit_scenes_folder()) == first
    (folder / "val/0000.png").unlink()
    with pytest.raises(DataError, match="has 239 images instead of 240; remove the folder"):
        digit_scenes_folder()


def test_digit_scenes_folder__interrupted_writing_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Image.Image, path: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", stop)
        with pytest.raises(MachineError, match="No space left on device; set TLCLI_CACHE_DIR"):
            digit_scenes_folder()
    assert list(cache.iterdir()) == []


def test_compose_scene__digits_without_room_are_left_out() -> None:
    stamp = np.full((8, 8), 255, dtype=np.uint8)
    generator = random.Random(1)
    scenes = [
        compose_scene([(3, stamp)], number=number, generator=generator) for number in range(40)
    ]
    numbers = [len(scene.digits) for scene in scenes]
    assert [index for index, number in enumerate(numbers) if number == 0] == [19, 39]
    assert max(numbers) <= 6
    assert {item.width for scene in scenes for item in scene.digits} == {16, 24, 32, 40}
    for scene in scenes:
        area = sum(item.width * item.height for item in scene.digits)
        assert (scene.pixels == 255).sum() == area


def test_is_scene_folder__finished_or_begun(cache: Path) -> None:
    name = digit_scenes_folder().name
    assert is_scene_folder(name)
    assert is_scene_folder(f"{name}.x1y2")
    assert not is_scene_folder("sample-digits-v1")


def test_is_scene_folder__those_of_older_versions_are_ours_too(cache: Path) -> None:
    assert digit_scenes_folder().name == "sample-digit-scenes-v2"
    assert is_scene_folder("sample-digit-scenes-v1")
    assert is_scene_folder("sample-digit-scenes-v1.x1y2")
    assert not is_scene_folder("sample-digit-scenes-v10")
