"""``suanchou catalog``: what is known of accelerators, nodes, clusters, models, stacks and regions."""

from __future__ import annotations

from pathlib import Path

import click

from suanchou.cli._options import OutputOptions, argument, catalog_option, command, group, option, output_options
from suanchou.cli._output import emit
from suanchou.i18n import LANGUAGES, N_

__all__ = ["catalog"]


@group("catalog", help=N_("What is known of accelerators, nodes, clusters, models, stacks and regions."))
@option("--lang", type=click.Choice(tuple(LANGUAGES)), expose_value=False, help=N_("Language of help, tables and messages."))
def catalog() -> None:
    """Carry the sub-commands."""


@command(
    "list",
    help=N_("List the entries of a KIND: accelerators, nodes, clusters, models, stacks, regions, notable, epoch, families."),
)
@argument("kind", metavar="KIND")
@option("--vendor", help=N_("Part of the vendor's, operator's or organisation's name."))
@option("--country", help=N_("Country code, for example CN."))
@option("--kind", "only", help=N_("Kind of device (gpu, npu, tpu, cpu, soc, manycore), topology, family or domain."))
@option("--top", type=click.IntRange(1), help=N_("At most this many entries."))
@catalog_option
@output_options
def list_entries(
    kind: str,
    vendor: str | None,
    country: str | None,
    only: str | None,
    top: int | None,
    catalog_dir: Path | None,
    output: OutputOptions,
) -> None:
    """Print one kind as a table."""
    from suanchou.catalog import use_catalog
    from suanchou.report.catalog import catalog_list

    with use_catalog(catalog_dir):
        emit(catalog_list(kind, vendor=vendor, country=country, only=only, top=top), output)


@command("show", help=N_("Show every value of an entry with its unit, source and evidence grade. NAME is an id or an alias."))
@argument("name")
@option("--kind", help=N_("Look in this kind only."))
@catalog_option
@output_options
def show(name: str, kind: str | None, catalog_dir: Path | None, output: OutputOptions) -> None:
    """Print one entry."""
    from suanchou.catalog import use_catalog
    from suanchou.report.catalog import catalog_show

    with use_catalog(catalog_dir):
        emit(catalog_show(name, kind=kind), output)


@command("search", help=N_("Find the entries in which every word of TEXT occurs."))
@argument("text", nargs=-1, required=True)
@option("--kind", help=N_("Look in this kind only."))
@catalog_option
@output_options
def search(text: tuple[str, ...], kind: str | None, catalog_dir: Path | None, output: OutputOptions) -> None:
    """Print what was found."""
    from suanchou.catalog import use_catalog
    from suanchou.report.catalog import catalog_search

    with use_catalog(catalog_dir):
        emit(catalog_search(" ".join(text), kind=kind), output)


for _each in (list_entries, show, search):
    catalog.add_command(_each)
