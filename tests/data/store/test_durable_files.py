import os
from pathlib import Path

import pytest

from tlcli.data.store.durable_files import sweep, sync_folder, write_durably
from tlcli.errors import MachineError
from tlcli.results.atomic import replacing


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_write_durably__replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_durably(path, lambda p: p.write_bytes(b"old"))
    write_durably(path, lambda p: p.write_bytes(b"new"))
    assert path.read_bytes() == b"new"
    assert names_in(tmp_path) == ["a.bin"]


def test_write_durably__swept_by_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, calls = os.fsync, []

    def sweep_then_sync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            sweep(tmp_path)
            assert names_in(tmp_path) == []
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sweep_then_sync)
    write_durably(tmp_path / "a.bin", lambda p: p.write_bytes(b"new"))
    assert len(calls) == 3, "the file, the file once more, the folder"
    assert (tmp_path / "a.bin").read_bytes() == b"new"
    assert names_in(tmp_path) == ["a.bin"]


def test_write_durably__no_folder(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"Cannot write '.*/none/a\.bin': No such file"):
        write_durably(tmp_path / "none" / "a.bin", lambda p: p.write_bytes(b""))


def test_sync_folder__missing(tmp_path: Path) -> None:
    sync_folder(tmp_path)
    if os.name == "posix":
        with pytest.raises(MachineError, match=r"Cannot write '.*/none': No such file"):
            sync_folder(tmp_path / "none")


def test_sweep__takes_what_replacing_leaves_and_nothing_else(tmp_path: Path) -> None:
    keep = ["manifest.json", ".hidden", ".0123456789abcdef.txt", "0123456789abcdef.tmp.json"]
    for name in keep:
        (tmp_path / name).touch()
    with replacing(tmp_path / "a.safetensors") as with_suffix:
        with_suffix.touch()
        with replacing(tmp_path / "b") as without_suffix:
            without_suffix.touch()
            assert len(names_in(tmp_path)) == len(keep) + 2
            sweep(tmp_path)
            assert sorted(names_in(tmp_path)) == sorted(keep)
            without_suffix.touch()
        with_suffix.touch()
