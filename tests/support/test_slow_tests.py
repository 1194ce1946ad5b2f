"""The list of slow tests names tests that exist, once each."""

import ast
from functools import cache

import pytest
from structure import ROOT
from support.slow_tests import FILE, function_of, slow_names


@cache
def defined_in(path: str) -> frozenset[str]:
    """The names of all functions, classes and instances that a test file defines."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    named = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    defined = {node.name for node in ast.walk(tree) if isinstance(node, named)}
    targets = [each for node in tree.body if isinstance(node, ast.Assign) for each in node.targets]
    return frozenset(defined | {each.id for each in targets if isinstance(each, ast.Name)})


def test_the_names_are_in_order_and_there_once() -> None:
    lines = FILE.read_text(encoding="utf-8").splitlines()
    assert lines == sorted(set(lines))


@pytest.mark.parametrize("path", sorted({function_of(name)[0] for name in slow_names()}))
def test_every_name_is_that_of_a_test(path: str) -> None:
    assert (ROOT / path).is_file(), path
    listed = {name for file, name in map(function_of, slow_names()) if file == path}
    assert listed <= defined_in(path), listed - defined_in(path)
