"""Errors that a user can mend. They print as one message without a traceback: where, what, expected, remedy."""

from __future__ import annotations


class SuiteError(Exception):
    """A mistake in the user's input or surroundings. Exit code 1 while running."""

    exit_code = 1

    def __init__(self, where: str, what: str, expected: str = "", remedy: str = "") -> None:
        self.where, self.what, self.expected, self.remedy = where, what, expected, remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}"]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.remedy:
            lines.append(f"  remedy:   {self.remedy}")
        return "\n".join(lines)

    def __reduce__(self):  # crosses process boundaries unharmed
        return type(self), (self.where, self.what, self.expected, self.remedy)


class RecipeError(SuiteError):
    """The recipe cannot be run as written. Exit code 2."""

    exit_code = 2


class DataError(RecipeError):
    """Rows that cannot be used: names file, line and field."""


class ModelError(RecipeError):
    """A model that cannot be found or does not fit its use."""


class CellFailed(SuiteError):
    """A cell ended without a result."""
