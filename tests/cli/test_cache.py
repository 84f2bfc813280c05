import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from recipes.feature_runs import extract
from typer.testing import Result

from tlcli.data.cache_folder import cache_folder

Invoke = Callable[..., Result]


@pytest.fixture
def name(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The only entry of a cache."""
    monkeypatch.setenv("TLCLI_CACHE_DIR", str(tmp_path / "cache"))
    summary, _ = extract(photos, None, model="timm/test_vit", no_head=True)
    return Path(summary["store"]).name


def test_list__table_and_json(tlcli: Invoke, name: str, photos: Path) -> None:
    table, document = tlcli("cache", "list", COLUMNS="200"), tlcli("cache", "list", "--json")

    (entry,) = json.loads(document.stdout)["entries"]
    assert set(json.loads(document.stdout)) == {"schema_version", "entries"}
    assert set(entry) == {
        *("name", "kind", "state", "model", "data", "holds", "rows", "bytes", "used", "path"),
    }
    assert (entry["name"], entry["state"], entry["rows"]) == (name, "finished", 15)
    lines = table.stdout.splitlines()
    assert lines[0] == f"1 entry, {entry['bytes'] / 1e6:.1f} MB in {cache_folder()}"
    assert lines[2].split()[:4] == [name, "features", "finished", "15"]
    assert lines[2].rstrip().endswith(str(photos))


def test_list__of_an_empty_cache(
    tlcli: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLCLI_CACHE_DIR", str(tmp_path / "none"))
    assert tlcli("cache", "list").stdout == f"The cache, {tmp_path / 'none'}, is empty.\n"
    assert json.loads(tlcli("cache", "list", "--json").stdout)["entries"] == []


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_list__of_a_cache_that_is_a_file(
    tlcli: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TLCLI_CACHE_DIR", str(tmp_path / place))

    result = tlcli("cache", "list")

    assert result.exit_code == 5
    assert result.stderr == (
        f"error: The cache cannot lie in '{tmp_path / place}': '{tmp_path / 'file'}' is not a "
        "folder. Move what lies there, or set TLCLI_CACHE_DIR to another place.\n"
    )
    assert "timm/tf_efficientnet_lite0" in tlcli("models", "list", "*lite0").stdout


def test_show__is_one_document(tlcli: Invoke, name: str) -> None:
    document = json.loads(tlcli("cache", "show", name).stdout)
    assert document["key"]["model"] == "timm/test_vit"
    assert document["runs"] == []


def test_clear__says_how_much_was_freed(tlcli: Invoke, name: str) -> None:
    (entry,) = json.loads(tlcli("cache", "list", "--json").stdout)["entries"]

    result = tlcli("cache", "clear", name)

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"Deleted 1 entry, {entry['bytes'] / 1e6:.1f} MB.\n"
    assert json.loads(tlcli("cache", "list", "--json").stdout)["entries"] == []


def test_clear__all_as_json(tlcli: Invoke, name: str) -> None:
    document = json.loads(tlcli("cache", "clear", "--all", "--json").stdout)
    assert [entry["name"] for entry in document["deleted"]] == [name]
    assert json.loads(tlcli("cache", "clear", "--all", "--json").stdout)["deleted"] == []


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (["clear"], 2, "Name entries of 'tlcli cache list', or give --all."),
        (["clear", "NAME", "--all"], 2, "Name entries of 'tlcli cache list', or give --all."),
        (["clear", "nothing"], 3, "The cache has no 'nothing'. It has: test_vit-"),
        (["show", "nothing"], 3, "There is no folder 'nothing'"),
        (["export", "nothing", "-o", "x"], 3, "There is no folder 'nothing'"),
        (["export", "NAME", "-o", "."], 2, "'.' exists: choose another --output."),
        (["export", "NAME", "-o", "x", "--format", "csv"], 2, None),
        (["export", "NAME", "-o", "x.npy", "--format", "parquet"], 2, "--output 'x.npy' ends as"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else None,
)
def test_mistake__is_one_line_and_an_exit_code(
    tlcli: Invoke, name: str, words: list[str], exit_code: int, message: str | None
) -> None:
    result = tlcli("cache", *(name if word == "NAME" else word for word in words))

    assert (result.exit_code, result.stdout) == (exit_code, "")
    if message:
        assert result.stderr.startswith(f"error: {message}")
    assert len(json.loads(tlcli("cache", "list", "--json").stdout)["entries"]) == 1


def test_export__prints_where_it_went(tlcli: Invoke, name: str, tmp_path: Path) -> None:
    arrays = tlcli("cache", "export", name, "-o", "arrays")
    table = tlcli("cache", "export", name, "-o", "table.parquet")

    assert (arrays.stdout, table.stdout) == ("arrays\n", "table.parquet\n")
    assert np.load(tmp_path / "arrays" / "embedding.npy").shape == (15, 64)
    assert (tmp_path / "table.parquet").is_file()
    assert arrays.stderr == table.stderr == "Wrote 15 rows.\n"


def test_list__show_and_clear_do_without_torch(
    shell: Callable[..., subprocess.CompletedProcess[str]], name: str
) -> None:
    program = (
        "import sys; from tlcli.__main__ import main; sys.argv[0] = 'tlcli'\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    for words in ("list", f"show {name}", f"clear {name}"):
        done = shell(f'"{sys.executable}" -c "{program}" cache {words}')
        assert (done.returncode, done.stderr) == (0, "False\n"), words
