from pathlib import Path

import pytest

from tlcli.data.catalog import load_table
from tlcli.data.image_check import check_images, find_duplicates
from tlcli.errors import DataError


def bad_ones(paths: list[Path]) -> list[tuple[Path, str]]:
    checks = check_images(paths, threads=3)
    return [(check.path, check.problem) for check in checks if check.problem is not None]


def test_check_images__names_each_with_its_reason(tmp_path: Path, write_images) -> None:
    write_images(tmp_path, [f"{i}.jpg" for i in range(5)])
    paths = [tmp_path / f"{i}.jpg" for i in range(5)]
    paths[1].write_bytes(paths[1].read_bytes()[:-200])
    paths[3].write_bytes(b"")
    paths[4].unlink()
    found = bad_ones(paths)
    assert [path for path, _ in found] == [paths[1], paths[3], paths[4]]
    reasons = [reason for _, reason in found]
    assert "truncated" in reasons[0].lower()
    assert "empty" in reasons[1]
    assert "No such file" in reasons[2]


def test_check_images__order_of_paths_over_many_chunks(tmp_path: Path, write_images) -> None:
    write_images(tmp_path, ["good.png"])
    (tmp_path / "bad.png").write_bytes(b"no image")
    paths = [tmp_path / ("bad.png" if i % 100 == 7 else "good.png") for i in range(600)]
    checks = list(check_images(paths, threads=2))
    assert [check.path for check in checks] == paths
    assert [i for i, check in enumerate(checks) if check.problem] == [7, 107, 207, 307, 407, 507]


def test_find_duplicates__exact_copies_only(tmp_path: Path) -> None:
    contents = {"a": b"one", "b": b"two", "c": b"one", "d": b"three", "e": b"two", "f": b"one"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    groups = find_duplicates([tmp_path / name for name in contents])
    assert [[path.name for path in group] for group in groups] == [["a", "c", "f"], ["b", "e"]]


def test_find_duplicates__missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read .*gone: No such file"):
        find_duplicates([tmp_path / "gone"])


def test_check_images__brain_mri_is_all_readable(shared_data: Path) -> None:
    table = load_table(str(shared_data / "brain_mri"))
    paths = table.paths("unsplit")
    assert len(paths) == 253
    assert bad_ones(paths) == []
    assert sum(len(group) - 1 for group in find_duplicates(paths)) == 25


def test_check_images__the_gif_of_hymenoptera_is_readable(shared_data: Path) -> None:
    gif = shared_data / "hymenoptera" / "train" / "ants" / "imageNotFound.gif"
    assert bad_ones([gif]) == []
