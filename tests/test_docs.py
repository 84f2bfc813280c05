"""README, reference and changelog are texts that must stay true."""

import re
from pathlib import Path
from types import ModuleType

import pytest
from scripts import load_script

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def make_cli() -> ModuleType:
    return load_script(ROOT / "docs" / "make_cli.py")


def test_cli_reference__is_fresh(make_cli: ModuleType) -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == make_cli.reference(), "run: python docs/make_cli.py"


def test_readme__names_every_command(make_cli: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in make_cli.COMMANDS:
        assert " ".join(["tlcli", *command]) in readme


def test_readme__uses_only_options_that_exist(make_cli: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    known = set(re.findall(r"--[a-z][a-z-]+", make_cli.reference())) | {"--nproc-per-node"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", readme)) <= known


def test_architecture__names_every_module() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = {path.name for path in (ROOT / "tlcli").rglob("*.py")}
    missing = sorted(modules - {"__init__.py", "__main__.py"} - set(re.findall(r"\w+\.py", page)))
    assert missing == []


def test_architecture__names_no_module_that_is_gone() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = {path.name for folder in ("tlcli", "tests") for path in (ROOT / folder).rglob("*.py")}
    assert sorted(set(re.findall(r"\w+\.py", page)) - modules) == []
