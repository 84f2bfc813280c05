"""`--config`, and the options that a resumed run keeps."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recipes.box_runs import make_box_folder
from recipes.feature_runs import extract
from recipes.runs import finetune, metrics_of, rows_of
from typer.testing import Result

Invoke = Callable[..., Result]
BASE = ("--model", "timm/test_vit", "--weights", "none", "--device", "cpu")


@pytest.fixture
def plan(tlcli: Invoke, tmp_path: Path, photos: Path) -> Callable[..., Any]:
    """Return the `--dry-run` of a command that reads `text` as its config file."""

    def run(text: str, *words: str) -> Result:
        (tmp_path / "options.toml").write_text(text)
        return tlcli(
            "finetune", "-d", photos, *BASE, "-c", "options.toml", *words, "--dry-run", "--json"
        )

    return run


def head_of(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    row: dict[str, Any] = json.loads(result.stdout)["stages"][-1]
    return row


@pytest.mark.parametrize("key", ["weight-decay", "weight_decay"])
def test_config_file__dashes_and_underscores(plan: Callable[..., Result], key: str) -> None:
    assert head_of(plan(f"{key} = 0.25\nlr = 1"))["weight_decay"] == 0.25


def test_config_file__flags_override_it(plan: Callable[..., Result]) -> None:
    row = head_of(plan("lr = 0.5\nweight_decay = 0.25", "--lr", "0.125"))

    assert (row["lr"], row["weight_decay"]) == (0.125, 0.25)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "'epoch' is no option of this command. Did you mean 'epochs'?"),
        ("zzz = 3", "'zzz' is no option of this command."),
        ("json = true", "'json' is no option of this command."),
        ("help = true", "'help' is no option of this command."),
        ("epochs = 2.5", "'epochs' must be a whole number, not 2.5."),
        ("epochs = true", "'epochs' must be a whole number, not True."),
        ("lr = '1e-3'", "'lr' must be a number or 'auto', not '1e-3'."),
        ("ema = '1e-3'", "'ema' must be a number, not '1e-3'."),
        ("channels_last = 1", "'channels_last' must be true or false, not 1."),
        ("amp = 'no'", "'amp' must be true or false, not 'no'."),
        ("data = 5", "'data' must be a text in quotes, not 5."),
        ("opt = 'adam'", "'opt' must be one of 'adamw', 'sgd', not 'adam'."),
        ("[train]\nepochs = 3", "'train' is no option of this command."),
        ("seed = [1, 2]", "'seed' must be a whole number, not [1, 2]."),
        ("batch-size = 3\nbatch_size = 4", "'batch_size' stands there twice."),
    ],
)
def test_config_file__mistake_is_told(plan: Callable[..., Result], text: str, message: str) -> None:
    result = plan(text)

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: --config options.toml: {message}")


@pytest.mark.parametrize("text", ["epochs", "epochs = 3\nepochs = 4", "data = 'a"])
def test_config_file__is_no_toml(plan: Callable[..., Result], text: str) -> None:
    result = plan(text)

    assert result.exit_code == 2
    assert result.stderr.startswith("error: --config options.toml is no valid TOML: ")


def test_config_file__out_of_range_is_told_like_a_flag(plan: Callable[..., Result]) -> None:
    result = plan("epochs = 0")

    assert (result.exit_code, result.stderr) == (2, "error: --epochs must be 1 or more, not 0.\n")


def test_config_file__that_is_not_there(tlcli: Invoke) -> None:
    result = tlcli("finetune", "--config", "nowhere.toml")

    assert result.exit_code == 2
    assert result.stderr == "error: --config nowhere.toml: No such file or directory.\n"


def test_config_file__of_a_run_makes_it_again(tlcli: Invoke, tmp_path: Path, photos: Path) -> None:
    words = ("--unfreeze", "head", "--epochs", "1", "--lr", "0.02", "--batch-size", "4")
    first = tlcli("finetune", "-d", photos, *BASE, *words, "-o", "first", "-q")
    again = tlcli("finetune", "-c", "first/config.toml", "-o", "again", "-q")

    assert (first.exit_code, again.exit_code) == (0, 0), again.stderr
    assert metrics_of(tmp_path / "again") == metrics_of(tmp_path / "first")
    assert (tmp_path / "again" / "config.toml").read_text() == (
        tmp_path / "first" / "config.toml"
    ).read_text()


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    finetune(path, data=photos, model="timm/test_vit", unfreeze="head", epochs=1, seed=3)
    return path


@pytest.fixture
def stopped_run(tmp_path: Path, finished_run: Path) -> Path:
    """A run that was interrupted when all but the final judgement was done."""
    shutil.copytree(finished_run, tmp_path / "run")
    record = tmp_path / "run" / "run.json"
    record.write_text(record.read_text().replace('"status": "finished"', '"status": "interrupted"'))
    return tmp_path / "run"


def test_resume__takes_the_options_of_the_run(tlcli: Invoke, stopped_run: Path) -> None:
    result = tlcli("finetune", "--output", "run", "--resume", "--json")

    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["status"] == "finished"
    assert "using" not in result.stderr  # neither sample data nor the default model
    assert len(rows_of(stopped_run / "metrics.csv")) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--seed", "4"],
            "--seed 4 differs from the run's own 3: a resumed run keeps its",
        ),
        (["--epochs", "9"], "--epochs 9 differs from the run's own 1"),
        (["--no-channels-last"], "--channels-last False differs from the run's own True"),
        (["--data", "elsewhere"], "--data elsewhere differs from the run's own /"),
        (["--schedule", "0:head"], "--schedule 0:head differs from the run's own None"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
@pytest.mark.usefixtures("stopped_run")
def test_resume__changed_option_is_refused_by_name(
    tlcli: Invoke, words: list[str], message: str
) -> None:
    result = tlcli("finetune", "--output", "run", "--resume", *words)

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {message}")


@pytest.mark.usefixtures("stopped_run")
def test_resume__same_option_and_free_ones_are_fine(tlcli: Invoke, photos: Path) -> None:
    words = ("--seed", "3", "--data", photos, "--num-workers", "0", "--device", "cpu")

    result = tlcli("finetune", "--output", "run", "--resume", *words, "-q")

    assert result.exit_code == 0, result.stderr


def test_resume__without_output(tlcli: Invoke) -> None:
    result = tlcli("finetune", "--resume")

    assert result.exit_code == 2
    assert result.stderr == (
        "error: --resume needs --output RUN, the folder of the run to go on with.\n"
    )


def test_resume__where_nothing_is_yet_tells_its_defaults(tlcli: Invoke) -> None:
    result = tlcli(
        "finetune", "--output", "new", "--resume", "--unfreeze", "no_stage", "--weights", "none"
    )

    assert result.exit_code == 2
    assert "No --data given: using sample:digits." in result.stderr
    assert "No --model given: using resnet50." in result.stderr


DEFAULTS = ("--epochs", "2", "--batch-size", "4")


@pytest.mark.parametrize(
    "change",
    [
        ("--opt", "sgd"),
        ("--lr", "0.1"),
        ("--unfreeze", "head"),
        ("--schedule", "0:head,1:all"),
        ("--loss", "focal"),
    ],
    ids="_".join,
)
def test_config_file__of_a_run_with_one_option_changed(
    tlcli: Invoke, photos: Path, finished_defaults: Path, change: tuple[str, str]
) -> None:
    """It is what the whole command with that option is: what followed from others is not kept."""
    plan = ("--dry-run", "--json")
    config = finished_defaults / "config.toml"
    changed = tlcli("finetune", "-c", config, "-o", "a", *change, *plan)
    fresh = tlcli("finetune", "-d", photos, *BASE, *DEFAULTS, "-o", "b", *change, *plan)

    assert (changed.exit_code, fresh.exit_code) == (0, 0), changed.stderr
    assert json.loads(changed.stdout) == json.loads(fresh.stdout)


@pytest.fixture(scope="module")
def finished_defaults(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    path = tmp_path_factory.mktemp("runs") / "defaults"
    finetune(path, data=photos, model="timm/test_vit", epochs=2, batch_size=4)
    return path


def test_config_file__of_a_detector_with_one_option_changed(tlcli: Invoke, tmp_path: Path) -> None:
    data = make_box_folder(tmp_path / "scenes", counts={"train": 3, "val": 1})
    words = ("--backbone", "timm/test_resnet", "--weights", "none", "--device", "cpu")
    given = ("-d", data, *words, "--epochs", "1", "--limit", "2")
    first = tlcli("detect-finetune", *given, "--unfreeze", "head", "-o", "a", "-q")
    assert first.exit_code == 0, first.stderr

    for change in (("--model", "fcos"), ("--opt", "sgd"), ("--unfreeze", "all")):
        plan = (*change, "-o", "new", "--dry-run", "--json")
        changed = tlcli("detect-finetune", "-c", "a/config.toml", *plan)
        rest = () if change[0] == "--unfreeze" else ("--unfreeze", "head")
        fresh = tlcli("detect-finetune", *given, *rest, *plan)
        assert (changed.exit_code, fresh.exit_code) == (0, 0), changed.stderr
        assert json.loads(changed.stdout) == json.loads(fresh.stdout)


RESNET = ("--model", "timm/test_resnet", "--weights", "none", "--device", "cpu")


def interrupted(run: Path) -> None:
    record = run / "run.json"
    record.write_text(record.read_text().replace('"status": "finished"', '"status": "interrupted"'))


@pytest.mark.slow
def test_resume__same_command_where_rates_were_searched(
    tlcli: Invoke, tmp_path: Path, photos: Path
) -> None:
    words = ("-d", photos, *RESNET, "--epochs", "1", "--lr", "auto", "-o", "run", "-q")
    assert tlcli("finetune", *words).exit_code == 0
    interrupted(tmp_path / "run")
    kept = (tmp_path / "run" / "run.json").read_text()
    found = json.loads(kept)["config"]["lr"]

    again = tlcli("finetune", *words, "--resume", "--offline", "--lr", found)
    assert again.exit_code == 0, again.stderr
    interrupted(tmp_path / "run")
    again = tlcli("finetune", *words, "--resume", "--offline")
    assert again.exit_code == 0, again.stderr
    interrupted(tmp_path / "run")
    other = tlcli("finetune", *words, "--resume", "--lr", "0.7")
    assert other.stderr.startswith(f"error: --lr 0.7 differs from the run's own {found}:")


def test_resume__uses_what_was_decided_then(tlcli: Invoke, tmp_path: Path, photos: Path) -> None:
    """Also where a later version would decide otherwise."""
    words = ("-d", photos, *RESNET, "--epochs", "1", "-o", "run", "-q")
    assert tlcli("finetune", *words).exit_code == 0
    interrupted(tmp_path / "run")
    record = tmp_path / "run" / "run.json"
    record.write_text(record.read_text().replace('"weight_decay": 0.05', '"weight_decay": 0.04'))

    again = tlcli("finetune", *words, "--resume", "--dry-run", "--json")

    assert head_of(again)["weight_decay"] == 0.04


def test_resume__same_command_with_a_head_by_its_name_in_the_cache(
    tlcli: Invoke, tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLCLI_CACHE_DIR", str(tmp_path / "cache"))
    probe, _ = extract(photos, None, penalties="0.01", model="timm/test_resnet")
    name = Path(probe["store"]).name
    words = ("-d", photos, *RESNET, "--epochs", "1", "--init-head", name, "-o", "run", "-q")
    first = tlcli("finetune", *words)
    assert first.exit_code == 0, first.stderr
    interrupted(tmp_path / "run")

    again = tlcli("finetune", *words, "--resume")
    assert again.exit_code == 0, again.stderr
    interrupted(tmp_path / "run")
    other = tlcli("finetune", *words, "--resume", "--init-head", "other")
    assert other.stderr.startswith("error: --init-head other differs from the run's own /")


@pytest.mark.parametrize("strides", ["8, 16", "8,16", " 8,16 "])
def test_resume__same_command_with_strides_as_they_were_written(
    tlcli: Invoke, tmp_path: Path, strides: str
) -> None:
    data = make_box_folder(tmp_path / "scenes", counts={"train": 2, "val": 1})
    words = ("-d", data, "--backbone", "timm/test_resnet", "--weights", "none", "--device", "cpu")
    given = (*words, "--epochs", "1", "--image-size", "64", "-o", "run", "-q")
    first = tlcli("detect-finetune", *given, "--strides", "8, 16")
    assert first.exit_code == 0, first.stderr
    interrupted(tmp_path / "run")

    again = tlcli("detect-finetune", *given, "--strides", strides, "--resume")

    assert again.exit_code == 0, again.stderr
