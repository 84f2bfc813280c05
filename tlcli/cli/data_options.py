"""Options on labelled images: folds, classes, columns of tables."""

from typing import Annotated

from tlcli.cli.options import DATA, option

KFoldOpt = Annotated[
    str | None,
    option(
        "--fold",
        panel=DATA,
        text="Cross-validation: 2/5 holds the second of five equal parts out for validation; the "
        "parts follow --seed, which must be the same for all five.",
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
    option(
        "--label-column",
        panel=DATA,
        text="Column with the classes; else label. With --multi-label also columns of 0 and 1 that "
        "are called like the classes, with commas.",
    ),
]
MultiLabelOpt = Annotated[
    bool,
    option(
        "--multi-label",
        panel=DATA,
        text="Images of a table have any number of classes, none too: the label column holds them "
        "as cat|dog, or is several columns of 0 and 1.",
    ),
]
_label_separator = option(
    "--label-separator", panel=DATA, text="What stands between the labels of --multi-label images."
)
LabelSeparatorOpt = Annotated[str, _label_separator]
GivenLabelSeparatorOpt = Annotated[str | None, _label_separator]
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
