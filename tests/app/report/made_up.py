"""A made-up run folder of `retromae adapt`, whole; tests take away from it what they want to be missing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Json = dict[str, Any]

BASE = "the untouched base"
TUNED = "after contrastive training"
FUSED = "that, fused with BM25"
EVIL = """</p></script><script>alert(1)</script><img src=x onerror="alert('2')">&amp; </style>"""


def make_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model").mkdir()
    (folder / "index").mkdir()
    write(folder / "adapt.json", job())
    write(folder / "verdict.json", verdict())
    write(folder / "system.json", {"kind": "fusion", "weight": 0.6, "depth": 100})
    write(folder / "manifest.json", {"versions": {"python": "3.11.9"}, "machine": {"cores": 2}, "seed": 42})
    write_lines(folder / "stages" / "retromae" / "metrics.jsonl", pretrain_records())
    write_lines(folder / "stages" / "contrastive" / "metrics.jsonl", finetune_records())
    return folder


def job() -> Json:
    def stage(name: str, title: str, seconds: float, run: str | None = None, **more: str) -> Json:
        return {
            "name": name,
            "title": title,
            "state": "finished",
            "why": "",
            "seconds": seconds,
            "run": run,
            **more,
        }

    why = "the base has its own tokenizer"
    return {
        "stages": [
            stage("read", "reading and cutting passages", 6.4),
            stage("tokenizer", "training a tokenizer", 0.0, state="skipped", why=why),
            stage("retromae", "RetroMAE on the text", 88.0, "stages/retromae"),
            stage("contrastive", "contrastive training on pairs from the text", 141.3, "stages/contrastive"),
            stage("judge", "judging on held-out queries", 47.9),
            stage("index", "index of all passages", 31.0),
        ],
        "budget_seconds": 360,
    }


def estimate(mean: float, width: float = 0.021) -> dict[str, float]:
    return {"mean": mean, "low": round(mean - width, 3), "high": round(mean + width, 3)}


def system(name: str, label: str, kind: str, ndcg: float, **more: Any) -> Json:
    metrics = {
        "nDCG@10": estimate(ndcg),
        "RR@10": estimate(ndcg - 0.04),
        "R@100": estimate(ndcg + 0.36, 0.017),
    }
    return {
        **{"name": name, "label": label, "kind": kind, "stage": None, "weight": None, "dev": ndcg + 0.007},
        "metrics": metrics,
        **more,
    }


def comparison(system: str, against: str, difference: float, p: float, width: float = 0.013) -> Json:
    low, high = round(difference - width, 3), round(difference + width, 3)
    return {"system": system, "against": against, "difference": difference, "low": low, "high": high, "p": p}


def verdict() -> Json:
    return {
        "sentence": "On 1,413 questions that no stage had seen, the adapted model with BM25 beside it finds the right "
        "passage clearly more often than the untouched base and than BM25.",
        "returned": "fusion",
        "metric": "nDCG@10",
        "seed": 42,
        "queries": {"train": 9120, "dev": 400, "test": 1413, "made_from": "titles and cut-out sentences"},
        "passages": 6949,
        "passages_searched": 6949,
        "systems": [
            system("base", BASE, "dense", 0.409),
            system("retromae", "after RetroMAE", "dense", 0.401, stage="retromae"),
            system("contrastive", TUNED, "dense", 0.447, stage="contrastive"),
            system("bm25", "BM25", "bm25", 0.433),
            system("fusion", FUSED, "fusion", 0.475, stage="contrastive", weight=0.6),
        ],
        "comparisons": [
            comparison("retromae", "base", -0.008, 0.211),
            comparison("contrastive", "base", 0.038, 0.0001),
            comparison("contrastive", "bm25", 0.014, 0.092, 0.018),
            comparison("bm25", "base", 0.024, 0.041, 0.022),
            comparison("fusion", "base", 0.066, 0.0001),
            comparison("fusion", "bm25", 0.042, 0.0001),
        ],
        "examples": {"against": "base", "won": [won(), won_without_words()], "lost": [lost()]},
    }


def won() -> Json:
    answer = {
        "id": "lamps-12",
        "title": "Lamps that turn themselves off",
        "text": "A lamp can watch the room and turn itself off when nobody has moved for a while. The waiting time is "
        "set in seconds; zero keeps the lamp burning. Lamps in stairwells should wait longer than lamps in a cupboard, "
        "because people stop on stairs to talk. The sensor looks downwards in a cone, so a lamp that hangs low sees "
        "less of the floor, and one that hangs high sees the neighbour's cat.",
    }
    other = {
        "id": "lamps-3",
        "title": "Choosing a lamp",
        "text": "Warm light suits an evening, cold light suits a workshop. Take the lamp back within a month.",
    }
    return {
        "query": "make a lamp go dark when the room is empty",
        "answer": answer,
        "rank_before": 14,
        "rank_after": 1,
        "before_first": other,
        "after_first": answer,
        "terms": [["lamp", 3.13], ["room", 2.4], ["zebra", 0.1]],
    }


def won_without_words() -> Json:
    answer = {"id": "boats-1", "title": "", "text": "Vessels are moored with two ropes, bow and stern."}
    first = {"id": "boats-7", "title": "Paint", "text": "Hulls are painted every second spring."}
    return {
        **{"query": "tie up my dinghy", "answer": answer, "rank_before": None, "rank_after": 2},
        **{"before_first": first, "after_first": first, "terms": []},
    }


def lost() -> Json:
    answer = {"id": "bread-2", "title": "Rye bread", "text": "Rye needs sourdough, or it stays wet inside."}
    first = {
        "id": "bread-9",
        "title": "White bread",
        "text": "Wheat flour, water, salt and yeast, an hour of rest.",
    }
    return {
        **{"query": "rye bread stays wet", "answer": answer, "rank_before": 1, "rank_after": 3},
        **{"before_first": answer, "after_first": first},
        "terms": [["rye", 4.2], ["bread", 1.1], ["wet", 3.0], ["stay", 1.4]],
    }


def pretrain_records() -> list[Json]:
    records: list[Json] = []
    for step in range(0, 201, 10):
        fall = math.exp(-step / 70)
        if step:
            parts = {"decoder": 5.1 + 3.4 * fall, "encoder": 3.9 + 4.1 * fall}
            records.append(
                {
                    **{"step": step, "epoch": step / 1000, "loss": sum(parts.values()), "grad_norm": 1.2},
                    **{"learning_rate": 1e-4, **parts, "tokens_per_second": 812.4, "tokens": step * 4096},
                    "seconds": step * 0.44,
                }
            )
        if step % 50 == 0:
            probe = 0.31 + 0.0004 * step
            records.append(
                {
                    **{"step": step, "epoch": step / 1000, "eval_cls_use": 0.002 + 0.0006 * step},
                    **{"eval_decoder_loss": 5.3 + 3.5 * fall, "eval_encoder_loss": 4.0 + 4.2 * fall},
                    **{"eval_decoder_accuracy": 0.2, "eval_encoder_accuracy": 0.3, "seconds": step * 0.44},
                    **{"eval_probe_ndcg@10": probe, "eval_probe_ndcg@10_raw": probe - 0.1},
                    **{"eval_probe_ndcg@10_low": probe - 0.05, "eval_probe_ndcg@10_high": probe + 0.05},
                }
            )
    return records


def finetune_records() -> list[Json]:
    records: list[Json] = [
        {"step": 0, "epoch": 0.0, "eval_nDCG@10": 0.597, "eval_RR@10": 0.548, "seconds": 3.1}
    ]
    for step in range(5, 76, 5):
        loss = 0.35 + 1.1 * math.exp(-step / 20)
        records.append(
            {
                **{
                    "step": step,
                    "epoch": step / 75,
                    "loss": loss + 0.4,
                    "grad_norm": 2.0,
                    "learning_rate": 2e-5,
                },
                **{
                    "contrastive": loss,
                    "reconstruction": 0.4,
                    "tokens_per_second": 640.0,
                    "tokens": step * 900,
                },
                "seconds": step * 1.9,
            }
        )
        if step % 15 == 0:
            value = 0.597 + 0.05 * (1 - math.exp(-step / 25))
            records.append({"step": step, "epoch": step / 75, "eval_nDCG@10": value, "seconds": step * 1.9})
    return records


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, records: Iterable[Json]) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def change(path: Path, edit: Callable[[Any], object]) -> None:
    """Rewrite a JSON file after `edit` has had its content in hand."""
    value = json.loads(path.read_text(encoding="utf-8"))
    edit(value)
    write(path, value)
