"""Errors that are the user's to mend.

Everything that bad input can cause is raised as `UserError`: one clear sentence that says what is wrong,
where, and what to do about it. The command line prints that sentence and leaves with exit code 2; any other
exception is a bug of ours and keeps its traceback.
"""

from __future__ import annotations


class UserError(Exception):
    """Bad input, in one sentence: what is wrong, where, what to do."""

    def __init__(self, message: str, *, told: bool = False) -> None:
        super().__init__(message)
        self.told = told  # another process shows the same message
