from pathlib import Path

import pytest

from tlcli.data.data_spec import absolute_spec, hub_folder


def test_absolute_spec__means_the_same_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)

    assert absolute_spec("photos") == str(tmp_path / "photos")
    assert absolute_spec("sample:digits") == "sample:digits"
    assert absolute_spec("torchvision:DTD/2") == "torchvision:DTD/2"
    assert absolute_spec("hf:org/name:config") == "hf:org/name:config"
    assert absolute_spec("hf:mine") == f"hf:{tmp_path}/mine"
    assert absolute_spec("~/photos") == str(Path("~/photos").expanduser())


def test_hub_folder__is_one_that_is_there(tmp_path: Path) -> None:
    assert hub_folder(f"hf:{tmp_path}") == tmp_path
    assert hub_folder(f"hf:{tmp_path}/nothing") is None
