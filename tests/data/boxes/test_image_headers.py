import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from tiny_boxes import write_picture

from tlcli.data.boxes.image_headers import ImageHeader, probe_headers, read_headers
from tlcli.data.images import read_image
from tlcli.errors import BadImageError, DataError


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_headers__upright_size_is_that_of_the_decoded_picture(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    path = write_picture(tmp_path / f"a.{suffix}", (40, 30), orientation=orientation)
    (header,) = read_headers(tmp_path, ["a." + suffix])
    assert header.upright == read_image(path).image.size
    assert header.stored == read_image(path, upright=False).image.size
    assert header.upright == ((30, 40) if orientation > 4 else (40, 30))
    assert header.stored == (40, 30)
    assert header.orientation == orientation


def test_read_headers__exif_behind_the_pixels_of_a_png(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.png", (40, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    data = path.read_bytes()
    path.write_bytes(data[:-12] + chunk + data[-12:])
    (header,) = read_headers(tmp_path, ["a.png"])
    assert header.upright == read_image(path).image.size == (30, 40)


def test_read_headers__keeps_the_order_of_many(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(1, 150)]
    for number, name in enumerate(names, start=1):
        write_picture(tmp_path / name, (number, 3))
    assert [header.stored[0] for header in read_headers(tmp_path, names)] == list(range(1, 150))


def test_read_headers__does_not_decode(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.jpg", (400, 300))
    path.write_bytes(path.read_bytes()[:700])
    assert read_headers(tmp_path, ["a.jpg"])[0].stored == (400, 300)
    with pytest.raises(BadImageError):
        read_image(path)


def test_read_headers__missing_files_are_counted(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    with pytest.raises(
        DataError,
        match=r"3 of 4 annotated images are not in .*: 'b', 'c', 'a.png/d'\. Put them there, or"
        r" remove .*; --on-bad-image skip leaves out .*, not files that are missing\.$",
    ):
        read_headers(tmp_path, ["a.png", "b", "c", "a.png/d"])


def test_read_headers__broken_headers(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(BadImageError, match=r"a.png: the file is empty \(0 b.*1 more file is like"):
        read_headers(tmp_path, ["a.png", "b.png"])
    with pytest.raises(
        BadImageError,
        match=r"b.png: not an image format known here\. Repair it, or leave .*-image skip\.$",
    ):
        read_headers(tmp_path, ["b.png"])


def test_read_headers__decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_picture(tmp_path / "a.png", (40, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(BadImageError, match="1000"):
        read_headers(tmp_path, ["a.png"])


def test_read_headers__tiff_that_xmp_alone_turns(tmp_path: Path) -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    image = Image.new("L", (40, 30))
    image.save(tmp_path / "a.tif", tiffinfo={700: xmp})
    (header,) = read_headers(tmp_path, ["a.tif"])
    assert header == ImageHeader(upright=(30, 40), stored=(40, 30), orientation=6)
    assert read_image(tmp_path / "a.tif").image.size == header.upright
    assert read_image(tmp_path / "a.tif", upright=False).image.size == header.stored


def test_probe_headers__broken_ones_in_their_places(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    write_picture(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"no image")
    first, good, last = probe_headers(tmp_path, ["a.png", "b.png", "c.png"])
    assert isinstance(good, ImageHeader)
    assert str(first).endswith("a.png: the file is empty (0 bytes).")
    assert str(last).endswith("c.png: not an image format known here.")
    with pytest.raises(DataError, match=r"1 of 2 annotated images is not in .*: 'd.png'\. Put"):
        probe_headers(tmp_path, ["a.png", "d.png"])
