from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from retromae.core.errors import UserError
from retromae.evaluation.sts import Pairs, cosine, evaluate_sts, read_sts, spearman


def angle(texts: list[str]) -> np.ndarray:
    """A text that is a number becomes the unit vector at that angle."""
    turns = np.array([float(text) for text in texts])
    return np.stack([np.cos(turns), np.sin(turns)], axis=1)


EASY = Pairs(["0", "0", "0"], ["0.1", "0.5", "1"], [5, 3, 1])
REVERSED = Pairs(["0", "0"], ["0.2", "0.7"], [0, 4])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=20))
def test_spearman_equals_scipys(pairs: list[tuple[int, int]]) -> None:
    a, b = zip(*pairs)
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    else:
        assert spearman(a, b) == 0


def test_cosine_of_a_zero_vector_is_zero() -> None:
    assert cosine(np.array([[3.0, 4], [0, 0]]), np.array([[6.0, 8], [1, 1]])).tolist() == [1, 0]


def test_all_is_one_correlation_over_every_pair() -> None:
    result = evaluate_sts({"easy": EASY, "reversed": REVERSED}, angle, name="mine")
    assert result.subsets == pytest.approx({"easy": 1.0, "reversed": -1.0})
    assert (result.mean, result.weighted_mean) == pytest.approx((0.0, 0.2))
    everything = stats.spearmanr(np.cos([0.1, 0.5, 1, 0.2, 0.7]), [5, 3, 1, 0, 4]).statistic
    assert result.all == pytest.approx(everything)
    assert result.low <= result.all <= result.high
    assert result.pairs == 5


def test_the_interval_narrows_with_more_pairs() -> None:
    generator = np.random.default_rng(0)

    def width(count: int) -> float:
        turns = generator.random(count)
        pairs = Pairs(["0"] * count, [str(t) for t in turns], list(-turns + generator.normal(0, 0.3, count)))
        result = evaluate_sts({"x": pairs}, angle)
        return result.high - result.low

    assert width(900) < width(40) / 2


def test_a_year_in_its_published_files(tmp_path: Path) -> None:
    (tmp_path / "STS.input.MSRpar.txt").write_text("one\ttwo\nthree\tfour\nfive\tsix\n")
    (tmp_path / "STS.gs.MSRpar.txt").write_text("4.5\n\n0\n")
    (tmp_path / "STS.input.surprise.OnWN.txt").write_text("a\tb\n")
    (tmp_path / "STS.gs.surprise.OnWN.txt").write_text("1\n")
    assert read_sts(tmp_path) == {
        "MSRpar": Pairs(["one", "five"], ["two", "six"], [4.5, 0]),
        "surprise.OnWN": Pairs(["a"], ["b"], [1]),
    }
    (tmp_path / "STS.gs.MSRpar.txt").write_text("4.5\n\n")
    with pytest.raises(UserError, match=r"3 pairs .* 2 scores"):
        read_sts(tmp_path)


def test_sts_b_and_sick(tmp_path: Path) -> None:
    (tmp_path / "sts-dev.csv").write_text('captions\tx\t2012\t1\t3.2\tA "dog.\tA cat.\textra\n')
    assert read_sts(tmp_path, "dev") == {"STS-B": Pairs(['A "dog.'], ["A cat."], [3.2])}
    (tmp_path / "SICK_test_annotated.txt").write_text("id\tA\tB\tscore\tlabel\n1\tx y\tz\t4\tNEUTRAL\n")
    assert read_sts(tmp_path, "test") == {"SICK-R": Pairs(["x y"], ["z"], [4])}


def test_one_table(tmp_path: Path) -> None:
    head = "split\tsubset\tscore\tsentence1\tsentence2\n"
    (tmp_path / "sts.tsv").write_text(
        head + "test\tnews\t1\ta\tb\ntrain\tnews\t2\tc\td\ntest\tweb\t3\te\tf\n"
    )
    assert read_sts(tmp_path) == {"news": Pairs(["a"], ["b"], [1]), "web": Pairs(["e"], ["f"], [3])}
    with pytest.raises(UserError, match="no row of split 'dev'"):
        read_sts(tmp_path, "dev")
    (tmp_path / "sts.tsv").write_text(head + "test\tnews\tmuch\ta\tb\n")
    with pytest.raises(UserError, match="'much'"):
        read_sts(tmp_path)
    (tmp_path / "sts.tsv").write_text(head + "test\tnews\n")
    with pytest.raises(UserError, match="line 2 has 2 columns"):
        read_sts(tmp_path)


def test_bad_encoders_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"NaN or infinity for '0\.5'"):
        evaluate_sts({"x": EASY}, lambda texts: np.array([[np.nan if t == "0.5" else 1.0] for t in texts]))
    with pytest.raises(UserError, match=r"shape \(3,\)"):
        evaluate_sts({"x": EASY}, lambda texts: np.ones(3))
    with pytest.raises(UserError, match="holds no similarity data"):
        read_sts(tmp_path)
    with pytest.raises(UserError, match="no subset"):
        evaluate_sts({}, angle)


def test_an_encoder_that_tells_nothing_apart_scores_zero() -> None:
    assert evaluate_sts({"x": EASY}, lambda texts: np.ones((len(texts), 4))).all == 0
