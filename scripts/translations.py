"""Collect the marked messages of the source, bring the Chinese catalogue up to date, compile it.

A message is the text in ``_("...")`` or ``N_("...")``, the name of a ``Column``, the title and note of a ``Table``, and the
help of a command or an option. ``--check`` changes nothing and fails when the catalogue is behind the source.
"""

from __future__ import annotations

import argparse
import ast
import io
import string
import sys
from collections.abc import Iterator
from pathlib import Path

from babel.messages import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "suanchou"
PO = SOURCE / "locale" / "zh_CN" / "LC_MESSAGES" / "suanchou.po"
MO = PO.with_suffix(".mo")
CLICK = Path(__file__).with_name("click_messages.txt")
_KEYWORDS = {"Column": {"name"}, "Table": {"title", "note"}}
_HELP = {"help", "short_help"}


def _texts(node: ast.expr) -> Iterator[ast.Constant]:
    """The literal texts of an expression: a constant, or either branch of a choice."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)


def messages(path: Path) -> Iterator[tuple[str, int]]:
    """Every marked message of a file with its line.

    Raises
    ------
    SystemExit : an f-string is marked; its text would be known only at run time.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        function = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        marked = node.args[:1] if function in {"_", "N_"} else []
        marked += [word.value for word in node.keywords if word.arg in _KEYWORDS.get(function, _HELP)]
        for text in marked:
            if isinstance(text, ast.JoinedStr) and function in {"_", "N_"}:
                sys.exit(f"{path}:{text.lineno}: an f-string cannot be translated; use _('...').format(...)")
            for constant in _texts(text):
                if constant.value:
                    yield constant.value, constant.lineno


def collect() -> Catalog:
    """All messages of the package, and those of click that a user sees."""
    catalog = Catalog(project="suanchou", charset="utf-8", fuzzy=False)
    for path in sorted(SOURCE.rglob("*.py")):
        for text, _line in messages(path):
            catalog.add(text, locations=[(path.relative_to(ROOT).as_posix(), None)])
    for text in CLICK.read_text(encoding="utf-8").splitlines():
        singular, _bar, plural = text.partition(" ||| ")
        catalog.add((singular, plural) if plural else singular, locations=[("click", None)])
    return catalog


def read(path: Path = PO) -> Catalog:
    """The catalogue in the repository."""
    with path.open("rb") as file:
        return read_po(file, locale="zh_CN", domain="suanchou")


def compiled(catalog: Catalog) -> bytes:
    """The binary form of a catalogue."""
    buffer = io.BytesIO()
    write_mo(buffer, catalog)
    return buffer.getvalue()


def fields(text: str) -> list[str]:
    """Names of the replacement fields of a message, sorted; a translation must keep them."""
    try:
        return sorted(name for _text, name, _spec, _conversion in string.Formatter().parse(text) if name is not None)
    except ValueError:
        return []


def problems() -> list[str]:
    """What is wrong with the catalogue in the repository."""
    current, wanted = read(), collect()
    found = [f"not in the catalogue: {m.id!r}" for m in wanted if m.id and m.id not in current]
    found += [f"no longer in the source: {m.id!r}" for m in current if m.id and m.id not in wanted]
    found += [
        f"not translated: {m.id!r}" for m in current if m.id and not all((m.string,) if isinstance(m.id, str) else m.string)
    ]
    found += [f"fuzzy: {m.id!r}" for m in current if m.id and m.fuzzy]
    found += [f"{m.id!r}: {error}" for m in current for error in m.check()]
    found += [
        f"other fields: {m.id!r}" for m in current if m.string and isinstance(m.id, str) and fields(m.id) != fields(m.string)
    ]
    if MO.read_bytes() != compiled(current):
        found.append(f"{MO.relative_to(ROOT)} is not the compiled form of {PO.relative_to(ROOT)}")
    return found


def update() -> None:
    """Merge the messages of the source into the catalogue, without guessing translations, and compile it."""
    catalog = read() if PO.exists() else Catalog(locale="zh_CN", domain="suanchou", project="suanchou", fuzzy=False)
    catalog.update(collect(), no_fuzzy_matching=True, update_creation_date=False)
    catalog.obsolete.clear()
    catalog.header_comment = "# Chinese messages of suanchou. Apache-2.0, as the rest of it."
    catalog.version, catalog.msgid_bugs_address = "1", "see CONTRIBUTING.md"
    catalog.last_translator, catalog.language_team = "suanchou contributors", "zh_CN"
    with PO.open("wb") as file:
        write_po(file, catalog, width=120, omit_header=False, sort_output=True, include_previous=False)
    MO.write_bytes(compiled(catalog))


def main() -> int:
    """Update the catalogue, or check it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        update()
    found = problems()
    print("\n".join(found) or f"{len(list(read()))} messages, all translated")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
