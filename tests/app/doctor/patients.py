"""Texts and tiny bases to be examined."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from retromae.app.adapt.settings import AdaptConfig
from retromae.models.checkpoint import write_sentence_transformer
from tiny import SENTENCES

SMALL = AdaptConfig(
    passage_max_len=30,
    query_max_len=8,
    per_device_train_batch_size=4,
    vocabulary=300,
    num_hidden_layers=1,
    hidden_size=32,
)
GREEK = "Ο λιμενάρχης μετρά τις βάρκες δύο φορές και μετά γράφει τα ονόματά τους σε ένα παλιό βιβλίο"


def write_text(path: Path, documents: int = 60, sentences: int = 4) -> Path:
    """A file of records, every document other sentences."""
    rows = [
        {
            "_id": f"d{n}",
            "title": f"Part {n}",
            "text": " ".join(f"{SENTENCES[(n * 5 + k * 7) % 24]} {n} {k}." for k in range(sentences)),
        }
        for n in range(documents)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_embedder(plain: Path, folder: Path) -> Path:
    """A folder that states how it makes vectors."""
    shutil.copytree(plain, folder)
    write_sentence_transformer(folder, 32, 64, "mean")
    return folder
