import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tlcli.data.cache_folder import cache_folder
from tlcli.data.digits import digits_folder
from tlcli.errors import DataError, MachineError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TLCLI_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_digits_folder__holds_scikit_learns_pictures(cache: Path) -> None:
    folder = digits_folder()
    assert folder == cache / "sample-digits-v1"
    assert sorted(path.name for path in folder.iterdir()) == list("0123456789")
    digits = load_digits()
    for index in (0, 7, 1796):
        path = folder / str(digits.target[index]) / f"{index:04d}.png"
        image = Image.open(path)
        assert (image.mode, image.size) == ("L", (8, 8))
        assert np.abs(np.asarray(image) * (16 / 255) - digits.images[index]).max() < 0.04
    assert len(list(folder.glob("*/*.png"))) == 1797
    assert list(cache.iterdir()) == [folder]  # no temporary folder is left


def test_digits_folder__is_made_once(cache: Path) -> None:
    stamp = digits_folder().stat().st_mtime_ns
    assert digits_folder().stat().st_mtime_ns == stamp
    (cache / "sample-digits-v1" / "0" / "0000.png").unlink()
    with pytest.raises(DataError, match="has 1796 images instead of 1797; remove the folder"):
        digits_folder()


def test_digits_folder__interrupted_writing_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Image.Image, path: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", stop)
        with pytest.raises(MachineError, match="No space left on device; set TLCLI_CACHE_DIR"):
            digits_folder()
    assert list(cache.iterdir()) == []
    assert digits_folder().is_dir()


def test_digits_folder__another_process_was_first(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = shutil.copytree(digits_folder(), tmp_path / "made")
    shutil.rmtree(cache / "sample-digits-v1")
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        shutil.copytree(made, target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    assert digits_folder() == cache / "sample-digits-v1"
    assert list(cache.iterdir()) == [cache / "sample-digits-v1"]


def test_cache_folder__default_is_the_users(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TLCLI_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder().name in {"tlcli", "Cache"}
    monkeypatch.setenv("TLCLI_CACHE_DIR", "/chosen")
    assert cache_folder() == Path("/chosen")
