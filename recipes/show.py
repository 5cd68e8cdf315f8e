"""`align show`: what is in the store."""

from __future__ import annotations

import json
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from alignment.core.errors import RecipeError
from alignment.core.store import Store, is_whole


def show_store(root: Path, verify: bool, out: Console) -> int:
    """A line for each finished cell. Exit code 1 if `verify` finds damage."""
    table = Table(box=None, pad_edge=False)
    table.add_column("result", overflow="fold")
    for title in ("digest", "made", "seconds", "MiB", *(["sound"] if verify else [])):
        table.add_column(title, no_wrap=True, justify="right" if title in ("seconds", "MiB") else "left")
    damaged = 0
    store = Store(root)
    for folder, manifest in store.manifests():
        size = sum(entry["bytes"] for entry in manifest["files"].values()) / 2**20
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(manifest["provenance"]["started"]))
        row = [f"{manifest['recipe']}/{manifest['label']}", manifest["digest"][:12], made]
        row += [f"{manifest['provenance']['seconds']:.0f}", f"{size:.1f}"]
        if verify:
            sound = is_whole(folder, manifest, contents=True)
            damaged += not sound
            row.append("[green]yes[/]" if sound else "[red]damaged[/]")
        table.add_row(*row)
    out.print(table if table.row_count else f"{root} holds no results yet")
    return int(damaged > 0)


def show_one(root: Path, name: str, verify: bool, out: Console) -> int:
    """The manifest of one result, given by folder, `recipe/label` or the start of its digest."""
    for folder, manifest in Store(root).manifests():
        if (
            manifest["digest"].startswith(name)
            or f"{manifest['recipe']}/{manifest['label']}" == name
            or folder == Path(name).absolute()
        ):
            out.print_json(json.dumps({"folder": str(folder)} | manifest))
            sound = not verify or is_whole(folder, manifest, contents=True)
            if not sound:
                out.print(
                    "[red]damaged[/]: a file differs from the manifest; `align run` makes it again once the folder is removed"
                )
            return int(not sound)
    raise RecipeError(
        name,
        "no such result in the store",
        "a folder, recipe/label or the start of a digest",
        f"align show --store {root}",
    )
