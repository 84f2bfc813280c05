import json
from collections.abc import Callable
from pathlib import Path

import pytest
from recipes.feature_runs import extract
from toy import make_split_folders
from typer.testing import Result

Invoke = Callable[..., Result]
KEYS = {
    *("schema_version", "run", "store", "model", "head", "status", "best", "results"),
    *("few_shot", "features", "frozen", "trunk_cache", "seconds", "next"),
}


@pytest.fixture(autouse=True)
def no_confusion_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out most of the time of a small run; tests/results has the picture."""
    name = "tlcli.results.evaluation_files.draw_confusion_matrix"
    monkeypatch.setattr(name, lambda *_, **__: None)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features without a head, whose images are gone; for reading only."""
    root = tmp_path_factory.mktemp("probed")
    counts = {"train": 5, "val": 3, "test": 2}
    data = make_split_folders(root / "photos", counts=counts)
    extract(data, root / "store", model="timm/test_vit", no_head=True)
    data.rename(root / "moved")
    return root / "store"


def test_probe__json_is_one_document(tlcli: Invoke, store: Path) -> None:
    result = tlcli("probe", store, "-o", "run", "--shots", "1,2", "--repeats", "2", "--json")

    document = json.loads(result.stdout)
    assert result.exit_code == 0, result.stderr
    assert set(document) == KEYS
    assert (document["run"], document["store"], document["status"]) == (
        "run",
        str(store),
        "finished",
    )
    assert set(document["results"]) == {"val", "test"}
    assert [set(point) for point in document["few_shot"]] == [
        {"shots", "split", "top1", "interval", "repeats"}
    ] * 2
    assert document["trunk_cache"]["misses"] == 0


@pytest.mark.parametrize("head", ["linear", "ridge", "knn"])
def test_probe__any_head_without_images(
    tlcli: Invoke, store: Path, tmp_path: Path, head: str
) -> None:
    result = tlcli("probe", store, "--head", head, "-o", "run", "-q")

    assert result.exit_code == 0, result.stderr
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[0].startswith("val: 9 images, chosen by val/top1 (")
    assert any(line.startswith("test: 6 images") for line in lines)
    assert "Run folder: run" in lines
    assert lines[-1].startswith("Next: tlcli ")
    assert (tmp_path / "run" / "penalties.csv").is_file()
    assert (tmp_path / "run" / "penalties.png").is_file()


def test_probe__few_shot_files(tlcli: Invoke, store: Path, tmp_path: Path) -> None:
    result = tlcli("probe", store, "--shots", "1,5", "-o", "run", "--penalties", "0.1,1")

    assert result.exit_code == 0, result.stderr
    assert "few-shot, test top-1, 5 draws" in result.stdout
    assert "1 image per class: top-1 " in result.stderr
    assert len((tmp_path / "run" / "few_shot.csv").read_text().splitlines()) == 1 + 2 * 5
    assert (tmp_path / "run" / "few_shot.png").is_file()


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (["nowhere"], 3, "There is no folder 'nowhere': give the one that"),
        (["."], 3, "'.' is no store of features: it has no manifest.json."),
        (["STORE", "--penalties", "0"], 2, "--penalties '0' is not understood"),
        (["STORE", "--shots", "x"], 2, "--shots 'x' is not understood"),
        (["STORE", "--shots", "6"], 3, "--shots 6: the smallest class has 5 train images."),
        (["STORE", "--repeats", "2"], 2, "--repeats 2 has no effect without --shots"),
        (["STORE", "--head", "mlp"], 2, None),
        (["STORE", "--seed", "-1"], 2, "--seed must be 0 or more, not -1."),
        ([], 2, None),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else None,
)
def test_mistake__is_one_line_and_an_exit_code(
    tlcli: Invoke, store: Path, words: list[str], exit_code: int, message: str | None
) -> None:
    result = tlcli("probe", *(store if word == "STORE" else word for word in words))

    assert (result.exit_code, result.stdout) == (exit_code, "")
    if message:
        assert result.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert not list(store.glob("probe*"))


def test_probe__config_file(tlcli: Invoke, store: Path, tmp_path: Path) -> None:
    tlcli("probe", store, "--head", "knn", "--penalties", "1,3", "-o", "a")

    again = tlcli("probe", store, "-c", tmp_path / "a" / "config.toml", "-o", "b", "--json")

    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["head"] == "knn"
    assert (tmp_path / "a" / "penalties.csv").read_text() == (
        tmp_path / "b" / "penalties.csv"
    ).read_text()
