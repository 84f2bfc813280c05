import bz2
import functools
import gzip
import hashlib
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from tlcli.data.catalog import load_table
from tlcli.data.images import read_image
from tlcli.data.torchvision_sets import SETS
from tlcli.errors import DataError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TLCLI_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "torchvision"


def idx(array: np.ndarray) -> bytes:
    """Write an array as the files of MNIST are written."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def fashion_files() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {}
    for part, count in (("train", 12), ("t10k", 5)):
        pixels = rng.integers(0, 256, (count, 28, 28))
        files[f"{part}-images-idx3-ubyte"] = idx(pixels)
        files[f"{part}-labels-idx1-ubyte"] = idx(np.arange(count) % 4)
    return files


def put_fashion(root: Path) -> Path:
    """Lay FashionMNIST out as torchvision does after a download."""
    raw = root / "FashionMNIST" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, content in fashion_files().items():
        (raw / name).write_bytes(content)
    return root / "FashionMNIST"


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let torchvision find the archives of FashionMNIST on a server of this machine."""
    folder = tmp_path / "server"
    folder.mkdir()
    resources = []
    for name, content in fashion_files().items():
        packed = gzip.compress(content)
        (folder / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))
    handler = functools.partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [address])
        monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
        yield
        server.shutdown()


def test_load_table__arrays_become_image_files(cache: Path) -> None:
    root = put_fashion(cache)

    table = load_table("torchvision:FashionMNIST")

    assert (table.spec, table.root) == ("torchvision:FashionMNIST", root)
    assert table.classes == ("Dress", "Pullover", "T-shirt/top", "Trouser")
    assert {split: sum(n.values()) for split, n in table.counts().items()} == {
        "train": 12,
        "test": 5,
    }
    oracle = datasets.FashionMNIST(str(root), train=False)
    rows = table.part("test").set_index("path")["label"]
    for index in range(5):
        name = f"tlcli-v1/test-{index:06d}.png"
        image, target = oracle[index]
        assert rows[name] == oracle.classes[target]
        assert np.array_equal(np.asarray(Image.open(root / name)), np.asarray(image))


@pytest.mark.usefixtures("served")
def test_load_table__downloads_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_table("torchvision:FashionMNIST")
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["file:///nowhere/"])
    second = load_table("torchvision:FashionMNIST", offline=True)

    assert len(first.items) == 17
    assert second.fingerprint == first.fingerprint
    left = {path.name for path in (cache / "FashionMNIST").iterdir()}
    assert left == {"FashionMNIST", "tlcli-v1", "tlcli-v1.csv"}


def test_load_table__failed_download_says_where_files_belong(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["file:///nowhere/"])
    message = (
        r"^torchvision:FashionMNIST is not on this machine, and the download failed: .*nowhere.*"
        rf"Put its files into {cache}/FashionMNIST, laid out as torchvision\.datasets\."
        r"FashionMNIST expects them in its root\. Other sets are CIFAR10, .*USPS\.$"
    )
    with pytest.raises(DataError, match=message):
        load_table("torchvision:FashionMNIST")

    put_fashion(cache)
    assert len(load_table("torchvision:FashionMNIST").items) == 17


@pytest.mark.usefixtures("served")
def test_load_table__offline_downloads_nothing(cache: Path) -> None:
    with pytest.raises(DataError, match=r"FashionMNIST is .*, and --offline forbids to download"):
        load_table("torchvision:FashionMNIST", offline=True)


def test_load_table__interrupted_download_is_not_taken_for_whole(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("torchvision.datasets.mnist.download_and_extract_archive", stop)
        with pytest.raises(KeyboardInterrupt):
            load_table("torchvision:FashionMNIST")
    with pytest.raises(DataError, match=r"A download of .*FashionMNIST did not end.*remove that"):
        load_table("torchvision:FashionMNIST")


def test_load_table__interrupted_export_is_made_anew(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = put_fashion(cache)
    (root / "tlcli-v1").mkdir()
    (root / "tlcli-v1" / "rest.png").touch()

    table = load_table("torchvision:FashionMNIST")

    assert len(table.items) == len(list((root / "tlcli-v1").iterdir())) == 17


def test_load_table__files_stay_where_they_are(cache: Path, write_images) -> None:
    root = cache / "EuroSAT"
    names = [f"eurosat/2750/{name}/{i}.jpg" for name in ("Forest", "River") for i in range(3)]
    write_images(root, names)

    table = load_table("torchvision:EuroSAT")

    assert sorted(table.items["path"]) == names
    assert table.splits == ("unsplit",)
    assert table.classes == ("Forest", "River")
    assert list((root / "tlcli-v1").iterdir()) == []


def test_load_table__variant_and_first_of_several_names(cache: Path, write_images) -> None:
    names = [
        f"imagenette2-160/{split}/{wnid}/{i}.JPEG"
        for split, count in (("train", 2), ("val", 1))
        for wnid in ("n01440764", "n02102040")
        for i in range(count)
    ]
    (cache / "Imagenette").mkdir(parents=True)
    for name in names:
        (cache / "Imagenette" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(cache / "Imagenette" / name)

    table = load_table("torchvision:Imagenette/160px")

    assert table.classes == ("English springer", "tench")
    assert table.splits == ("train", "val")
    assert sorted(table.items["path"]) == sorted(names)
    assert (cache / "Imagenette" / "tlcli-160px-v1.csv").is_file()


def test_load_table__pets_are_not_written_again(cache: Path, write_images) -> None:
    root = cache / "OxfordIIITPet" / "oxford-iiit-pet"
    (root / "annotations").mkdir(parents=True)
    lines = {"trainval": ["Abyssinian_1 1 1 1", "pug_2 2 2 1"], "test": ["Abyssinian_3 1 1 1"]}
    lines["test"].append("pug_4 2 2 1")
    for split, text in lines.items():
        (root / "annotations" / f"{split}.txt").write_text("\n".join(text) + "\n")
        write_images(root, [f"images/{line.split()[0]}.jpg" for line in text])

    table = load_table("torchvision:OxfordIIITPet")

    oracle = datasets.OxfordIIITPet(str(cache / "OxfordIIITPet"), split="test")
    part = table.part("test")
    assert list(part["path"]) == [
        f"oxford-iiit-pet/images/{n}.jpg" for n in ("Abyssinian_3", "pug_4")
    ]
    assert list(part["label"]) == [oracle.classes[oracle[index][1]] for index in range(2)]
    assert read_image(table.paths("test")[0]).image.size == (8, 6)


def test_load_table__opened_files_are_found_again(cache: Path, write_images) -> None:
    root = cache / "Caltech101"
    folders = ["BACKGROUND_Google", "ant", "beaver"]
    names = [f"caltech101/101_ObjectCategories/{f}/image_0001.jpg" for f in folders]
    write_images(root, names)

    assert sorted(load_table("torchvision:Caltech101").items["path"]) == names[1:]


def test_load_table__table_of_files_that_are_gone(cache: Path, write_images) -> None:
    root = cache / "EuroSAT"
    write_images(root, [f"eurosat/2750/{name}/1.jpg" for name in ("Forest", "River")])
    load_table("torchvision:EuroSAT")
    (root / "eurosat/2750/River/1.jpg").unlink()

    with pytest.raises(DataError, match=r"1 of the 2 files .* Remove .*tlcli-v1\.csv to export"):
        load_table("torchvision:EuroSAT")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision:cifar10", r"'torchvision:cifar10'\. Did you mean torchvision:CIFAR10\?"),
        ("torchvision:", r"No data set called 'torchvision:'\. There are CIFAR10, "),
        ("torchvision:CocoDetection", "No data set called 'torchvision:CocoDetection'"),
        ("torchvision:DTD/11", r"DTD has no variant '11': there are DTD/1, DTD/2, .*DTD/10\."),
        ("torchvision:MNIST/train", "MNIST has no variant 'train': it has none"),
    ],
)
def test_load_table__refuses(cache: Path, spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_table(spec)
    assert not cache.exists()


def test_load_table__what_torchvision_cannot_download(cache: Path) -> None:
    with pytest.raises(DataError, match=r"FER2013 is .*, and torchvision cannot download it"):
        load_table("torchvision:FER2013")


@pytest.mark.parametrize("name", sorted(SETS))
def test_sets__are_asked_for_as_torchvision_wants(name: str, cache: Path) -> None:
    """Nothing is there and nothing is to be had, but every argument has to be accepted."""
    for variant in SETS[name].variants:
        with pytest.raises(DataError, match=rf"torchvision:{name} (is not on|cannot be read)"):
            load_table(f"torchvision:{name}" + (f"/{variant}" if variant else ""), offline=True)


def test_load_table__classes_without_names_are_numbers(cache: Path) -> None:
    root = cache / "USPS"
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, digits in (("usps.bz2", [1, 10, 2]), ("usps.t.bz2", [2, 1, 10])):
        lines = [
            f"{digit} "
            + " ".join(f"{i + 1}:{v:.4f}" for i, v in enumerate(rng.uniform(-1, 1, 256)))
            for digit in digits
        ]
        (root / name).write_bytes(bz2.compress("\n".join(lines).encode()))

    table = load_table("torchvision:USPS")

    assert table.classes == ("0", "1", "9")  # the files count from 1
    oracle = datasets.USPS(str(root), train=False)
    rows = table.part("test").set_index("path")["label"]
    assert [rows[f"tlcli-v1/test-{i:06d}.png"] for i in range(3)] == [
        str(oracle[index][1]) for index in range(3)
    ]


def test_load_table__unlabelled_images_are_told(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = cache / "FER2013" / "fer2013"
    root.mkdir(parents=True)
    pixels = " ".join("7" * 48 * 48)
    texts = {
        "train": f"emotion,pixels\n0,{pixels}\n1,{pixels}\n",
        "test": f"pixels\n{pixels}\n{pixels}\n{pixels}\n",
    }
    digests = {part: hashlib.md5(text.encode()).hexdigest() for part, text in texts.items()}
    for part, text in texts.items():
        (root / f"{part}.csv").write_text(text)
        monkeypatch.setitem(datasets.FER2013._RESOURCES, part, (f"{part}.csv", digests[part]))

    for _ in range(2):  # as it is made and as it is read again
        table = load_table("torchvision:FER2013")
        assert table.sizes() == {"train": 2}
        assert table.remarks == (
            "torchvision:FER2013: 3 images have no label and are left out of the part 'test'.",
        )


@pytest.mark.usefixtures("served")
def test_load_table__broken_archive_is_told_and_marked(cache: Path, tmp_path: Path) -> None:
    archive = tmp_path / "server" / "train-images-idx3-ubyte.gz"
    whole = archive.read_bytes()
    archive.write_bytes(b"not what it should be")
    with pytest.raises(DataError, match=r"the download failed: .*corrupted"):
        load_table("torchvision:FashionMNIST")
    with pytest.raises(DataError, match=r"A download of .*FashionMNIST did not end"):
        load_table("torchvision:FashionMNIST")
    shutil.rmtree(cache / "FashionMNIST")
    archive.write_bytes(whole)
    assert len(load_table("torchvision:FashionMNIST").items) == 17
