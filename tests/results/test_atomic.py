import csv
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tlcli.errors import MachineError
from tlcli.results.atomic import make_folder, replacing, write_csv, write_text


def test_write_text__replaces_and_keeps_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    write_text(path, "old")
    write_text(path, "új\r\nline\n")
    assert path.read_bytes() == "új\r\nline\n".encode()
    assert [entry.name for entry in tmp_path.iterdir()] == ["note.txt"]


def test_write_text__file_name_that_is_not_utf8_keeps_its_bytes(tmp_path: Path) -> None:
    write_text(tmp_path / "paths.txt", os.fsdecode(b"caf\xe9.jpg"))
    assert (tmp_path / "paths.txt").read_bytes() == b"caf\xe9.jpg"


def test_write_text__is_readable_like_any_new_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "x")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_write_text__who_reads_the_old_file_keeps_it(tmp_path: Path) -> None:
    write_text(tmp_path / "run.json", "old")
    with (tmp_path / "run.json").open() as reader:
        write_text(tmp_path / "run.json", "new")
        assert reader.read() == "old"


def test_replacing__temporary_has_the_folder_and_suffix(tmp_path: Path) -> None:
    with replacing(tmp_path / "plot.png") as temporary:
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".png")
        temporary.write_bytes(b"png")
    assert (tmp_path / "plot.png").read_bytes() == b"png"


def test_replacing__error_in_body_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "last.pt", "old")

    def interrupted_write() -> None:
        with replacing(tmp_path / "last.pt") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_write()
    assert (tmp_path / "last.pt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_replacing__killed_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    write_text(path, "old")
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from tlcli.results.atomic import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_replacing__full_disk_is_a_machine_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_text(tmp_path / "last.pt", "old")
    monkeypatch.setattr(os, "fsync", no_space)
    message = r"Cannot write '.*last\.pt': No space left on device\. Free some space"
    with pytest.raises(MachineError, match=message):
        write_text(tmp_path / "last.pt", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("last.pt", "old")]


def test_write_text__missing_folder_is_a_machine_error(tmp_path: Path) -> None:
    message = r"Cannot write '.*nowhere/x': No such file or directory\. Make its folder first"
    with pytest.raises(MachineError, match=message):
        write_text(tmp_path / "nowhere" / "x", "text")


def test_write_text__file_in_place_of_the_folder_is_a_machine_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match=r"Cannot write '.*file/x': Not a directory\."):
        write_text(tmp_path / "file" / "x", "text")
    with pytest.raises(MachineError, match=r"Cannot make the folder '.*file/x': Not a directory"):
        make_folder(tmp_path / "file" / "x")


def test_write_csv__floats_read_back_exactly(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 1e-300, 5e-324, -0.0, 123456789.123456789]
    write_csv(tmp_path / "t.csv", header=["a,b", 'q"'], rows=[[v, None] for v in values])
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["a,b", 'q"']
    assert [float(row[0]).hex() for row in rows[1:]] == [v.hex() for v in values]
    assert {row[1] for row in rows[1:]} == {""}


def test_write_csv__error_in_the_rows_leaves_the_old_file(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", header=["a"], rows=[[1]])
    with pytest.raises(ZeroDivisionError):
        write_csv(tmp_path / "t.csv", header=["a"], rows=([1 // n] for n in (1, 0)))
    assert (tmp_path / "t.csv").read_text() == "a\n1\n"
    assert len(list(tmp_path.iterdir())) == 1
