import pytest

from tlcli.config import Monitor
from tlcli.recipes.training_run import History


def test_improves__without_a_loss_ties_go_to_the_later_epoch() -> None:
    history = History()

    chosen = [
        history.improves(n, {"map": v}, monitor="map") for n, v in enumerate((0, 0, 0.2, 0.1))
    ]

    assert chosen == [True, True, True, False]
    assert (history.best_epoch, history.last_gain) == (2, 2)
    assert history.improves(4, {"map": 0.2}, monitor="map")
    assert (history.best_epoch, history.last_gain) == (4, 2)


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
    metrics = {n: {"top1": t, "loss": v} for n, (t, v) in enumerate(values, start=1)}

    chosen = [n for n, seen in metrics.items() if history.improves(n, seen, monitor=monitor)]

    assert chosen == best_epochs
    assert history.best_json(monitor) == {
        "epoch": best_epochs[-1],
        "metric": f"val/{monitor}",
        "value": metrics[best_epochs[-1]][monitor],
    }
