"""`python -m tlcli`, which torchrun needs, and the `tlcli` command."""

from tlcli.cli.app import app


def main() -> None:
    """Run the command line."""
    app(prog_name="tlcli")


if __name__ == "__main__":
    main()
