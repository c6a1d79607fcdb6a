"""A comparison's file is read strictly, and every arm gets what belongs to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.compare import tiny_comparisons
from retromae.app.compare.arms import Arm, chosen, read_arms
from retromae.app.compare.jobs import jobs_of, part_of
from retromae.app.compare.reading import put, read_comparison
from retromae.app.compare.settings import Comparison
from retromae.core.errors import UserError


def comparison(folder: Path, **more: Any) -> Comparison:
    return read_comparison(tiny_comparisons.values(folder, **more), "here")


def test_arms_have_their_own_settings(tmp_path: Path) -> None:
    listed = [
        "mlm",
        {"name": "basic", "objective": "retromae", "decoder": "basic", "learning-rate": 2e-3},
        {"name": "other", "objective": "none", "model_name_or_path": "somewhere"},
        "none",
    ]
    found = comparison(tmp_path, objectives=listed, pretrain={"hide_schedule": 0.2, "weight_decay": 0.3})
    mlm, basic, other, none = found.arms
    assert (other.model, none.model, basic.described()) == (
        "somewhere",
        None,
        "decoder basic, learning_rate 0.002",
    )
    settings = found.pretraining(basic, seed=7)
    assert settings.objective.decoder == "basic" and settings.objective.hide_schedule == 0.2
    assert (settings.run.learning_rate, settings.run.weight_decay, settings.run.seed) == (2e-3, 0.3, 7)
    assert found.pretraining(mlm).run.weight_decay == 0.3


def test_names_choose_arms_and_objectives() -> None:
    arms = read_arms(["mlm", {"name": "basic", "objective": "retromae", "decoder": "basic"}], "here")
    assert chosen(arms, ["dupmae", "basic"], "here") == [Arm("dupmae", "dupmae"), arms[1]]
    with pytest.raises(UserError, match="unknown objective 'mlmm'"):
        chosen(arms, ["mlmm"], "here")


def test_references_stand_for_values_and_fetched_data(tmp_path: Path) -> None:
    found = comparison(
        tmp_path,
        place=str(tmp_path / "other"),
        data={"my-set": "hub:somebody/collection"},
        tests=[{"beir": "${place}"}, {"beir": "${my_set}"}, {"beir": "${output_dir}/data/x", "name": "x"}],
    )
    out = tmp_path / "out"
    assert [test.beir for test in found.tests] == [
        *(str(tmp_path / "other"), str(out / "data" / "my-set"), str(out / "data" / "x"))
    ]


WRONG = [
    ({"objectives": ["mlmm"]}, "Unknown objective 'mlmm'"),
    ({"objectives": ["mlm", "mlm"]}, "two arms are called 'mlm'"),
    ({"objectives": []}, "say objectives"),
    ({"objectives": [{"objective": "mlm", "decoder": "basic"}]}, "decoder"),
    ({"objectives": [{"objective": "mlm", "rows": "x"}]}, "the same for all arms; say it as rows"),
    ({"objectives": [{"objective": "mlm", "max_seq_length": 9}]}, "move it to 'pretrain'"),
    ({"objectives": [{"objective": "none", "learning_rate": 1}]}, "nothing is pre-trained"),
    ({"objectives": [{"objective": "mlm", "finetune": {"seed": 3}}]}, "said as seeds"),
    ({"objectives": [{"objective": "mlm", "finetune": {"pairs": "x"}}]}, "move it to 'finetune'"),
    ({"objectives": [{"objective": "mlm", "finetune": {"max_steps": 9}}]}, "move it to 'finetune'"),
    ({"budget": "many"}, "20M-tokens"),
    ({"budget": None}, "say budget"),
    ({"pretrain": {"decoder": "basic"}, "objectives": ["mlm"]}, "belongs to"),
    ({"pretrain": {"learning_rat": 1}}, "did you mean 'learning_rate'"),
    ({"pretrain": {"max_steps": 5}}, "say it as budget"),
    ({"pretrain": {"learning_rate": "fast"}}, "must be a number"),
    ({"finetune": {"query_max_len": 5}}, "say pairs"),
    ({"finetune": {"pairs": "x", "group": 5}}, "unknown setting 'group'"),
    ({"seeds": 0}, "seeds"),
    ({"seeds": [1, 1]}, "seeds"),
    ({"reference": "nobody"}, "not among the arms"),
    ({"tests": []}, "must be a list"),
    ({"tests": [{"beir": "x", "metric": "nDCG@10"}]}, "did you mean 'metrics'"),
    ({"tests": [{"beir": "x", "metrics": ["good"]}]}, "not known"),
    ({"tests": [{"beir": "x"}, {"beir": "y/x"}]}, "two tests are called 'x'"),
    ({"rows": "x"}, "one of the two"),
    ({"prepare": {"sources": ["x"], "out": "y"}}, "leave out"),
    ({"start": {"model_name_or_path": "x", "hidden_size": 3}}, "one of the two"),
    ({"start": {"hidden": 3}}, "unknown setting 'hidden'"),
    ({"common": {"objective": "mlm"}}, "say budget"),
    ({"common": {"budget": "1-steps", "hidden_size": 3}}, "does not belong here"),
    ({"budgett": "5-steps"}, "did you mean 'budget'"),
    ({"data": {"x": "somewhere"}}, "hub:NAME"),
    ({"published": {"mlm": {"nDCG": "high"}}}, "column: number"),
    ({"negatives": {"depht": 3}}, "did you mean 'depth'"),
    ({"negatives": {"file": "x.tsv"}}, "must be a .jsonl"),
    ({"negatives": {"per_system": 5}}, "per_system is of published ones"),
    ({"expected": {"dimensoin": 5}}, "did you mean 'dimension'"),
    ({"expected": {"tests": {"elsewhere": {"passage": 5}}}}, "did you mean 'passages'"),
    ({"expected": {5: 5}}, "unknown setting '5'"),
    ({"tests": [{"beir": "${nowhere}"}]}, "nowhere"),
]


@pytest.mark.parametrize(("change", "sentence"), WRONG, ids=[sentence for _, sentence in WRONG])
def test_what_is_wrong_is_refused(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        comparison(tmp_path, **change)
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


def test_set_reaches_into_sections() -> None:
    values: dict[str, Any] = {"pretrain": {"seed": 1}, "objectives": []}
    put(values, "pretrain.learning-rate=1e-3", "here")
    put(values, "seeds=[4, 5]", "here")
    put(values, "start.hidden_size=8", "here")
    assert values["pretrain"] == {"seed": 1, "learning_rate": "1e-3"} and values["seeds"] == [4, 5]
    assert values["start"] == {"hidden_size": 8}
    for wrong in ("nothing", "seeds.x=1", "sedes=1", "seeds=[1"):
        with pytest.raises(UserError, match="--set"):
            put(values, wrong, "here")


def test_parts_share_out_every_job_once(tmp_path: Path) -> None:
    jobs = jobs_of(comparison(tmp_path, objectives=["mlm", "none", "bm25"], seeds=[3, 5]))
    assert [str(job) for job in jobs] == [
        *("mlm, seed 3", "none, seed 3", "bm25, seed 3", "mlm, seed 5", "none, seed 5")
    ]
    parts = [part_of(jobs, f"{number}/3", []) for number in (1, 2, 3)]
    assert sorted(str(job) for part in parts for job in part) == sorted(map(str, jobs))
    assert [str(job) for job in part_of(jobs, None, ["none"])] == ["none, seed 3", "none, seed 5"]
    for part, only in (("3/2", []), ("x", []), (None, ["nobody"])):
        with pytest.raises(UserError):
            part_of(jobs, part, only)
