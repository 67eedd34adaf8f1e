"""The public names of the package."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import suanchou


@pytest.mark.parametrize("name", [name for name in suanchou.__all__ if name != "__version__"])
def test_every_public_name_is_found_and_documented(name):
    found = getattr(suanchou, name)
    assert found.__doc__
    assert not isinstance(found, type(suanchou)), "a module, not the name in it"
    assert name in dir(suanchou)


def test_names_for_type_checkers_are_the_same():
    tree = ast.parse(Path(suanchou.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    declared = {alias.name: node.module for node in block.body for alias in node.names}
    assert declared == suanchou._PUBLIC
    assert {*declared, "__version__"} == set(suanchou.__all__)


def test_importing_a_room_does_not_hide_a_public_name():
    for name, module in suanchou._PUBLIC.items():
        importlib.import_module(module)
        assert getattr(suanchou, name) is getattr(importlib.import_module(module), name)


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        suanchou.nothing  # noqa: B018
