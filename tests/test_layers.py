"""The rules of docs/architecture.md that a machine can check."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tlcli

PACKAGE = Path(tlcli.__file__).parent
LAYERS = (
    "errors",
    "config",
    "results",
    "data",
    "backbones",
    "models",
    "engine",
    "recipes",
    "cli",
)
"""From the ground up; a module imports from its own layer and those before it only."""
ALL_FILES = sorted(PACKAGE.rglob("*.py"))
LAYERED = [path for path in ALL_FILES if path.stem not in ("__main__",) and path.parent != PACKAGE]
LAYERED += [PACKAGE / "errors.py"]
MAX_BODY_LINES = 60
MAX_MODULE_LINES = 400
SHELL_LIBRARIES = {"typer", "rich", "click"}
NEVER_IN_RESULTS = ("torch", "torchvision", "timm")


def relative_name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def layer_of(path: Path) -> int:
    return LAYERS.index(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_modules(path: Path) -> set[str]:
    """Full names of all imported modules, those imported inside functions too."""
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module is not None
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def our_layers(path: Path) -> set[int]:
    parts = [module.split(".") for module in imported_modules(path)]
    return {LAYERS.index(p[1]) for p in parts if p[0] == "tlcli" and len(p) > 1 and p[1] in LAYERS}


def functions_of(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, kinds)]


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement behind the docstring to the last."""
    body = function.body
    has_docstring = ast.get_docstring(function) is not None
    if has_docstring and len(body) == 1:
        return 0
    end = function.end_lineno
    assert end is not None
    return end - body[1 if has_docstring else 0].lineno + 1


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_layers__every_file_lies_in_one() -> None:
    at_the_top = {path.stem for path in PACKAGE.glob("*.py")}
    assert at_the_top == {"__init__", "__main__", "errors"}
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == set(LAYERS) - {"errors"}
    assert len(LAYERED) == len(ALL_FILES) - 2


@pytest.mark.parametrize("path", LAYERED, ids=relative_name)
def test_imports_point_downwards(path: Path) -> None:
    own = layer_of(path)
    above = {LAYERS[layer] for layer in our_layers(path) if layer > own}
    assert not above, f"{relative_name(path)} imports from {above}, which lie above it"


def test_imported_modules__sees_those_inside_functions(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text(
        "import tlcli.cli\n"
        "def f():\n    from tlcli import engine\n    from tlcli.models.head import HeadSpec\n"
    )
    assert {LAYERS[layer] for layer in our_layers(path)} == {"cli", "engine", "models"}


@pytest.mark.parametrize(
    "path", [p for p in LAYERED if layer_of(p) <= LAYERS.index("results")], ids=relative_name
)
def test_results_config_and_errors__never_import_torch(path: Path) -> None:
    heavy = {m for m in imported_modules(path) if m.split(".")[0] in NEVER_IN_RESULTS}
    assert not heavy


@pytest.mark.parametrize(
    "modules",
    [
        ["tlcli"],
        ["tlcli.__main__"],
        ["tlcli.cli.app"],
        [
            "tlcli.config",
            "tlcli.errors",
            *(f"tlcli.results.{p.stem}" for p in sorted((PACKAGE / "results").glob("[!_]*.py"))),
        ],
    ],
    ids=["tlcli", "__main__", "cli.app", "results and config"],
)
def test_import__loads_no_torch(modules: list[str]) -> None:
    imports = "; ".join(f"import {module}" for module in modules)
    heavy = "('torch', 'torchvision', 'timm')"
    code = f"import sys; {imports}; print([m for m in {heavy} if m in sys.modules])"
    assert run_python(code) == "[]"


def test_import__results_load_no_data_layer() -> None:
    modules = "; ".join(
        f"import tlcli.results.{p.stem}" for p in sorted((PACKAGE / "results").glob("[!_]*.py"))
    )
    code = f"import sys; {modules}; print([m for m in sys.modules if m.startswith('tlcli.data')])"
    assert run_python(code) == "[]"


@pytest.mark.parametrize("path", ALL_FILES, ids=relative_name)
def test_print__only_in_cli(path: Path) -> None:
    in_cli = path.is_relative_to(PACKAGE / "cli")
    calls = [ast.unparse(n.func) for n in ast.walk(tree_of(path)) if isinstance(n, ast.Call)]
    talk = {name for name in calls if name in ("print", "sys.exit", "exit", "quit", "os._exit")}
    libraries = {m.split(".")[0] for m in imported_modules(path)} & SHELL_LIBRARIES
    allowed = in_cli or relative_name(path) == "__main__.py"
    assert allowed or not talk | libraries
    assert "click" not in libraries


@pytest.mark.parametrize("path", ALL_FILES, ids=relative_name)
def test_size__of_modules_and_functions(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_MODULE_LINES
    long = {f.name: body_lines(f) for f in functions_of(path) if body_lines(f) > MAX_BODY_LINES}
    assert long == {}


def test_body_lines__without_docstring_and_signature() -> None:
    tree = ast.parse(
        'def f(\n    a,\n):\n    """One.\n\n    Two.\n    """\n    b = a\n\n    return b\n'
    )
    function = tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    assert body_lines(function) == 3


@pytest.mark.parametrize("path", ALL_FILES, ids=relative_name)
def test_names__say_what_a_module_is_for(path: Path) -> None:
    assert path.stem not in {"helpers", "utils", "util", "common", "misc", "base"}


@pytest.mark.parametrize("path", ALL_FILES, ids=relative_name)
def test_torch_load__never_runs_code(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert arguments.get("weights_only") == "True"
