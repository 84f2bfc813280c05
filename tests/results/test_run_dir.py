import json
import tomllib
from pathlib import Path

import pytest

from tlcli.errors import ConfigError, DataError, MachineError
from tlcli.results.records import EpochReport
from tlcli.results.run_dir import RunDirectory, check_free, default_run_path


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", overwrite=False)


def epoch_report(epoch: int, **metrics: float) -> EpochReport:
    return EpochReport(
        epoch=epoch,
        phase=1,
        lr={"head": 0.1 / epoch, "backbone": None},
        train_loss=2 / 3,
        metrics=metrics or {"loss": 1 / epoch, "top1": 0.5},
        seconds_train=1.0,
        seconds_eval=0.1,
        images_per_second=10.0,
    )


def test_create__makes_a_running_run_that_opens(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run"
    RunDirectory.create(path, overwrite=False)
    run = RunDirectory.open(path)
    assert run.read_record() == {"status": "running", "schema_version": 1}
    assert run.checkpoint_path == path / "checkpoints" / "last.pt"
    assert run.checkpoint_path.parent.is_dir()


def test_create__takes_an_empty_folder(tmp_path: Path) -> None:
    assert RunDirectory.create(tmp_path, overwrite=False).record_path.is_file()


def test_create__refuses_an_existing_run(run: RunDirectory) -> None:
    with pytest.raises(ConfigError, match=r"already holds a run: replace it with --overwrite"):
        RunDirectory.create(run.path, overwrite=False)
    run.checkpoint_path.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"already holds a run: .*--resume.*--overwrite"):
        RunDirectory.create(run.path, overwrite=False)


def test_create__overwrite_empties_a_run_folder(run: RunDirectory, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "photo.jpg").touch()
    (run.path / "link").symlink_to(outside)
    run.append_metrics(epoch_report(1))
    run.update(status="finished")
    again = RunDirectory.create(run.path, overwrite=True)
    assert sorted(p.name for p in run.path.iterdir()) == ["checkpoints", "run.json"]
    assert again.read_record()["status"] == "running"
    assert (outside / "photo.jpg").exists()


def test_create__of_two_commands_at_once_one_gets_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"

    def check_then_lose_the_race(path: Path, *, overwrite: bool) -> None:
        check_free(path, overwrite=overwrite)
        monkeypatch.undo()
        RunDirectory.create(path, overwrite=False).append_metrics(epoch_report(1))

    monkeypatch.setattr("tlcli.results.run_dir.check_free", check_then_lose_the_race)
    with pytest.raises(ConfigError, match="Another command has just started a run in"):
        RunDirectory.create(path, overwrite=False)
    assert len(RunDirectory.open(path).read_metrics()) == 1


def test_check_free__changes_nothing(run: RunDirectory, tmp_path: Path) -> None:
    check_free(tmp_path / "new", overwrite=False)
    check_free(run.path, overwrite=True)
    assert run.record_path.exists()
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match="already holds a run"):
        check_free(run.path, overwrite=False)


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("record", [None, '{"name": "not ours"}', "no json"])
def test_create__never_deletes_what_is_not_a_run(
    tmp_path: Path, overwrite: bool, record: str | None
) -> None:
    (tmp_path / "photo.jpg").write_text("precious")
    if record is not None:
        (tmp_path / "run.json").write_text(record)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=r"not a run folder: .*--overwrite and --resume"):
        RunDirectory.create(tmp_path, overwrite=overwrite)
    assert sorted(tmp_path.rglob("*")) == before


def test_create__refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(ConfigError, match="is a file, not a folder"):
        RunDirectory.create(tmp_path / "x", overwrite=True)
    with pytest.raises(MachineError, match="Cannot make the folder"):
        RunDirectory.create(tmp_path / "x" / "run", overwrite=True)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, r"is not a run folder \(it has no run\.json\)"),
        ("{", r"run\.json' is damaged"),
        ("[1]", r"run\.json' is damaged \(no JSON object\)"),
        ("{}", r"has schema_version None, this tlcli reads 1"),
        ('{"schema_version": 2}', r"has schema_version 2, this tlcli reads 1"),
    ],
)
def test_open__refuses_what_it_cannot_understand(
    tmp_path: Path, record: str | None, message: str
) -> None:
    if record is not None:
        (tmp_path / "run.json").write_text(record)
    with pytest.raises(DataError, match=message):
        RunDirectory.open(tmp_path)


def test_update__keeps_the_other_fields(run: RunDirectory) -> None:
    run.write_record({"status": "running", "seed": 3, "best": {"epoch": 1}})
    run.update(status="finished", best={"value": float("nan")})
    assert json.loads(run.record_path.read_text()) == {
        "status": "finished",
        "seed": 3,
        "best": {"value": None},
        "schema_version": 1,
    }


def test_write_record__refuses_an_unknown_status(run: RunDirectory) -> None:
    with pytest.raises(ValueError, match="status 'done' is not one of"):
        run.update(status="done")
    assert run.read_record()["status"] == "running"


def test_append_metrics__text_and_values(run: RunDirectory) -> None:
    assert run.read_metrics() == []
    reports = [epoch_report(1), epoch_report(2), epoch_report(3)]
    for report in reports:
        run.append_metrics(report)
    lines = run.metrics_path.read_text().splitlines()
    assert lines[0] == (
        "epoch,phase,lr/head,lr/backbone,train/loss,val/loss,val/top1,seconds/train,seconds/eval"
    )
    assert lines[3] == "3,1,0.03333333333333333,,0.6666666666666666,0.3333333333333333,0.5,1.0,0.1"
    assert run.read_metrics() == [report.to_row() for report in reports]


def test_append_metrics__refuses_other_columns(run: RunDirectory) -> None:
    run.append_metrics(epoch_report(1, loss=1.0))
    with pytest.raises(DataError, match=r"epoch 2 reports .*val/map"):
        run.append_metrics(epoch_report(2, map=1.0))
    assert len(run.read_metrics()) == 1


def test_append_metrics__refuses_an_epoch_twice(run: RunDirectory) -> None:
    run.append_metrics(epoch_report(2))
    with pytest.raises(ValueError, match="epoch 2 after epoch 2"):
        run.append_metrics(epoch_report(2))


def test_keep_metrics_until__then_the_same_epochs_give_the_same_file(run: RunDirectory) -> None:
    for epoch in range(1, 5):
        run.append_metrics(epoch_report(epoch))
    whole = run.metrics_path.read_bytes()
    run.keep_metrics_until(2)
    assert [row["epoch"] for row in run.read_metrics()] == [1, 2]
    for epoch in (3, 4):
        run.append_metrics(epoch_report(epoch))
    assert run.metrics_path.read_bytes() == whole


def test_keep_metrics_until__zero_and_before_the_first_epoch(run: RunDirectory) -> None:
    run.keep_metrics_until(0)
    assert not run.metrics_path.exists()
    run.append_metrics(epoch_report(1))
    run.keep_metrics_until(0)
    assert run.read_metrics() == []
    run.append_metrics(epoch_report(1))
    assert len(run.read_metrics()) == 1


@pytest.mark.parametrize("text", ["epoch,phase\n1,x\n", "epoch,phase\n1\n", "epoch\n1,2\n", ""])
def test_read_metrics__damaged_file_is_a_data_error(run: RunDirectory, text: str) -> None:
    run.metrics_path.write_text(text)
    with pytest.raises(DataError, match=r"metrics\.csv' is damaged"):
        run.read_metrics()


def test_write_config_toml__reads_back(run: RunDirectory) -> None:
    run.write_config_toml({"model": "resnet50", "lr": 0.1, "seed": None, "unfreeze": ["a", "b"]})
    with run.config_path.open("rb") as file:
        assert tomllib.load(file) == {"model": "resnet50", "lr": 0.1, "unfreeze": ["a", "b"]}


def test_paths__are_those_of_the_design(run: RunDirectory) -> None:
    paths = (run.weights_path, run.model_json_path, run.splits_path, run.evaluation_dir("test"))
    relative = [path.relative_to(run.path).as_posix() for path in paths]
    assert relative == ["model.safetensors", "model.json", "splits.csv", "evaluation/test"]


@pytest.mark.parametrize("name", ["", "..", "a/b", "..\\x"])
def test_evaluation_dir__refuses_other_folders(run: RunDirectory, name: str) -> None:
    with pytest.raises(ConfigError, match="is not a plain folder name"):
        run.evaluation_dir(name)


def test_default_run_path__first_free_number(tmp_path: Path) -> None:
    assert default_run_path(tmp_path, "digits") == tmp_path / "digits"
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits-2").symlink_to(tmp_path / "gone")
    assert default_run_path(tmp_path, "digits") == tmp_path / "digits-3"
    with pytest.raises(ConfigError, match="is not a plain folder name"):
        default_run_path(tmp_path, "timm/resnet18")


def test_default_run_path__is_one_word(tmp_path: Path) -> None:
    assert default_run_path(tmp_path, "finetune my  photos") == tmp_path / "finetune-my-photos"


def test_read_config_toml__damaged(run: RunDirectory) -> None:
    run.write_config_toml({"lr": 0.5})
    assert run.read_config_toml() == {"lr": 0.5}

    run.config_path.write_text("lr = ")
    with pytest.raises(DataError, match=r"config.toml' is missing or damaged \(.*\): restore it"):
        run.read_config_toml()
