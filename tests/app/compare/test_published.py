"""The recipes of the published tables run from end to end: nothing but scale separates this from the real thing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.compare.hub_stand_ins import scaled, write_stand_ins
from retromae.core.config import read_recipe
from retromae.objectives import available
from retromae.text.candidates import Candidates
from training.finetuning import retromae

PUBLISHED = Path(__file__).parents[3] / "recipes" / "published"
SMALL = PUBLISHED.parent / "compare-small.yaml"
pytestmark = pytest.mark.slow

Tiny = Callable[[str], Path]
# Enough for the tables that go on from table 1; every objective has its turn in the last test.
ARMS = "bert,roberta,condenser,retromae,dupmae"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Tiny) -> Path:
    """Stand-ins, and table 1 done, which other tables go on from."""
    folder = write_stand_ins(tmp_path_factory.mktemp("published"))
    run(folder, tiny_folder, "table1", "--objectives", ARMS)
    return folder


def run(folder: Path, tiny_folder: Tiny, name: str, *more: str) -> Path:
    """The folder that a recipe leaves."""
    models = {
        "bert-base-uncased": tiny_folder("bert"),
        "roberta-base": tiny_folder("roberta"),
        "microsoft/deberta-base": tiny_folder("deberta"),
    }
    values = scaled(read_recipe(PUBLISHED / f"{name}.yaml"), folder, models)
    if name == "unified-stage2-similarity":  # mteb would go to the network: the same measurement on a folder
        del values["stages"][-1]["mteb"]
        values["stages"][-1]["sts"] = str(write_sts(folder / "sts"))
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    verb = "pipeline" if "stages" in values else "compare"
    done = retromae(verb, path, *more, cache=folder / "cache")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    plan = retromae(verb, path, "--plan", "--tokens_per_second", "1000", cache=folder / "cache")
    assert plan.returncode == 0 and "finished" in plan.stdout
    return Path(values["output_dir"])


def write_sts(folder: Path) -> Path:
    folder.mkdir()
    lines = [f"test\tall\t{score}\tthe river carries {a}\tthe river warms {b}" for score, a, b in PAIRS]
    (folder / "sts.tsv").write_text("split\tsubset\tscore\tsentence1\tsentence2\n" + "\n".join(lines) + "\n")
    return folder


PAIRS = [
    (5.0, "stone", "stone"),
    (0.5, "letter", "winter"),
    (3.0, "a garden", "the garden"),
    (1.0, "one", "two"),
]


def figures(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "results.json").read_text())["figures"])


def test_table_1(workplace: Path) -> None:
    found = figures(workplace / "runs" / "table1")
    assert {"msmarco RR@10", "cqadupstack nDCG@10", "zero-shot mean nDCG@10"} <= set(found) and len(
        found
    ) == 16
    assert all(set(column["means"]) == set(ARMS.split(",")) for column in found.values())
    page = (workplace / "runs" / "table1" / "report.md").read_text()
    assert "0.452" in page and "paper: BEIR nDCG@10" in page and "0.47 |" in page
    mined = Candidates.facts_of(workplace / "runs" / "table1" / "negatives")
    assert mined["source"].endswith("msmarco-hard-negatives.jsonl.gz") and mined["candidates"] > 0
    assert mined["dropped"]["absolute margin"] > 0


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("table2-msmarco", {"msmarco RR@10", "msmarco R@1000"}),
        ("table2-nq", {f"nq-dpr Accuracy@{k}" for k in (10, 20, 30, 50, 100)}),
        ("table3-msmarco", {"msmarco RR@10", "msmarco R@1000"}),
        ("table3-nq", {"nq-dpr Accuracy@20", "nq-dpr Accuracy@100"}),
    ],
)
def test_tables_2_and_3(workplace: Path, tiny_folder: Tiny, name: str, columns: set[str]) -> None:
    arms = ARMS + (",dupmae-both" if name.endswith("msmarco") else "")
    found = figures(run(workplace, tiny_folder, name, "--objectives", arms))
    assert columns <= set(found)
    assert all(set(found[column]["means"]) == set(arms.split(",")) for column in columns)


def test_tables_4_and_5(workplace: Path, tiny_folder: Tiny) -> None:
    for name, systems in (("table4", ("retromae", "cocondenser")), ("table5", ("distilled", "ance"))):
        table = (run(workplace, tiny_folder, name) / "measured" / "table.md").read_text()
        assert all(system in table for system in systems) and "R@1000" in table


def test_table_6(workplace: Path, tiny_folder: Tiny) -> None:
    arms = "enhanced,basic-3-layers,encoder-0.9"
    found = figures(run(workplace, tiny_folder, "table6", "--objectives", arms))
    assert set(found["msmarco RR@10"]["means"]) == set(arms.split(","))
    found = figures(run(workplace, tiny_folder, "table6-nq", "--objectives", arms))
    assert set(found["nq-dpr Accuracy@20"]["means"]) == set(arms.split(","))


def test_the_unified_framework(workplace: Path, tiny_folder: Tiny) -> None:
    found = figures(run(workplace, tiny_folder, "unified-stage1"))
    assert set(found["zero-shot mean nDCG@10"]["means"]) == {"none", "retromae"}
    retrieval = run(workplace, tiny_folder, "unified-stage2-retrieval")
    assert "stage2" in (retrieval / "on_marco" / "table.md").read_text()
    assert "Accuracy@20" in (retrieval / "on_questions" / "results.json").read_text()
    similarity = run(workplace, tiny_folder, "unified-stage2-similarity")
    assert "sts" in (similarity / "measured" / "table.md").read_text()


def test_every_objective_of_the_small_recipe(workplace: Path) -> None:
    data, out = workplace / "plain", workplace / "runs" / "small"
    sets = [f"data_folder={data}", "budget=3-steps", "common.budget=3-steps", "prepare.train_tokenizer=200"]
    sets.append("finetune.per_device_train_batch_size=6")
    flags = [word for item in sets for word in ("--set", item)]
    done = retromae("compare", SMALL, "--output_dir", out, *flags, cache=workplace / "cache")
    assert done.returncode == 0, done.stderr
    wanted = [
        entry if isinstance(entry, str) else entry["objective"]
        for entry in yaml.safe_load(SMALL.read_text())["objectives"]
    ]
    assert list(figures(out)["plain nDCG@10"]["means"]) == wanted
    assert set(wanted) == set(available())
