from pathlib import Path

import pytest
from tiny_boxes import write_picture

from tlcli.data.boxes.image_names import refuse_escapes, relative_name
from tlcli.errors import DataError

SOURCE = Path("x.json")


@pytest.mark.parametrize(
    ("name", "short"), [("a.jpg", "a.jpg"), ("./a//b.jpg", "a/b.jpg"), ("a..b.jpg", "a..b.jpg")]
)
def test_relative_name__is_shortened(name: str, short: str) -> None:
    assert relative_name(name, source=SOURCE) == short


@pytest.mark.parametrize("name", ["/etc/a.jpg", "C:\\a.jpg", "c:/a.jpg", "\\\\host\\a.jpg"])
def test_relative_name__absolute(name: str) -> None:
    with pytest.raises(DataError, match=r"x.json names the image '.*' by an absolute path"):
        relative_name(name, source=SOURCE)


@pytest.mark.parametrize("name", ["../a.jpg", "b/../../a.jpg", "b\\..\\a.jpg", ".."])
def test_relative_name__leaves_the_folder(name: str) -> None:
    with pytest.raises(DataError, match=r"which leaves the image folder by '\.\.'"):
        relative_name(name, source=SOURCE)


@pytest.mark.parametrize("name", ["", ".", "a\0.jpg", "\ud800.jpg"])
def test_relative_name__names_no_file(name: str) -> None:
    with pytest.raises(DataError, match="which names no file"):
        relative_name(name, source=SOURCE)


def test_refuse_escapes__links_may_stay_inside(tmp_path: Path) -> None:
    write_picture(tmp_path / "real" / "sub" / "a.png")
    (tmp_path / "real" / "b.png").symlink_to("sub/a.png")
    (tmp_path / "linked").symlink_to("real")
    refuse_escapes(tmp_path / "linked", ["sub/a.png", "b.png"])


@pytest.mark.parametrize("link", ["a.png", "sub"])
def test_refuse_escapes__links_must_not_lead_out(tmp_path: Path, link: str) -> None:
    write_picture(tmp_path / "secret" / "a.png")
    (tmp_path / "images").mkdir()
    target = tmp_path / "secret" / ("a.png" if link == "a.png" else "")
    (tmp_path / "images" / link).symlink_to(target)
    with pytest.raises(DataError, match=r"leads out of the image folder .* by a symbolic link"):
        refuse_escapes(tmp_path / "images", ["a.png" if link == "a.png" else "sub/a.png"])
