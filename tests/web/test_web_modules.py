"""The page's modules by themselves, in Node.js."""

from __future__ import annotations

import subprocess
from pathlib import Path

HERE = Path(__file__).parent


def test_node_tests(node: str) -> None:
    files = sorted(HERE.glob("*.test.mjs"))
    done = subprocess.run([node, "--test", *files], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_parses_and_has_one_purpose_on_few_lines(node: str) -> None:
    import camlucida.web

    for file in Path(camlucida.web.__file__).parent.glob("*.js"):
        text = file.read_text()
        assert len(text.splitlines()) < 300, file.name
        assert "http://" not in text, f"{file.name} names another origin"
        assert "https://" not in text, f"{file.name} names another origin"
        subprocess.run([node, "--check", file], check=True, timeout=60)
