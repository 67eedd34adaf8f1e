"""Translations: complete, compiled, and never in the way."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from suanchou.errors import SpecError
from suanchou.i18n import LANGUAGES, N_, _, language, set_language, use_language
from suanchou.report.glossary import definition, glossary

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def translations():
    spec = importlib.util.spec_from_file_location("translations", ROOT / "scripts" / "translations.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_chinese_is_complete_current_and_compiled(translations):
    """No message of the source is missing, untranslated, fuzzy or left over; fields survive; the .mo is the .po."""
    assert translations.problems() == []


def test_every_message_is_translated_at_run_time(translations):
    with use_language("zh"):
        for message in translations.read():
            if isinstance(message.id, str) and message.id:
                assert _(message.id) == message.string


def test_extraction_sees_marks_columns_tables_and_help(translations, tmp_path):
    path = tmp_path / "x.py"
    path.write_text('_("a"); N_("b"); Column(name="c"); Table(title="d", note=""); option("-x", help="e"); other("f"); _(g)')
    assert [text for text, _line in translations.messages(path)] == ["a", "b", "c", "d", "e"]


def test_a_marked_f_string_is_refused(translations, tmp_path):
    path = tmp_path / "x.py"
    path.write_text('_(f"{x} tokens")')
    with pytest.raises(SystemExit, match="f-string"):
        list(translations.messages(path))


def test_check_fails_on_what_is_missing(translations, monkeypatch):
    wanted = translations.collect()
    wanted.add("a message nobody has translated")
    monkeypatch.setattr(translations, "collect", lambda: wanted)
    assert "not in the catalogue: 'a message nobody has translated'" in translations.problems()


def test_language_is_scoped():
    assert language() == "en"
    with use_language("zh-CN"):
        assert (language(), _("value")) == ("zh", "数值")
        with use_language("en_US.UTF-8"):
            assert _("value") == "value"
        assert language() == "zh"
    assert language() == "en"
    assert _("no such message") == N_("no such message")
    assert _("") == ""


def test_unknown_language_is_refused():
    with pytest.raises(SpecError, match=", ".join(LANGUAGES)):
        set_language("fr")
    assert language() == "en"


def test_glossary_is_complete():
    terms = glossary()
    assert {"TP", "PP", "DP", "EP", "CP", "SP", "ZeRO", "MFU", "HFU", "goodput", "TTFT", "TPOT", "ITL", "KV cache"} <= set(
        terms
    )
    for term in terms.values():
        assert term.en
        assert term.definition.endswith(".")
        assert any("\u4e00" <= letter <= "\u9fff" for letter in term.zh + term.definition_zh)
        assert term.definition_zh.endswith("。")
    with pytest.raises(SpecError, match="no term"):
        definition("XP")


def test_every_definition_a_report_names_is_in_the_glossary():
    named = {
        constant.value
        for path in (ROOT / "src" / "suanchou").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.keyword) and node.arg == "definitions"
        for constant in ast.walk(node.value)
        if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
    }
    assert named <= set(glossary())


def test_english_needs_no_catalogue():
    code = "import sys; from suanchou.i18n import _; assert _('value') == 'value'; print('babel' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT / "src")}
    )
    assert done.stdout == "False\n"
