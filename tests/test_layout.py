"""The house: packages in one order, imports one way, one name one thing. Read from the source by ``ast`` alone."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1] / "src" / "camlucida"

ORDER = (
    "errors", "targets", "images", "boxes", "metrics", "drawing", "results", "explanation", "pytorch", "onnx",
    "methods", "runners", "models", "explainer", "export", "data", "evaluation", "judging", "training", "web", "serve",
    "cli",
)  # fmt: skip
"""A package imports only from packages above it. The order is that of a picture's way through the house."""

UPWARD = {
    ("results", "explanation"): "types alone: what is written is an Explanation, whose save() calls results",
    ("models", "training"): "the registry of sources names the opener of a run folder, which is loaded when asked for",
}
"""What runs up all the same, each with its reason."""

FACE = "camlucida"
"""The package's own __init__ loads public names when they are first used, so anything may ask it for the version."""


class Import(NamedTuple):
    """One module that another imports, wherever in the file the import stands."""

    importer: str
    imported: str
    typing_only: bool


def modules() -> dict[str, Path]:
    return {
        ".".join(("camlucida", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in sorted(ROOT.rglob("*.py"))
    }


MODULES = modules()


def package(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else FACE


def imports() -> Iterator[Import]:
    """Every import of one of our modules by another; strings such as "models.zoo:open_timm" count as lazy imports."""
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text())
        guarded = {
            id(inner)
            for branch in ast.walk(tree)
            if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
            for inner in ast.walk(branch)
        }
        for node in ast.walk(tree):
            candidates: list[str] = []
            if isinstance(node, ast.Import):
                candidates = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{name}: a relative import; write the whole name"
                origin = node.module or ""
                candidates = [f"{origin}.{alias.name}" for alias in node.names] + [origin]
                candidates = [one for one in candidates if one in MODULES][:1] if len(node.names) == 1 else candidates
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and name != FACE:
                place = node.value.partition(":")[0]
                candidates = [place, f"camlucida.{place}"] if ":" in node.value else []
            for one in candidates:
                if one in MODULES and one not in (name, FACE):
                    yield Import(name, one, id(node) in guarded)


IMPORTS = tuple(imports())


def test_the_top_level_holds_the_packages_of_the_order_and_the_modules_of_the_list() -> None:
    here = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert here - {"__init__", "__main__"} == set(ORDER)
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_imports_run_one_way() -> None:
    place = {name: number for number, name in enumerate(ORDER)}
    upward = {
        (package(one.importer), package(one.imported)): one
        for one in IMPORTS
        if FACE not in (package(one.importer), package(one.imported))
        and package(one.importer) != "__main__"
        and place[package(one.importer)] < place[package(one.imported)]
    }
    assert upward.keys() == UPWARD.keys(), [one for pair, one in upward.items() if pair not in UPWARD]
    assert upward["results", "explanation"].typing_only


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other (Tarjan's strongly connected components of more than one)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = []
            while not group or group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def test_no_circle_of_files_or_packages() -> None:
    files: dict[str, set[str]] = defaultdict(set)
    packages: dict[str, set[str]] = defaultdict(set)
    for one in IMPORTS:
        pair = package(one.importer), package(one.imported)
        if one.typing_only or pair in UPWARD:
            continue
        files[one.importer].add(one.imported)
        if pair[0] != pair[1]:
            packages[pair[0]].add(pair[1])
    for graph in (files, packages):
        for targets in list(graph.values()):
            for target in targets:
                graph[target]  # every node has a row
        assert circles(graph) == []


def test_a_circle_would_be_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]


def test_one_class_name_one_class() -> None:
    names = Counter(
        node.name
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_a_file_name_twice_only_where_its_folder_explains_it() -> None:
    """The command line has a file a command, and each heads and regularizers folder its own base."""
    names = Counter(path.name for path in MODULES.values() if path.name != "__init__.py" and path.parent.name != "cli")
    assert [name for name, count in names.items() if count > 1] == []


def test_a_file_can_be_read_in_one_sitting() -> None:
    long = {name: lines for name, path in MODULES.items() if (lines := len(path.read_text().splitlines())) > 400}
    assert long == {}


def test_the_tests_mirror_the_source() -> None:
    folders = {path.parent.relative_to(Path(__file__).parent) for path in Path(__file__).parent.rglob("test_*.py")}
    strange = [folder for folder in folders if not (ROOT / folder).is_dir()]
    assert strange == []
