from pathlib import Path

import pytest

from tlcli.data.catalog import load_table
from tlcli.data.csv_table import TableColumns
from tlcli.errors import ConfigError, DataError


def test_load_table__sample_digits() -> None:
    table = load_table("sample:digits")
    assert table.spec == "sample:digits"
    assert table.classes == tuple("0123456789")
    assert len(table.items) == 1797
    assert table.splits == ("unsplit",)


def test_load_table__decides_by_layout(tmp_path: Path, write_images) -> None:
    write_images(tmp_path, ["plain/a/1.png", "plain/b/1.png", "parts/train/a/1.png"])
    write_images(tmp_path, ["parts/train/b/1.png", "parts/valid/a/1.png"])
    (tmp_path / "t.csv").write_text("path,label\nplain/a/1.png,x\nplain/b/1.png,y\n")
    assert load_table(f"{tmp_path}/plain").splits == ("unsplit",)
    assert load_table(f"{tmp_path}/parts/").splits == ("train", "val")
    assert load_table(f"{tmp_path}/t.csv").classes == ("x", "y")
    assert load_table(f"{tmp_path}/parts/").spec == f"{tmp_path}/parts/"


def test_load_table__relative_spec_gives_absolute_root(
    tmp_path: Path, write_images, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path, ["set/a/1.png", "set/b/1.png"])
    monkeypatch.chdir(tmp_path)
    table = load_table("set")
    assert table.root == tmp_path / "set"
    assert load_table(f"{tmp_path}/set").fingerprint == table.fingerprint


def test_load_table__kaggle(shared_data: Path) -> None:
    assert len(load_table(str(shared_data / "imagenet_kaggle_mini")).items) == 1000


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sample:digit", r"No sample data called 'sample:digit'\. Did you mean sample:digits\?"),
        ("sample:zzz", r"called 'sample:zzz'\. There is sample:digits"),
        ("no/such/place", r"no data at 'no/such/place'\. --data understands a folder of class"),
        ("torchvision:Flower102", r"'torchvision:Flower102'\. Did you mean torchvision:Flowers102"),
    ],
)
def test_load_table__nothing_there(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_table(spec)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([], "it is empty"),
        (["1.png", "2.png"], r"it holds 2 images \('1.png', '2.png'\)"),
        (["sub/readme.txt"], r"it holds 1 folders \('sub'\), 1 other files \('sub/readme.txt'\)"),
    ],
)
def test_load_table__folder_of_no_kind(tmp_path: Path, names: list[str], found: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=rf"no class folders with images: {found}.*understands"):
        load_table(str(tmp_path))


def test_load_table__unsupported_file(tmp_path: Path) -> None:
    (tmp_path / "set.zip").touch()
    with pytest.raises(DataError, match=r"set\.zip is a file of no kind understood here"):
        load_table(str(tmp_path / "set.zip"))


@pytest.mark.parametrize("spec", ["sample:digits", "torchvision:MNIST", "."])
def test_load_table__columns_need_a_table(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"--label-column has no effect on {spec}: only tables"):
        load_table(spec, columns=TableColumns(label="x"))


def test_load_table__columns_reach_the_table(tmp_path: Path, write_images) -> None:
    write_images(tmp_path, ["1.png", "2.png"])
    (tmp_path / "t.csv").write_text("path,kind\n1.png,x\n2.png,y\n")
    assert load_table(f"{tmp_path}/t.csv", columns=TableColumns(label="kind")).classes == ("x", "y")
