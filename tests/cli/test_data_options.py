import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Invoke = Callable[..., Result]
BASE = ("--model", "timm/test_vit", "--weights", "none", "--device", "cpu", "--epochs", "1")


@pytest.fixture
def table(photos: Path, tmp_path: Path) -> Path:
    rows = [f"{path},{path.parent.name}" for path in sorted(photos.glob("train/*/*.png"))]
    (tmp_path / "table.csv").write_text("\n".join(["file,kind", *rows]))
    return tmp_path / "table.csv"


def test_finetune__options_on_tables_and_folds(tlcli: Invoke, table: Path) -> None:
    columns = ("--path-column", "file", "--label-column", "kind")
    (table.parent / "classes.txt").write_text("bee\nant,x\n")

    result = tlcli(
        *("finetune", "-d", "table.csv", *BASE, *columns, "--fold", "1/2"),
        *("--classes", "classes.txt", "-o", "run", "--json"),
    )

    assert result.exit_code == 0, result.stderr
    record = json.loads((table.parent / "run" / "run.json").read_text())
    assert record["classes"] == ["bee", "x"]
    assert record["config"]["fold"] == "1/2"
    again = tlcli(
        *("finetune", "-d", "table.csv", "--classes", "classes.txt", "-o", "run", "--resume")
    )
    assert again.exit_code == 0, again.stderr
    assert "is finished; there is nothing to go on with" in again.stderr
    other = tlcli("finetune", "--classes", "other.txt", "-o", "run", "--resume")
    assert (other.exit_code, "--classes other.txt differs" in other.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("-d", "sample:digits", "--label-column", "x"), 2, "only tables and hf: data sets"),
        (("--fold", "0/3"), 2, "--fold '0/3' is not understood: write 1/5, 2/5"),
        (("--fold", "1/2", "--val-split", "0.3"), 2, "--val-split 0.3 has no effect with --fold"),
        (("--classes", "nowhere.txt"), 3, "nowhere.txt: No such file or directory"),
        (("-d", "torchvision:Flower102"), 3, "Did you mean torchvision:Flowers102?"),
    ],
)
def test_finetune__mistakes_are_told(
    tlcli: Invoke, words: tuple[str, ...], code: int, message: str
) -> None:
    result = tlcli("finetune", *BASE, *words, "-o", "run")

    assert result.exit_code == code
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize("flag", ["--classes", "--path-column", "--label-column", "--split-column"])
def test_evaluate__a_run_keeps_its_own_data_options(tlcli: Invoke, flag: str) -> None:
    result = tlcli("evaluate", "run", flag, "x")

    assert result.exit_code == 2
    assert f"{flag} has no effect on a run folder and its data" in " ".join(result.stderr.split())


def test_detect_finetune__has_no_options_of_tables(tlcli: Invoke) -> None:
    for flag in ("--fold", "--classes", "--label-column"):
        result = tlcli("detect-finetune", flag, "1/2")
        assert result.exit_code == 2
        assert "No such option" in result.stderr


@pytest.mark.parametrize("flag", ["--no-fold-norm", "--no-fold"])
def test_extract_features__folding_of_norms_has_a_name_of_its_own(
    tlcli: Invoke, table: Path, flag: str
) -> None:
    words = ("--path-column", "file", "--label-column", "kind", "--fold", "1/2", flag)

    result = tlcli(
        *("extract-features", "-d", "table.csv", *BASE[:6], *words, "-o", "features", "--json")
    )

    assert result.exit_code == 0, result.stderr
    config = json.loads((table.parent / "features" / "run.json").read_text())["config"]
    assert (config["fold"], config["fold_norm"]) == ("1/2", False)
