"""Options on images with one class each: folds, classes, columns of tables."""

from typing import Annotated

from tlcli.cli.options import DATA, option

KFoldOpt = Annotated[
    str | None,
    option(
        "--fold",
        panel=DATA,
        text="Cross-validation: 2/5 holds the second of five equal parts out for validation.",
    ),
]
ClassesOpt = Annotated[
    str | None,
    option(
        "--classes",
        panel=DATA,
        text="File with a class per line, 'name' or 'old,new': the others are left out.",
    ),
]
PathColumnOpt = Annotated[
    str | None,
    option("--path-column", panel=DATA, text="Column of a table with the images; else path."),
]
LabelColumnOpt = Annotated[
    str | None,
    option("--label-column", panel=DATA, text="Column with the classes; else label."),
]
SplitColumnOpt = Annotated[
    str | None,
    option("--split-column", panel=DATA, text="Column with train, val, test; else split."),
]
GroupColumnOpt = Annotated[
    str | None,
    option(
        "--group-column",
        panel=DATA,
        text="Column that says which images stay in one part together; else group.",
    ),
]
