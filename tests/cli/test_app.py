"""What holds for every command: help, errors, exit codes, pipes."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import Result

import tlcli as package
from tlcli.cli import app as module
from tlcli.cli.app import app
from tlcli.errors import (
    BadImageError,
    ConfigError,
    DataError,
    FrozenMovedError,
    InterruptedRunError,
    MachineError,
    ModelError,
    NonFiniteLossError,
    TlcliError,
    WeightsError,
)
from tlcli.recipes import model_catalogue

Invoke = Callable[..., Result]
Shell = Callable[..., subprocess.CompletedProcess[str]]

COMMANDS = [
    [],
    ["extract-features"],
    ["probe"],
    ["finetune"],
    ["detect-finetune"],
    ["evaluate"],
    ["models"],
    ["models", "list"],
    ["models", "show"],
    ["cache"],
    ["cache", "list"],
    ["cache", "clear"],
]
PANELS = ("Data", "Model", "What is trained", "Optimisation", "Machine", "Output")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words) or "tlcli")
def test_help__loads_no_torch(command: list[str]) -> None:
    code = (
        "import sys\n"
        "from tlcli.cli.app import app\n"
        "try:\n"
        f"    app({[*command, '--help']!r}, prog_name='tlcli')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end.code\n"
        "heavy = {'torch', 'torchvision', 'timm', 'pandas', 'sklearn', 'matplotlib', 'PIL'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: tlcli" in done.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words) or "tlcli")
def test_help__short_and_long_are_one(tlcli: Invoke, command: list[str]) -> None:
    short, long = tlcli(*command, "-h"), tlcli(*command, "--help")

    assert short.exit_code == long.exit_code == 0
    assert short.stdout == long.stdout
    assert "Usage: " in long.stdout


@pytest.mark.parametrize("command", ["finetune", "detect-finetune"])
def test_help__of_training_is_in_panels(tlcli: Invoke, command: str) -> None:
    text = tlcli(command, "--help").stdout

    found = re.findall(r"╭─ (.+?) ─", text)
    assert [name for name in found if name in PANELS] == list(PANELS)
    own = {"Augmentation", "Frozen part"} if command == "finetune" else set()
    assert set(found) - {"Options"} == {*PANELS} | own


def test_help__without_words_is_shown(tlcli: Invoke) -> None:
    assert "finetune" in tlcli().output
    assert "show" in tlcli("models").output


def test_help__knows_every_command() -> None:
    group: Any = typer.main.get_command(app)
    single = {name for name, entry in group.commands.items() if not hasattr(entry, "commands")}

    named = {words[0] for words in COMMANDS if words}
    assert named == set(group.commands)
    assert {words[0] for words in COMMANDS if len(words) == 2} == named - single


def test_version__is_the_packages(tlcli: Invoke) -> None:
    result = tlcli("--version")

    assert (result.exit_code, result.stdout) == (0, f"tlcli {package.__version__}\n")


def test_main__as_a_module_has_the_name_of_the_command(shell: Shell) -> None:
    done = shell("tlcli finetune --no-such-option")

    assert done.returncode == 2
    assert done.stdout == ""
    assert "Usage: tlcli finetune [OPTIONS]" in done.stderr
    assert "--no-such-option" in done.stderr


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (["--epochs", "0"], 2, "error: --epochs must be 1 or more, not 0."),
        (["--epochs", "ten"], 2, None),
        (["--opt", "adam"], 2, None),
        (["--overwrite", "--resume", "-o", "x"], 2, "error: --overwrite and --resume exclude"),
        (["--unfreeze", "head", "--schedule", "0:all"], 2, "error: --unfreeze 'head' and"),
        (["--data", "nowhere"], 3, "error: There is no data at"),
        (["--model", "timm/resnet18x"], 4, "error: "),
        (["--weights", "V9"], 4, "error: --weights 'V9' is no weight tag of timm/test_vit."),
        (["--device", "mps:0"], 5, "error: --device mps:0: there is no mps device here."),
        (["--amp", "--amp-dtype", "float16"], 5, "error: --amp-dtype float16 needs a GPU"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else None,
)
def test_mistake__is_one_line_and_an_exit_code(
    tlcli: Invoke, photos: Path, words: list[str], exit_code: int, message: str | None
) -> None:
    base = {"--data": photos, "--model": "timm/test_vit", "--weights": "none", "--device": "cpu"}
    if "mps:0" in words and _has_mps():
        pytest.skip("this machine has the device that the test asks for in vain")
    given = [part for key, value in base.items() if key not in words for part in (key, value)]

    result = tlcli("finetune", *given, *words)

    assert result.exit_code == exit_code
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    if message:
        *_, last = result.stderr.splitlines()
        assert last.startswith(message)
        assert result.stderr.count("error: ") == 1


def _has_mps() -> bool:
    import torch

    return torch.backends.mps.is_available()


EXIT_CODES = [
    (ConfigError("x"), 2),
    (DataError("x"), 3),
    (BadImageError("x"), 3),
    (ModelError("x"), 4),
    (WeightsError("x"), 4),
    (MachineError("x"), 5),
    (NonFiniteLossError("x"), 1),
    (FrozenMovedError("x"), 1),
    (InterruptedRunError("x", signal_number=2), 130),
    (InterruptedRunError("x", signal_number=15), 143),
]


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(model_catalogue, "list_models", fail)


@pytest.mark.parametrize(("error", "exit_code"), EXIT_CODES, ids=lambda value: type(value).__name__)
def test_errors__have_the_exit_codes_of_the_design(
    tlcli: Invoke, monkeypatch: pytest.MonkeyPatch, error: TlcliError, exit_code: int
) -> None:
    failing(monkeypatch, error)

    result = tlcli("models", "list")

    assert (result.exit_code, result.stdout, result.stderr) == (exit_code, "", "error: x\n")


@pytest.mark.parametrize(
    ("error", "exit_code", "words"),
    [
        (
            OSError(28, "No space left on device", "model.pt"),
            5,
            "The disk is full (model.pt): free",
        ),
        (MemoryError(), 5, "Out of memory: lower --batch-size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 5, "Out of memory: lower"),
        (KeyboardInterrupt(), 130, "Interrupted."),
        (ValueError("odd"), 1, "ValueError: odd (unexpected; TLCLI_DEBUG=1 shows where)"),
    ],
    ids=["disk", "memory", "allocator", "ctrl_c", "surprise"],
)
def test_errors__of_the_machine_and_surprises(
    tlcli: Invoke,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    exit_code: int,
    words: str,
) -> None:
    failing(monkeypatch, error)

    result = tlcli("models", "list")

    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert result.stderr.startswith(f"error: {words}")
    assert len(result.stderr.splitlines()) == 1


def test_debug__lets_the_error_through(tlcli: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    error = DataError("x")
    failing(monkeypatch, error)

    assert tlcli("models", "list", TLCLI_DEBUG="1").exception is error


def test_debug__shows_a_traceback(shell: Shell) -> None:
    plain = shell("tlcli finetune --epochs 0")
    debug = shell("tlcli finetune --epochs 0", TLCLI_DEBUG="1")

    assert (plain.returncode, plain.stdout) == (2, "")
    assert plain.stderr == "error: --epochs must be 1 or more, not 0.\n"
    assert debug.returncode == 1
    assert "Traceback (most recent call last)" in debug.stderr
    assert "ConfigError: --epochs must be 1 or more, not 0." in debug.stderr


@pytest.mark.parametrize(
    "line",
    [
        "tlcli models list | head -1",
        "tlcli models list --names --limit 1 | true",
        "tlcli --version | true",
    ],
)
def test_pipe__reader_that_went_away_is_no_error(shell: Shell, line: str) -> None:
    done = shell(f"set -o pipefail; {line}")

    assert (done.returncode, done.stderr) == (0, "")


def test_output__that_cannot_be_written_is_an_error(shell: Shell) -> None:
    done = shell("ulimit -f 0; tlcli --version > version.txt")

    assert done.returncode == 5
    assert done.stderr == "error: Cannot write the output: File too large.\n"


def test_completion__of_bash(shell: Shell) -> None:
    script = shell("tlcli --show-completion bash")
    words = shell("tlcli", _TLCLI_COMPLETE="complete_bash", COMP_WORDS="tlcli fine", COMP_CWORD="1")

    assert script.returncode == 0
    assert "complete -o default -F _tlcli_completion tlcli" in script.stdout
    assert words.stdout.split() == ["finetune"]


def test_error_group__tells_only_what_is_known() -> None:
    assert module._as_known(ValueError("odd")) is None
    assert module._as_known(OSError(2, "No such file")) is None


def test_json__of_an_error_is_nothing(tlcli: Invoke) -> None:
    result = tlcli("models", "show", "timm/no_such_net", "--json")

    assert (result.exit_code, result.stdout) == (4, "")
    with pytest.raises(json.JSONDecodeError):
        json.loads(result.stdout)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["finetune", "--opt", "adam"], "'adam' is not one of 'adamw', 'sgd'."),
        (["models", "list", "--sort", "size"], "'size' is not one of 'name', 'params', 'gmacs', "),
        (["cache", "export", "x", "--format", "csv"], "'csv' is not one of 'npy', 'parquet'."),
    ],
)
def test_usage_errors__say_nothing_of_pythons_exceptions(
    tlcli: Invoke, words: list[str], reason: str
) -> None:
    result = tlcli(*words)
    text = " ".join(result.stderr.replace("│", " ").split())
    assert result.exit_code == 2
    assert reason.strip() in text
    assert f"Invalid value for '{words[-2]}': {reason.strip()}" in text
    assert "error" not in text.lower().replace("─ error ─", "")
