"""Options and config fields are the same words with the same defaults."""

from typing import Any

import pytest
import typer.main

from tlcli.cli.app import app
from tlcli.cli.option_files import TALK_OPTIONS
from tlcli.config import DetectFinetuneConfig, EvaluateConfig, FinetuneConfig, options_of

SAID_ON_STDERR = {"data", "model"}
"""Their defaults are filled in by the config, so that the command can tell whether they were."""
CONFIGS: dict[str, Any] = {
    "finetune": options_of(FinetuneConfig()),
    "detect-finetune": options_of(DetectFinetuneConfig()),
    "evaluate": options_of(EvaluateConfig(run="somewhere")) | {"run": None},
}


def parameters_of(command: str) -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    found = {p.name: p for p in group.commands[command].params}
    found.pop("help", None)
    return found


@pytest.mark.parametrize("command", CONFIGS)
def test_options__are_the_fields_of_the_config(command: str) -> None:
    names = set(parameters_of(command)) - set(TALK_OPTIONS)

    assert names == set(CONFIGS[command])


@pytest.mark.parametrize("command", CONFIGS)
def test_options__have_the_defaults_of_the_config(command: str) -> None:
    defaults = {
        name: parameter.default
        for name, parameter in parameters_of(command).items()
        if name not in TALK_OPTIONS
    }
    expected = {
        name: None if command != "evaluate" and name in SAID_ON_STDERR else value
        for name, value in CONFIGS[command].items()
    }

    assert defaults == expected


@pytest.mark.parametrize("command", CONFIGS)
def test_options__are_spelled_as_their_fields(command: str) -> None:
    for name, parameter in parameters_of(command).items():
        if name != "run":
            assert f"--{name.replace('_', '-')}" in parameter.opts
            assert parameter.help
            assert parameter.help.endswith((".", ").")), name


@pytest.mark.parametrize("command", CONFIGS)
def test_options__short_forms_are_of_habit_and_unique(command: str) -> None:
    options = [o for p in parameters_of(command).values() for o in p.opts if o != "run"]
    short = [option for option in options if not option.startswith("--")]

    assert len(short) == len(set(short))
    assert set(short) <= {"-d", "-m", "-b", "-j", "-o", "-c", "-q"}
