"""CONTRIBUTING names symbols beside the files that define them."""

import ast
import re
from pathlib import Path

import pytest
from test_docs import PACKAGES, ROOT, code_spans, prose


def contributing_steps() -> list[str]:
    """The numbered steps of CONTRIBUTING, each as one line."""
    steps = re.findall(r"^\d+\. (.*(?:\n +.*)*)", prose("CONTRIBUTING.md"), re.MULTILINE)
    return [" ".join(each.split()) for each in steps]


def files_named(text: str) -> list[Path]:
    """The Python files that a text names, by their path or by the end of it; `<name>` is any."""
    named = [re.sub(r"<\w+>", "*", each) for each in code_spans(text) if each.endswith(".py")]
    folders = [ROOT / each for each in PACKAGES]
    inside = [path for each in named for folder in folders for path in folder.rglob(each)]
    return inside + [path for each in named for path in ROOT.glob(each)]


def definitions(path: Path) -> set[str]:
    """What a Python file defines itself, outside of functions and classes."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {each.id for each in targets if isinstance(each, ast.Name)}
    return names


STEPS = [each for each in contributing_steps() if files_named(each)]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: code_spans(step)[0])
def test_a_symbol_that_contributing_names_is_defined_in_a_file_named_beside_it(step: str) -> None:
    symbols = {span for span in code_spans(step) if span.isidentifier()}
    assert symbols <= {name for path in files_named(step) for name in definitions(path)}
