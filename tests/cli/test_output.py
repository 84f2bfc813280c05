import logging

import pytest

from tlcli.cli import output


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("top1", 0.9134, "91.3 %"),
        ("macro_f1", 1.0, "100.0 %"),
        ("loss", 1.23456, "1.235"),
        ("ece", 0.05, "0.050"),
        ("f1", None, "-"),
    ],
)
def test_metric__percent_but_for_losses(name: str, value: float | None, text: str) -> None:
    assert output.metric(name, value) == text


def test_interval__low_and_high_where_there_are_any() -> None:
    intervals = {"top1": [0.5, 0.75]}

    assert output.interval("top1", intervals) == "50.0 % .. 75.0 %"
    assert output.interval("loss", intervals) == "-"


@pytest.mark.parametrize(
    ("num_classes", "is_shown"), [(2, False), (5, False), (6, True), (None, True)]
)
def test_results__five_of_five_classes_are_no_result(
    capsys: pytest.CaptureFixture[str], num_classes: int | None, is_shown: bool
) -> None:
    result = {"num_images": 1, "metrics": {"top1": 0.5, "top5": 1.0, "loss": 2.0}, "intervals": {}}
    if num_classes is not None:  # runs of older versions do not say
        result["num_classes"] = num_classes
    output.results({"test": result}, chosen_by="nothing")

    title, _, *lines = capsys.readouterr().out.split("\n")
    assert title.strip() == "test: 1 image"
    names = [line.split()[0] for line in lines if line.strip()]
    assert names == ["top1", *(["top5"] if is_shown else []), "loss"]


def test_document__is_json_without_nan(capsys: pytest.CaptureFixture[str]) -> None:
    output.document({"größe": [1, None]})

    assert capsys.readouterr().out == '{\n  "größe": [\n    1,\n    null\n  ]\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        output.document({"loss": float("nan")})


def test_comma_separated__quotes_what_needs_it(capsys: pytest.CaptureFixture[str]) -> None:
    output.comma_separated(["a", "b"], [["1,2", 'say "x"']])

    assert capsys.readouterr().out == 'a,b\n"1,2","say ""x"""\n'


def test_table__keeps_brackets_and_long_cells(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # a width that the user asks for holds
    output.table(
        "things", columns=["name", "size "], rows=[["[red]x[/red]", "1"], ["y" * 90, "22"]]
    )

    title, header, first, second, *_ = capsys.readouterr().out.splitlines()
    assert title.strip() == "things"
    assert header.split() == ["name", "size"]
    assert first.startswith("[red]x[/red] ")
    assert second.startswith("y" * 90 + " ")
    assert {len(line.rstrip()) for line in (header, first, second)} == {96}  # numbers end together


def test_let_libraries_speak__shows_what_they_log(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        output.let_libraries_speak()
        logging.getLogger("timm.models").info("loaded")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)

    assert capsys.readouterr().err == "timm.models: loaded\n"


def test_error__goes_to_stderr_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.error("word " * 60)

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: word word")


@pytest.mark.parametrize("say", [output.note, output.warn, output.error])
def test_talk__is_plain_text_where_no_terminal_is(
    capsys: pytest.CaptureFixture[str], say: object
) -> None:
    assert callable(say)
    say("[bold]no markup[/bold] :smile: 50%")

    assert "\x1b" not in capsys.readouterr().err


def test_no_color__is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert output.console(stderr=True).no_color is False

    monkeypatch.setenv("NO_COLOR", "1")
    assert output.console(stderr=True).no_color is True
