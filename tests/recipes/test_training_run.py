import pytest

from tlcli.config import Monitor
from tlcli.recipes.training_run import History
from tlcli.results.records import EpochReport


def report(epoch: int, *, top1: float, loss: float) -> EpochReport:
    return EpochReport(
        epoch=epoch,
        phase=0,
        lr={"head": 1e-3, "backbone": None},
        train_loss=1.0,
        metrics={"top1": top1, "loss": loss},
        seconds_train=1.0,
        seconds_eval=1.0,
        images_per_second=1.0,
    )


@pytest.mark.parametrize(
    ("monitor", "values", "best_epochs"),
    [
        ("top1", [(0.5, 1.0), (0.4, 0.1), (0.6, 2.0)], [1, 3]),
        ("top1", [(0.5, 1.0), (0.5, 0.9), (0.5, 0.9), (0.5, 1.1)], [1, 2]),  # ties: lower loss
        ("loss", [(0.5, 1.0), (0.9, 1.1), (0.1, 0.9), (0.2, 0.9)], [1, 3]),
    ],
)
def test_improves__picks_by_monitor_then_loss(
    monitor: Monitor, values: list[tuple[float, float]], best_epochs: list[int]
) -> None:
    history = History()
    reports = [report(n, top1=t, loss=v) for n, (t, v) in enumerate(values, start=1)]

    chosen = [r.epoch for r in reports if history.improves(r, monitor=monitor)]

    best = reports[best_epochs[-1] - 1]
    assert chosen == best_epochs
    assert history.best_json(monitor) == {
        "epoch": best.epoch,
        "metric": f"val/{monitor}",
        "value": best.metrics[monitor],
    }
