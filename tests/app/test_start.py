"""What is asked for help answers at once."""

from __future__ import annotations

import pytest

from training.runs import launch

ASKS = """
import sys
from retromae.cli import main
sys.argv[1:] = sys.argv[1].split()
try:
    main()
finally:
    slow = {"torch", "transformers", "datasets", "scipy"} & sys.modules.keys()
    assert not slow, slow
"""


@pytest.mark.parametrize(
    "words", ["--help", "prepare --help", "adapt --help", "serve --help", "doctor --help"]
)
def test_help_does_not_wait_for_torch(words: str) -> None:
    done = launch(["-c", ASKS, words], anew=True)
    assert done.returncode == 0 and "Usage:" in done.stdout, done.stderr
