"""The page's modules by themselves, in Node.js."""

from __future__ import annotations

import re
import subprocess
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import camlucida.web

HERE = Path(__file__).parent
MODULES = {file.name: file.read_text() for file in Path(camlucida.web.__file__).parent.glob("*.js")}


def test_node_tests(node: str) -> None:
    files = sorted(HERE.glob("*.test.mjs"))
    done = subprocess.run([node, "--test", *files], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_parses_and_has_one_purpose_on_few_lines(node: str) -> None:
    for name, text in MODULES.items():
        assert len(text.splitlines()) < 300, name
        assert "http://" not in text, f"{name} names another origin"
        assert "https://" not in text, f"{name} names another origin"
        file = Path(camlucida.web.__file__).with_name(name)
        subprocess.run([node, "--check", file], check=True, timeout=60)


def test_imports_run_one_way() -> None:
    """Modules, dynamic imports, workers, and the types that JSDoc imports."""
    mentioned = re.compile(r"""(?:from|import|import\(|new URL\()\s*"\./([\w-]+\.js)\"""")
    imports = {name: set(mentioned.findall(text)) for name, text in MODULES.items()}
    assert imports["engine.js"] >= {"refusal.js", "engine-browser.js", "engine-server.js", "worker.js"}
    assert "worker.js" in imports["engine-browser.js"]
    TopologicalSorter(imports).prepare()  # raises CycleError


def test_a_circle_of_imports_would_be_found() -> None:
    with pytest.raises(CycleError, match="cycle"):
        TopologicalSorter({"a.js": {"b.js"}, "b.js": {"c.js"}, "c.js": {"b.js"}}).prepare()
