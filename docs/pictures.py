"""The pictures of README.md: the head of the demo's report, and the workbench on this project's own pages.

    make demo
    retromae adapt docs README.md CONTRIBUTING.md CHANGELOG.md --output_dir runs/own --minutes 4
    python docs/pictures.py runs/demo runs/own "how do I go on after an interruption"

As Chromium shows them. Neither holds anybody else's text.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from retromae.core.files import replacing

FIGURES = Path(__file__).parent / "figures"
WIDTH = 1200
PORT = 8421


def shoot(address: str, target: Path, height: int) -> None:
    """The page at `address`, once its requests are answered, as a PNG."""
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    if binary is None:
        sys.exit("there is no Chromium here; install it (Debian: apt install chromium).")
    with tempfile.TemporaryDirectory() as profile, replacing(target) as temporary:
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--force-prefers-reduced-motion",
        ]
        size = [
            f"--window-size={WIDTH},{height}",
            "--virtual-time-budget=20000",
            f"--user-data-dir={profile}",
        ]
        picture = temporary.with_suffix(".png")
        subprocess.run([binary, *flags, *size, f"--screenshot={picture}", address], check=True, timeout=120)
        picture.rename(temporary)


@contextmanager
def served(run: Path) -> Iterator[str]:
    words = [sys.executable, "-m", "retromae", "serve", str(run), "--port", str(PORT)]
    server = subprocess.Popen(words)
    address = f"http://127.0.0.1:{PORT}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/health").close()
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", type=Path, help="a finished run of adapt or of the demo")
    parser.add_argument("workbench", type=Path, help="another")
    parser.add_argument("question", help="what is searched in the workbench")
    options = parser.parse_args()
    shoot((options.report / "report.html").resolve().as_uri(), FIGURES / "report.png", 1000)
    with served(options.workbench) as address:
        shoot(f"{address}/#{urlencode({'q': options.question, 'k': 5})}", FIGURES / "workbench.png", 1000)


if __name__ == "__main__":
    main()
