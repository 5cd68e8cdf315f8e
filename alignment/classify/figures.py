"""How good a classifier is, from its table of confusions alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def confusion(truth: Sequence[int], predicted: Sequence[int], labels: int) -> np.ndarray:
    """[K, K] counts: the row is the right label, the column the predicted one."""
    table = np.zeros((labels, labels), int)
    np.add.at(table, (np.asarray(truth, int), np.asarray(predicted, int)), 1)
    return table


def class_figures(table: np.ndarray) -> dict[str, np.ndarray]:
    """precision, recall and f1 of every label, [..., K] from counts or shares [..., K, K]; 0 where nothing is to be divided by."""
    right = np.diagonal(table, axis1=-2, axis2=-1).astype(float)
    predicted, true = table.sum(-2), table.sum(-1)

    def share(of: np.ndarray) -> np.ndarray:
        return np.divide(right, of, out=np.zeros_like(right), where=of > 0)

    return {"precision": share(predicted), "recall": share(true), "f1": share((predicted + true) / 2)}


def macro_f1(table: np.ndarray) -> np.ndarray:
    """Mean of the labels' F1, [...] from counts [..., K, K]: a rare label weighs as much as a common one."""
    return class_figures(table)["f1"].mean(-1)


def classification(table: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """accuracy, macro_f1, classes (by label: precision, recall, f1, rows) and the table itself, as plain values."""
    by_class = class_figures(table)
    return {
        "accuracy": float(np.trace(table) / table.sum()),
        "macro_f1": float(macro_f1(table)),
        "classes": {
            label: {name: float(values[number]) for name, values in by_class.items()}
            | {"rows": int(table[number].sum())}
            for number, label in enumerate(labels)
        },
        "confusion": table.tolist(),
    }
