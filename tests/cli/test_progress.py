import pytest
import torch
from toy import image_batch

from tlcli.cli.progress import TerminalTalk
from tlcli.results.records import EpochReport

REPORT = EpochReport(
    epoch=3,
    phase=1,
    lr={"head": 1e-3, "backbone": None},
    train_loss=1.23456,
    metrics={"loss": 0.5, "top1": 0.875, "top5": 1.0, "macro_f1": 0.9},
    seconds_train=2.0,
    seconds_eval=0.5,
    images_per_second=123.45,
)


def test_epoch__is_a_line_under_a_header(capsys: pytest.CaptureFixture[str]) -> None:
    talk = TerminalTalk(quiet=False)
    talk.epoch(REPORT, epochs=10, is_best=True)
    talk.epoch(REPORT, epochs=10, is_best=False)

    captured = capsys.readouterr()
    header, first, second = captured.err.splitlines()
    assert captured.out == ""
    assert first.split() == [
        "3/10", "1", "1.00e-03", "frozen", "1.235", "0.5", "87.5", "%", "123.5", "2.5", "best",
    ]  # fmt: skip
    assert second == first.removesuffix("  best")
    assert header.split()[:2] == ["epoch", "phase"]
    for name, value in (("phase", " 1"), ("val top-1", "87.5 %"), ("seconds", " 2.5")):
        assert header.index(name) + len(name) == first.index(value) + len(value)


def test_quiet__leaves_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    talk = TerminalTalk(quiet=True)
    talk.note("a note")
    talk.epoch(REPORT, epochs=10, is_best=True)
    talk.warn("mind this")

    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "warning: mind this\n")


@pytest.mark.parametrize("quiet", [True, False])
def test_track__passes_batches_on_without_a_bar_where_no_terminal_is(
    capsys: pytest.CaptureFixture[str], quiet: bool
) -> None:
    batches = [image_batch([0, 1]), image_batch([2])]

    passed = list(TerminalTalk(quiet=quiet).track(iter(batches), label="val", num_images=3))

    assert [id(batch) for batch in passed] == [id(batch) for batch in batches]
    assert capsys.readouterr() == ("", "")


def test_track__shows_images_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    batches = [image_batch([0, 1]), image_batch([2])]

    talk = TerminalTalk(quiet=False)
    shown = []
    for batch in talk.track(batches, label="epoch 1", num_images=3):
        shown.append(batch)

    assert len(shown) == 2
    assert "epoch 1" in capsys.readouterr().err
    assert torch.equal(shown[0].indices, batches[0].indices)
