"""What every model took to make."""

from __future__ import annotations

from eval.report.page import Page, Section

COLUMNS = {
    "trainable_parameters": "trained parameters",
    "train_tokens": "training tokens",
    "steps": "steps",
    "seconds": "seconds",
    "peak_memory_mib": "peak memory, MiB",
    "estimated_memory_mib": "as estimated",
}


def section(page: Page) -> Section:
    """Columns that no model has a number for are left out."""
    columns = {
        key: title
        for key, title in COLUMNS.items()
        if any(model.training.get(key) is not None for model in page.report.models)
    }
    return page.section(
        "costs", "Parameters, tokens, seconds and memory of every stage and seed", fold=True, columns=columns
    )
