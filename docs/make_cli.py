"""Write docs/cli.md from the commands' own --help."""

from pathlib import Path

from typer.testing import CliRunner

from tlcli.cli.app import app

COMMANDS = (
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
    ["cache", "show"],
    ["cache", "clear"],
    ["cache", "export"],
)
WIDTH = "100"


def help_text(command: list[str]) -> str:
    """Return what `tlcli COMMAND --help` prints, without colours or trailing spaces."""
    environment = {"COLUMNS": WIDTH, "NO_COLOR": "1", "TERM": "dumb"}
    result = CliRunner().invoke(app, [*command, "--help"], env=environment, prog_name="tlcli")
    return "\n".join(line.rstrip() for line in result.stdout.strip().splitlines())


def reference() -> str:
    """Return the whole page."""
    parts = ["# Command line reference", "", "Made by `python docs/make_cli.py`."]
    for command in COMMANDS:
        title = " ".join(["tlcli", *command])
        parts += ["", f"## {title}", "", "```", help_text(command), "```"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(reference(), encoding="utf-8")
