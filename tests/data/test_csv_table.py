from pathlib import Path

import pandas as pd
import pytest

from tlcli.data.csv_table import TableColumns, read_csv_table
from tlcli.errors import DataError


@pytest.fixture
def folder(tmp_path: Path, write_images) -> Path:
    return write_images(tmp_path / "set", [f"img/{i}.png" for i in range(4)])


def write(folder: Path, text: str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_read_csv_table__labels_stay_text(folder: Path) -> None:
    text = "path,label\nimg/0.png,001\nimg/1.png,None\nimg/2.png,NA\nimg/3.png,1\n"
    table = read_csv_table(write(folder, text))
    assert table.classes == ("001", "1", "NA", "None")
    assert table.splits == ("unsplit",)
    assert table.root == folder


def test_read_csv_table__splits_groups_and_blanks(folder: Path) -> None:
    text = (
        "label,path,group,split\n"
        "a, img/0.png,p1,train\n"
        " b ,img/1.png,,Train\n"
        "a,img/2.png,p2, validation\n"
        "b,img/3.png,p3,test\n"
    ).replace(", img/0", ",img/0")
    table = read_csv_table(write(folder, text))
    assert table.items.values.tolist() == [
        ["img/3.png", "b", "test", "p3"],
        ["img/0.png", "a", "train", "p1"],
        ["img/1.png", "b", "train", ""],
        ["img/2.png", "a", "val", "p2"],
    ]


def test_read_csv_table__absolute_paths_and_dots(
    folder: Path, tmp_path: Path, write_images
) -> None:
    write_images(tmp_path, ["else/9.png"])
    text = f"path,label\n{folder}/img/0.png,a\n./img/../img/1.png,b\n../else/9.png,a\n"
    table = read_csv_table(write(folder, text))
    assert list(table.items["path"]) == [f"{tmp_path}/else/9.png", "img/0.png", "img/1.png"]
    assert all(path.is_file() for path in table.paths("unsplit"))


def test_read_csv_table__byte_order_mark(folder: Path) -> None:
    path = write(folder, "\ufeffpath,label\nimg/0.png,a\nimg/1.png,b\n")
    assert read_csv_table(path).classes == ("a", "b")


def test_read_csv_table__tsv_and_parquet_equal_csv(folder: Path) -> None:
    text = "path,label,split\nimg/0.png,a,train\nimg/1.png,b,train\nimg/2.png,a,valid\n"
    expected = read_csv_table(write(folder, text)).items
    tsv = write(folder, text.replace(",", "\t"), "table.tsv")
    pd.read_csv(folder / "table.csv").to_parquet(folder / "table.parquet")
    assert read_csv_table(tsv).items.equals(expected)
    assert read_csv_table(folder / "table.parquet").items.equals(expected)


def test_read_csv_table__parquet_with_numbers_and_gaps(folder: Path) -> None:
    rows = {"path": ["img/0.png", "img/1.png"], "label": [1, 2], "group": ["g", None]}
    pd.DataFrame(rows).to_parquet(folder / "table.parquet")
    table = read_csv_table(folder / "table.parquet")
    assert table.classes == ("1", "2")
    assert list(table.items["group"]) == ["g", ""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\nimg/0.png,a\n", r"no column 'path'; .* it has 'file', 'label'"),
        ("img/0.png,a\nimg/1.png,b\n", r"no column 'path'; its first line must name"),
        ("", r"table\.csv is empty; its first line must name the columns path,label"),
        ("\n \n\n", r"table\.csv is empty; "),
        ("path,label,label\nimg/0.png,a,b\n", r"names the column 'label' twice in its first line"),
        ("path,label, label\nimg/0.png,a,b\n", r"names the column 'label' twice in its first line"),
        ("path,x,x,label, x,x\nimg/0.png,1,2,a,3,4\n", r"'x' 4 times .* name of its own, or take"),
        ("path,label\nimg/0.png,a\nimg/1.png,b,c,d\n", r"Cannot read .* as a table: .*line 3"),
        ("path,label\nimg/0.png,a\nimg/1.png,\n", "1 row with an empty label.*data row 2"),
        ("path,label\nimg/0.png,a\nimg/1.png\n", "1 row with an empty label.*data row 2"),
        ("path,label\n,a\nimg/1.png,b\n", "1 row with an empty path.*data row 1"),
        (
            "path,label,split\nimg/0.png,a,train\nimg/1.png,b,holdout\nimg/2.png,b,\n",
            "2 rows with the split '', 'holdout', the first is data row 2; use train, val or test",
        ),
        (
            "path,label\nimg/0.png,a\n" + "".join(f"no{i}.png,b\n" for i in range(5)),
            r"5 of the 6 files in .* do not exist: 'no0.png', 'no1.png', 'no2.png' and 2 more",
        ),
        ("path,label\nimg,a\nimg/1.png,b\n", "1 of the 2 files in .* does not exist: 'img'"),
        (
            "path,label\nimg/0.png,a\n./img/0.png,b\nimg/1.png,b\n",
            "gives 1 image more than one label: 'img/0.png'",
        ),
        (
            "path,label,split\nimg/0.png,a,train\nimg/0.png,a,val\nimg/1.png,b,train\n",
            "gives 1 image more than one split: 'img/0.png'",
        ),
    ],
)
def test_read_csv_table__refuses(folder: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_csv_table(write(folder, text))


@pytest.mark.parametrize(
    ("rows", "cells"),
    [
        ("img/0.png,a,\nimg/1.png,b,\n", 3),
        ("1,img/0.png,a\n2,img/1.png,b\n", 3),
        (",,img/0.png,a\n,,img/1.png,b\n", 4),
        ("\n \nimg/0.png,a,\nimg/1.png,b\n", 3),
    ],
    ids=["comma_at_the_end", "numbers_in_front", "empty_in_front", "blank_lines"],
)
def test_read_csv_table__more_cells_than_names(folder: Path, rows: str, cells: int) -> None:
    """pandas takes the cells in front for names of the rows, and shifts all others."""
    message = rf"table\.csv has {cells} cells in data row 1 but names 2 columns .*'path', 'label'"
    with pytest.raises(DataError, match=message):
        read_csv_table(write(folder, f"path,label\n{rows}"))


def test_read_csv_table__empty_label_of_a_parquet_with_names_of_rows(folder: Path) -> None:
    rows = {"path": ["img/0.png", "img/1.png"], "label": ["a", None]}
    pd.DataFrame(rows, index=["x", "y"]).to_parquet(folder / "table.parquet")
    with pytest.raises(DataError, match="1 row with an empty label, the first is data row 2"):
        read_csv_table(folder / "table.parquet")


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        (
            "label",
            [["x"], ["x"], ["y", "x"]],
            r"\(ndarray\) in the column 'label', data row 1; an image has one label, a text or a"
            r" number\. If an image may have several classes, `finetune --multi-label` takes lists",
        ),
        ("label", [None, b"x", b"y"], r"has 'b'x'' \(bytes\) .* data row 2; .* or a number\.$"),
        ("group", [{"of": 1}] * 3, r"\(dict\) in the column 'group', data row 1; .* number\.$"),
    ],
    ids=["lists", "bytes", "structs"],
)
def test_read_csv_table__refuses_compound_cells(
    folder: Path, column: str, cells: list[object], message: str
) -> None:
    rows = {"path": [f"img/{i}.png" for i in range(3)], "label": list("xyx"), column: cells}
    pd.DataFrame(rows).to_parquet(folder / "table.parquet")
    with pytest.raises(DataError, match=message):
        read_csv_table(folder / "table.parquet")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"path,label\nimg/\xff\xfe.png,a\n", "the byte 0xff in line 2 is no .*WINDOWS-1252"),
        ("path,label\r\na,b\r\nc,Bär\r\n".encode("latin-1"), "the byte 0xe4 in line 3 is no"),
        (
            b"path,label\n" + b"x,y\n" * 300_000 + b"caf\xe9,z\n",
            "the byte 0xe9 in line 300002 is no",
        ),
        ("path,label\na,b\n".encode("utf-16"), "the byte 0x(ff|fe) in line 1 is no .*UTF-16"),
    ],
    ids=["first_row", "latin", "far_behind", "utf_16"],
)
def test_read_csv_table__not_utf8(folder: Path, content: bytes, message: str) -> None:
    path = folder / "table.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"table\.csv is not UTF-8: {message}"):
        read_csv_table(path)


@pytest.mark.parametrize("name", ["table.csv", "table.tsv"])
def test_read_csv_table__columns_without_a_name_are_not_the_same(folder: Path, name: str) -> None:
    mark = "\t" if name.endswith("tsv") else ","
    text = "path,label,,\nimg/0.png,a,,\nimg/1.png,b,,\n".replace(",", mark)
    assert read_csv_table(write(folder, text, name)).classes == ("a", "b")
    with pytest.raises(DataError, match="names the column 'label' twice"):
        read_csv_table(write(folder, f"label{mark}path{mark}label\n", name))


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (["cat|dog", "dog"], "1 label has '|' in the name, such as 'cat|dog'; each is one class"),
        (["a;b", "b;c", "x"], "2 labels have ';' in the name, such as 'a;b'"),
        (["n01|tench", "n02|goldfish"], None),
        (["tench, Tinca", "tench, other"], None),
        (["a|", "b|"], None),
    ],
)
def test_read_csv_table__labels_that_look_like_several(
    folder: Path, labels: list[str], told: str | None
) -> None:
    rows = "".join(f'img/{i}.png,"{label}"\n' for i, label in enumerate(labels))
    table = read_csv_table(write(folder, f"path,label\n{rows}"))
    if told is None:
        assert table.notes == ()
    else:
        (note,) = table.notes
        assert note.startswith(f"table.csv: {told}")
        other = "" if "|" in labels[0] else " --label-separator ';'"
        assert note.endswith(f"may have several, use `finetune --multi-label{other}`.")


def test_read_csv_table__repeated_rows_and_other_columns_are_told(folder: Path) -> None:
    text = "path,label,width\nimg/0.png,a,8\nimg/0.png,a,8\nimg/1.png,b,8\n"
    table = read_csv_table(write(folder, text))
    assert len(table.items) == 2
    assert table.remarks == (
        "table.csv: the column 'width' is not used.",
        "table.csv: 1 row repeats another row and count once.",
    )


def test_read_csv_table__columns_by_name(folder: Path) -> None:
    text = (
        "path,file,species,label,part,patient\n"
        "x,img/0.png,ant,1,train,p1\n"
        "y,img/1.png,bee,2,validation,p2\n"
        "z,img/2.png,bee,1,train,p1\n"
    )
    columns = TableColumns(path="file", label="species", split="part", group="patient")
    table = read_csv_table(write(folder, text), columns=columns)
    assert table.items.values.tolist() == [
        ["img/0.png", "ant", "train", "p1"],
        ["img/2.png", "bee", "train", "p1"],
        ["img/1.png", "bee", "val", "p2"],
    ]
    assert table.remarks[0] == "table.csv: the columns 'path', 'label' are not used."


def test_read_csv_table__a_claimed_column_is_nothing_else(folder: Path) -> None:
    text = "path,split,label\nimg/0.png,a,x\nimg/1.png,b,x\n"
    table = read_csv_table(write(folder, text), columns=TableColumns(label="split"))
    assert table.classes == ("a", "b")
    assert table.splits == ("unsplit",)


def test_read_csv_table__columns_of_tsv_and_parquet(folder: Path) -> None:
    text = "my file\tmy class\nimg/0.png\ta\nimg/1.png\tb\n"
    columns = TableColumns(path="my file", label="my class")
    expected = read_csv_table(write(folder, text, "t.tsv"), columns=columns).items
    pd.read_csv(folder / "t.tsv", sep="\t").to_parquet(folder / "t.parquet")
    assert read_csv_table(folder / "t.parquet", columns=columns).items.equals(expected)


def test_read_csv_table__tabs_in_a_csv(folder: Path) -> None:
    table = read_csv_table(write(folder, "path\tlabel\nimg/0.png\ta;b\nimg/1.png\tc, d\n"))
    assert table.classes == ("a;b", "c, d")


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_read_csv_table__semicolons(folder: Path, mark: str) -> None:
    text = f'{mark}path;label;split\nimg/0.png;a, b;train\nimg/1.png;"c;d";train\n'
    table = read_csv_table(write(folder, text))
    assert table.classes == ("a, b", "c;d")
    assert table.splits == ("train",)


def test_read_csv_table__semicolon_in_a_name_is_no_separator(folder: Path) -> None:
    table = read_csv_table(write(folder, "path,label,a;b\nimg/0.png,x;y,1\nimg/1.png,z,2\n"))
    assert table.classes == ("x;y", "z")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"label": "specie"},
            r"--label-column 'specie' is no column of .*, it has 'path', 'label', 'species', 'a',"
            r" 'b'\. Did you mean 'species'\?",
        ),
        ({"group": "zzz"}, r"--group-column 'zzz' is no column of .* 'b'\.$"),
        (
            {"label": "a, b"},
            "--label-column names 2 columns of .*, 'a', 'b'; one is needed: every image has one",
        ),
        ({"label": "path"}, "--label-column 'path' is the path of .* too"),
        ({"label": "a", "group": "a"}, "--(label|group)-column 'a' is the (label|group) of"),
    ],
)
def test_read_csv_table__refuses_columns(
    folder: Path, columns: dict[str, str], message: str
) -> None:
    path = write(folder, "path,label,species,a,b\nimg/0.png,x,1,0,1\nimg/1.png,y,2,1,0\n")
    with pytest.raises(DataError, match=message):
        read_csv_table(path, columns=TableColumns(**columns))


def test_read_csv_table__multi_hot_columns_are_told(folder: Path) -> None:
    path = write(folder, "path,cat,dog,width\nimg/0.png,1,1,8\nimg/1.png,0,1,9\n")
    message = r"no column 'label', but 2 columns of 0 and 1: 'cat', 'dog'\. If those are classes"
    with pytest.raises(DataError, match=message):
        read_csv_table(path)
