"""How minutes are shared out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retromae.app.adapt.plan import Plan, choose, make
from retromae.app.adapt.settings import AdaptConfig
from retromae.app.doctor.base import BaseFacts
from retromae.app.doctor.examine import Examination
from retromae.app.doctor.fit import PassageFacts
from retromae.app.doctor.forecast import Forecast, MemoryForecast, Stage
from retromae.app.doctor.measure import CONTRASTIVE, EncodingSpeed
from retromae.core.errors import UserError


class Anything:
    """What the plan does not look at."""


def examination(
    kind: str = "embedder", passages: int = 5000, encode: float = 0.01, step: float = 2.0, longest: int = 256
) -> Examination:
    rest: Any = Anything()
    memory = MemoryForecast(training=1 << 30, encoding=1 << 29, available=8 << 30)
    forecast = Forecast(
        batch=32,
        memory=memory,
        disk=1,
        encoding=EncodingSpeed(encode, 3) if encode else None,
        encoding_seconds=passages * encode,
        stages=[Stage(CONTRASTIVE, step, step * passages / 32, 3)],
        seconds=1.0,
        budget_seconds=None,
        training_share=None,
    )
    base = BaseFacts(kind, "", "m", 30_522, 1, 6, 12, True, 384, 1536, 384, longest, "mean", "cosine")  # type: ignore[arg-type]
    facts = PassageFacts(128, passages, 100.0, 0.1, 0.1)
    return Examination(["notes"], rest, base, rest, facts, None, rest, forecast, [], 5.0)


def planned(found: Examination, **more: Any) -> Plan:
    return make(found, AdaptConfig(sources=["notes"], output_dir="x", **more))


@given(
    st.sampled_from(["nothing", "masked language model", "embedder"]),
    st.integers(50, 200_000),
    st.floats(1e-4, 0.2),
    st.floats(0.05, 20),
    st.floats(0.5, 300),
)
@settings(max_examples=200, deadline=None)
def test_training_gets_what_the_rest_leaves(
    kind: str, passages: int, encode: float, step: float, minutes: float
) -> None:
    found = examination(kind, passages, encode, step)
    plan = planned(found, minutes=minutes)
    training = plan.pretrain_seconds + plan.pairs_seconds + plan.hard_seconds
    assert 0.3 * 60 * minutes * 0.999 <= training <= 60 * minutes
    assert plan.pairs_seconds > 0 and plan.hard_seconds >= 0 and plan.eval_passages >= 1000
    assert training + plan.rest_seconds <= 60 * minutes or training < 0.3001 * 60 * minutes
    assert (plan.pretrain_seconds > 0) == (kind != "embedder") == (plan.objective != "none")
    longer = planned(found, minutes=2 * minutes)
    assert longer.pairs_seconds + longer.hard_seconds >= plan.pairs_seconds
    assert longer.eval_passages >= plan.eval_passages


def test_more_time_buys_a_second_round_and_an_index_of_the_base() -> None:
    short, long = planned(examination(), minutes=4), planned(examination(), minutes=60)
    assert short.hard_seconds == 0 and long.hard_seconds > 0
    assert (
        not short.base_index
        and long.base_index
        and not planned(examination(), minutes=60, base_index=False).base_index
    )


def test_an_index_that_takes_longer_than_everything_is_told() -> None:
    plan = planned(examination(passages=1_000_000), minutes=10)
    assert any("takes longer than" in reason for reason in plan.reasons)


def test_what_is_asked_for_overrules() -> None:
    plan = planned(examination(), objective="dupmae", learning_rate=3e-3)
    assert plan.objective == "dupmae" and plan.learning_rate == 3e-3 and plan.pretrain_seconds > 0
    assert planned(examination("masked language model"), objective="none").pretrain_seconds == 0
    assert planned(examination(longest=64)).passage_max_len == 62


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(UserError, match="take a smaller base"):
        planned(examination(encode=0.0))


def test_the_plan_is_kept(tmp_path: Path) -> None:
    plan = planned(examination())
    plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path) == plan
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        Plan.read(tmp_path)


def test_the_command_is_exact() -> None:
    config = AdaptConfig(
        sources=["my notes"], output_dir="runs/a b", pairs="p", text_field="body", minutes=7.5
    )
    words = choose(examination(), config).command
    assert words[:3] == ["retromae", "adapt", "'my notes'"]
    assert words[3:] == [
        *("--output_dir", "'runs/a b'", "--minutes", "7.5", "--pairs", "p", "--text_field", "body")
    ]
