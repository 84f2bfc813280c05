"""Tables whose images have any number of classes, from the file to `ImageTable`."""

from pathlib import Path

import pandas as pd
import pytest

from tlcli.data.class_file import ClassName, choose_classes
from tlcli.data.csv_table import TableColumns, read_csv_table
from tlcli.data.split_file import read_split, write_split
from tlcli.data.table import ImageTable, make_table
from tlcli.errors import ConfigError, DataError

TEXT = 'path,label\nimg/0.png,cat|dog\nimg/1.png,\nimg/2.png, dog | cat|dog\nimg/3.png,"bird"\n'
FLAGS = "path,cat,dog,bird\nimg/0.png,1,1,0\nimg/1.png,0,0,0\nimg/2.png,1,1,0\nimg/3.png,0,0,1\n"
COLUMNS = TableColumns(label="cat,dog,bird")


@pytest.fixture
def folder(tmp_path: Path, write_images) -> Path:
    return write_images(tmp_path / "set", [f"img/{i}.png" for i in range(4)])


def read(
    folder: Path,
    text: str,
    *,
    name: str = "t.csv",
    columns: TableColumns = TableColumns(),  # noqa: B008 (frozen)
    separator: str = "|",
) -> ImageTable:
    (folder / name).write_text(text, encoding="utf-8")
    return read_csv_table(folder / name, columns=columns, label_separator=separator)


def labels_of(table: ImageTable) -> dict[str, str]:
    return dict(zip(table.items["path"], table.items["label"], strict=True))


EXPECTED = {"img/0.png": "cat|dog", "img/1.png": "", "img/2.png": "cat|dog", "img/3.png": "bird"}


def test_read_csv_table__labels_in_one_column(folder: Path) -> None:
    table = read(folder, TEXT)

    assert table.is_multi_label
    assert table.classes == ("bird", "cat", "dog")
    assert labels_of(table) == EXPECTED
    assert table.remarks == ()
    rows = dict(zip(table.part("unsplit")["path"], table.label_matrix("unsplit"), strict=True))
    assert rows["img/0.png"].tolist() == [False, True, True]
    assert rows["img/1.png"].tolist() == [False, False, False]
    assert table.counts() == {"unsplit": {"bird": 1, "cat": 2, "dog": 2}}
    assert table.sizes() == {"unsplit": 4}


def test_table__of_one_kind_has_not_what_the_other_has(folder: Path) -> None:
    several = read(folder, TEXT)
    with pytest.raises(ValueError, match="have no class index"):
        several.targets("unsplit")
    (folder / "one.csv").write_text("path,label\nimg/0.png,a\nimg/1.png,b\n")
    single = read_csv_table(folder / "one.csv")
    with pytest.raises(ValueError, match="have class indices"):
        single.label_matrix("unsplit")


def test_read_csv_table__columns_of_zero_and_one_are_the_same_data(folder: Path) -> None:
    text = read(folder, TEXT)
    flags = read(folder, FLAGS, name="f.csv", columns=COLUMNS)
    words = FLAGS.replace(",1", ",TRUE").replace(",0", ", false")

    assert flags.items.equals(text.items)
    assert flags.classes == text.classes
    assert flags.fingerprint == text.fingerprint
    assert read(folder, words, name="w.csv", columns=COLUMNS).items.equals(text.items)
    spaced = TableColumns(label=" bird , dog,cat")
    assert read(folder, FLAGS, name="f.csv", columns=spaced).items.equals(text.items)


def test_read_csv_table__parquet_of_flags_and_of_lists(folder: Path) -> None:
    expected = read(folder, TEXT).items
    paths = [f"img/{i}.png" for i in range(4)]
    lists = [["cat", "dog"], [], ["dog", "cat", "dog"], ["bird"]]
    pd.DataFrame({"path": paths, "label": lists}).to_parquet(folder / "lists.parquet")
    floats = {"cat": [1.0, 0.0, 1.0, 0.0], "dog": [True, False, True, False], "bird": [0, 0, 0, 1]}
    pd.DataFrame({"path": paths, **floats}).to_parquet(folder / "flags.parquet")

    for name, columns in (("lists", TableColumns()), ("flags", COLUMNS)):
        path = folder / f"{name}.parquet"
        table = read_csv_table(path, columns=columns, label_separator="|")
        assert table.items.equals(expected)


@pytest.mark.parametrize("separator", [";", ",", " "])
def test_read_csv_table__other_separators(folder: Path, separator: str) -> None:
    text = 'path,label\nimg/0.png,"cat;dog"\nimg/1.png,\nimg/2.png,"dog;cat;"\nimg/3.png,bird\n'
    table = read(folder, text.replace(";", separator), separator=separator)
    assert labels_of(table) == EXPECTED


def test_read_csv_table__another_separator_than_was_said_is_told(folder: Path) -> None:
    both = read(folder, TEXT.replace("|", ";"))
    assert both.remarks == (
        "t.csv: 2 classes have ';' in the name, such as 'cat;dog'. If it separates labels, add "
        "--label-separator ';'.",
    )
    part = 'path,label\nimg/0.png,a\nimg/1.png,b\nimg/2.png,c\nimg/3.png,"d,c"\n'
    assert "1 class has ',' in the name, such as 'd,c'." in " ".join(read(folder, part).remarks)
    natural = "path,label\nimg/0.png,AC/DC\nimg/1.png,b\nimg/2.png,c\nimg/3.png,b|c\n"
    assert read(folder, natural).remarks == ()


def test_read_csv_table__one_column_of_zero_and_one_is_one_class(folder: Path) -> None:
    table = read(folder, FLAGS, columns=TableColumns(label="cat"))

    assert table.classes == ("cat",)
    assert table.counts() == {"unsplit": {"cat": 2}}
    assert "t.csv: the column 'cat' holds 0 and 1 only, so 'cat' is the one class" in " ".join(
        table.remarks
    )
    assert "the columns 'dog', 'bird' are not used" in " ".join(table.remarks)


def test_read_csv_table__columns_with_commas_in_their_names(folder: Path) -> None:
    text = FLAGS.replace("cat,dog", '"cat, small",dog')
    quoted = TableColumns(label='"cat, small",dog')
    assert read(folder, text, columns=quoted).classes == ("cat, small", "dog")
    whole = read(folder, text, columns=TableColumns(label="cat, small"))
    assert whole.classes == ("cat, small",)
    with pytest.raises(DataError, match=r"""add --label-column '"cat, small",dog,bird'\."""):
        read(folder, text)


def test_read_csv_table__a_class_that_no_image_has(folder: Path) -> None:
    table = read(folder, FLAGS.replace("0,0,1", "0,0,0"), columns=COLUMNS)

    assert table.classes == ("bird", "cat", "dog")
    assert "unsplit has no images of 1 of 3 classes: 'bird'." in table.remarks


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        (
            FLAGS.replace("0,0,1", "0,2,1"),
            "cat,dog,bird",
            "t.csv has '2' in the label column 'dog', data row 4; .* each cell is 0 or 1",
        ),
        (FLAGS.replace("0,0,1", "0,,1"), "cat,dog,bird", "has '' in the label column 'dog'"),
        (FLAGS, "cat,dgo", r"--label-column 'dgo' is no column of .*Did you mean 'dog'\?"),
        (FLAGS, "cat,dog,cat", "--label-column names the column 'cat' of .* twice"),
        (FLAGS, None, "no column 'label', but 3 columns of 0 and 1.*--label-column cat,dog,bird"),
        ("path,kind\nimg/0.png,a\n", None, "no column 'label'; its first line must name"),
        ("path,label\nimg/0.png,\nimg/1.png, |\n", None, "No image in t.csv has a label"),
        (
            "path,label\nimg/0.png,a\n./img/0.png,b\n",
            None,
            "gives 1 image more than one label: 'img/0.png'. Write all classes of an image into",
        ),
        ("path,label\n,a\nimg/1.png,b\n", None, "1 row with an empty path.*data row 1"),
    ],
)
def test_read_csv_table__refuses(
    folder: Path, text: str, columns: str | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(folder, text, columns=TableColumns(label=columns))


def test_read_csv_table__a_label_column_is_nothing_else(folder: Path) -> None:
    with pytest.raises(DataError, match=r"--group-column 'dog' is the label of .* too"):
        read(folder, FLAGS, columns=TableColumns(label="cat,dog", group="dog"))
    text = "path,split,group,dog\nimg/0.png,1,0,1\nimg/1.png,0,1,1\n"
    table = read(folder, text, columns=TableColumns(label="split,group"))
    assert table.classes == ("group", "split")
    assert set(table.items["group"]) == {""}


def test_read_csv_table__separator_of_columns_of_zero_and_one(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"--label-separator ';' has no effect on t\.csv, whose"):
        read(folder, FLAGS, columns=COLUMNS, separator=";")


def test_read_csv_table__names_with_our_own_separator(folder: Path) -> None:
    text = "path,label\nimg/0.png,a|b;c\nimg/1.png,c\n"
    with pytest.raises(DataError, match=r"classes with '\|' in their names, 'a\|b': it separates"):
        read(folder, text, separator=";")


def test_read_csv_table__one_class_per_image_is_told_of_the_option(folder: Path) -> None:
    (folder / "f.csv").write_text(FLAGS)
    with pytest.raises(DataError, match="`finetune --multi-label --label-column a,b,c` takes them"):
        read_csv_table(folder / "f.csv")
    with pytest.raises(DataError, match="With --multi-label they are a class each"):
        read_csv_table(folder / "f.csv", columns=COLUMNS)


def test_make_table__what_train_lacks_is_told() -> None:
    rows = [("0", "a|b", "train", ""), ("1", "a|c", "val", ""), ("2", "", "test", "")]
    items = pd.DataFrame(rows, columns=["path", "label", "split", "group"])
    table = make_table(items, spec="s", root=Path("/r"), classes="abc", is_multi_label=True)

    assert table.remarks == (
        "train has no images of 1 of 3 classes: 'c'. Nothing can be learnt of them; --classes "
        "leaves them out.",
        "val has no images of 1 of 3 classes: 'b'.",
        "test has no images of 3 of 3 classes: 'a', 'b', 'c'.",
    )
    with pytest.raises(DataError, match="has labels that are no class: 'c'"):
        make_table(items, spec="s", root=Path("/r"), classes="ab", is_multi_label=True)


def test_make_table__classes_that_every_train_image_has_are_told() -> None:
    rows = [("0", "a|b", "train", ""), ("1", "a|c", "train", ""), ("2", "b", "val", "")]
    items = pd.DataFrame(rows, columns=["path", "label", "split", "group"])
    table = make_table(items, spec="s", root=Path("/r"), classes="abc", is_multi_label=True)
    told = "every train image has 1 class: 'a'. Nothing is there to tell such a class by"
    assert [remark.startswith(told) for remark in table.remarks].count(True) == 1

    rows[1] = ("1", "c", "train", "")
    items = pd.DataFrame(rows, columns=["path", "label", "split", "group"])
    table = make_table(items, spec="s", root=Path("/r"), classes="abc", is_multi_label=True)
    assert not any(remark.startswith("every") for remark in table.remarks)


def test_choose_classes__all_images_stay(folder: Path) -> None:
    table = read(folder, TEXT)
    chosen = [ClassName("dog", "pet"), ClassName("cat", "pet")]

    merged = choose_classes(table, chosen)
    some = choose_classes(table, [ClassName("dog", "z"), ClassName("bird", "b")])

    assert merged.classes == ("pet",)
    assert labels_of(merged) == {**dict.fromkeys(EXPECTED, "pet"), "img/1.png": "", "img/3.png": ""}
    assert merged.remarks == (
        "--classes leaves out 1 class: 'bird'; 1 image has none of the classes then.",
    )
    assert some.classes == ("z", "b")
    assert labels_of(some) == {**dict.fromkeys(EXPECTED, "z"), "img/1.png": "", "img/3.png": "b"}
    assert some.label_matrix("unsplit").sum(axis=0).tolist() == [2, 1]
    with pytest.raises(DataError, match="--classes names 'cow'"):
        choose_classes(table, [ClassName("cow", "cow")])


def test_split_file__keeps_images_without_a_class(folder: Path) -> None:
    table = read(folder, TEXT)
    numbers = ["train", "val", "train", "val"]
    split = table.with_items(table.items.assign(split=numbers))
    write_split(split, folder / "splits.csv")

    assert read_split(table, folder / "splits.csv").items.equals(split.items)
    other = read(folder, TEXT.replace("cat|dog", "cat"))
    with pytest.raises(DataError, match=r"the label of 1 image is another: 'img/0.png'"):
        read_split(other, folder / "splits.csv")
