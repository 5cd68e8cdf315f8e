"""One self-contained HTML page, `results.json` and `items.parquet` from the evaluated cells of a run."""

from eval.report.build import build_report

__all__ = ["build_report"]
