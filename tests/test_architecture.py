"""The borders that docs/architecture.md draws: no import goes up."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import auffusion_cli

PACKAGE = Path(auffusion_cli.__file__).parent
LAYERS = (
    {"__init__", "errors"},
    {"config", "files", "cores"},
    {"parsing", "tables", "device"},
    {"requests"},
    {"signal"},
    {"codec", "pictures"},
    {"diffusion"},
    {"engines"},
    {"model"},
    {"checkpoints"},
    {"evaluation"},
    {"tasks"},
    {"api", "training", "studio"},
    {"cli"},
    {"__main__"},
)
"""Rooms and flat modules, from the lowest: each may import from its own layer and those before."""
LAYER = {name: i for i, names in enumerate(LAYERS) for name in names}
WITHOUT_TORCH = ("config", "files", "parsing", "tables", "errors", "requests")


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imported(path: Path, *, at_import: bool = False) -> set[str]:
    """Modules that `path` imports, but for type checkers; `at_import`: outside of functions."""
    found = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if at_import and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                whole = child.module == "auffusion_cli"
                names = [f"{child.module}.{alias.name}" for alias in child.names]
                found.update(names if whole else [child.module])
            visit(child)

    visit(ast.parse(path.read_text("utf-8")))
    return {name.removesuffix(".__version__") for name in found}


HEAVY = {"torch", "torchaudio", "diffusers", "transformers"}
ONNX_PATH = (
    "api",
    "model",
    "checkpoints.load",
    "engines.onnx_networks",
    "tasks.generate",
    "tasks.inpaint",
    "tasks.extend",
    "tasks.style_transfer",
    "tasks.reproduce",
    "tasks.room_tone",
    "tasks.finish",
    "evaluation.listening_page",
)
"""Where the ONNX engine enters, and what needs no network: none of it may import torch."""


MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_goes_up(path):
    here = room(".".join(("auffusion_cli", *path.relative_to(PACKAGE).with_suffix("").parts)))
    ours = {name for name in imported(path) if name.split(".")[0] == "auffusion_cli"}
    assert [name for name in sorted(ours) if LAYER[room(name)] > LAYER[here]] == []


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_what_is_asked_needs_no_torch(name):
    paths = [path for path in MODULES if room(f"x.{path.relative_to(PACKAGE).parts[0]}") == name]
    paths = paths or [PACKAGE / f"{name}.py"]
    for path in paths:
        packages = {module.split(".")[0] for module in imported(path, at_import=True)}
        assert not packages & HEAVY, path


def files_of(module: str) -> list[Path]:
    """The file of one of our modules, or of the module that a name is imported from."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return [p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()]


@pytest.mark.parametrize("root", ONNX_PATH)
def test_the_onnx_path_imports_no_torch(root):
    """Up to what functions import: those are for the torch engine alone."""
    seen: dict[Path, str] = {}
    todo = [(f"auffusion_cli.{root}", root)]
    while todo:
        module, way = todo.pop()
        for path in files_of(module):
            if path in seen:
                continue
            seen[path] = way
            found = imported(path, at_import=True)
            assert not {name.split(".")[0] for name in found} & HEAVY, f"{way} > {path.name}"
            todo += [(n, f"{way} > {n}") for n in found if n.startswith("auffusion_cli.")]
    assert len(seen) > 3


def test_every_room_has_its_layer():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert rooms == set(LAYER)


def test_the_page_of_the_architecture_names_every_file_of_the_inference_core():
    page = (PACKAGE.parents[1] / "docs/architecture.md").read_text("utf-8")
    tree = page.split("```")[1]
    rooms = {"requests", "signal", "codec", "diffusion", "engines", "checkpoints"}
    files = [path for path in MODULES if path.parent.name in rooms | {PACKAGE.name}]
    unnamed = {path.name for path in files} - set(re.findall(r"\w+\.py", tree))
    assert unnamed == {"__main__.py"}
