"""Advice follows from the table: opposite tables, opposite advice."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REPEATABLE
from hypothesis import given, settings
from hypothesis import strategies as st

from pqlib.study.advice import advise

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / "results" / "reference").glob("*/05_methods.csv"))
SHARED, LOCAL = "PQ shared", "PQ per cluster"
METHODS = ("k-means", "k-means, two levels", SHARED, LOCAL, f"{SHARED}, re-ranked")
BRUTE = ("brute force", 0, 1.0, 10_000, 512, 50)


def table(*rows, spread=0.02):
    """Rows of method, nprobe, recall, distance computations, bytes per vector, qps."""
    names = ["method", "nprobe", "recall", "distance_computations", "bytes_per_vector", "qps"]
    points = pd.DataFrame(rows, columns=names)
    return points.assign(qps_min=points.qps * (1 - spread), qps_max=points.qps * (1 + spread))


def answer(advice, question):
    """The only row whose question begins so."""
    rows = advice.table[advice.table.question.str.startswith(question)]
    assert len(rows) == 1, list(advice.table.question)
    return rows.iloc[0]


def sentence(sentences, *words):
    """The only sentence with these words."""
    found = [s for s in sentences if all(w in s for w in words)]
    assert len(found) == 1, sentences
    return found[0]


def measured(recall, work, size, qps):
    """Each of METHODS with one list visited and with four, and brute force."""
    rows = zip(
        [name for name in METHODS for _ in range(2)],
        [1, 4] * len(METHODS),
        recall,
        work,
        [value for value in size for _ in range(2)],
        qps,
        strict=True,
    )
    return table(*rows, BRUTE)


# Product codes do well here: small, fast, and re-ranking finds what they lost.
CODES_WIN = measured(
    recall=[0.80, 0.96, 0.80, 0.96, 0.40, 0.50, 0.70, 0.92, 0.80, 0.97],
    work=[1000, 4000, 500, 2000, 900, 3900, 900, 3900, 950, 3950],
    size=[530, 530, 20, 30, 150],
    qps=[1000, 300, 1100, 330, 9000, 6000, 8000, 5000, 4000, 2000],
)
# Here they do badly: slow, larger than the vectors, and lost for good.
CODES_LOSE = measured(
    recall=[0.80, 0.96, 0.70, 0.96, 0.60, 0.94, 0.40, 0.50, 0.60, 0.94],
    work=[1000, 4000, 1200, 6000, 9000, 9900, 9000, 9900, 9500, 9950],
    size=[530, 530, 620, 800, 740],
    qps=[5000, 3000, 4000, 2000, 400, 300, 350, 200, 100, 90],
)


def test_opposite_tables_give_opposite_answers():
    wins, loses = (advise(t, 10, (0.9,), (600,)) for t in (CODES_WIN, CODES_LOSE))
    for question, one, other in [
        ("smallest index, recall@10 >= 0.9", LOCAL, "brute force"),
        ("least counted work, recall@10 >= 0.9", "k-means, two levels", "k-means"),
        ("fastest, recall@10 >= 0.9", LOCAL, "k-means"),
        ("fastest, at most 600", SHARED, "k-means"),
        ("second level: less work, equal nprobe", "k-means, two levels", "k-means"),
        ("second level: less work, equal recall", "k-means, two levels", "k-means"),
        ("PQ per cluster or PQ shared, equal", LOCAL, SHARED),
        ("PQ per cluster or shared codebooks, no more", LOCAL, SHARED),
        ("re-ranking PQ shared: highest", f"{SHARED}, re-ranked", "none"),
        ("re-ranking PQ shared: fastest", SHARED, SHARED),
    ]:
        assert answer(wins, question).method == one, question
        assert answer(loses, question).method == other, question


def test_opposite_tables_give_opposite_sentences():
    wins, loses = (advise(t, 10, (0.9,), (600,)) for t in (CODES_WIN, CODES_LOSE))
    assert sentence(wins.counted, "smallest") == (
        "With recall@10 of at least 0.9, the smallest index is *PQ per cluster* with nprobe 4: 30 "
        "bytes per vector, recall 0.920; next is *PQ shared, re-ranked* with nprobe 4, 150."
    )
    assert "smallest index is brute force: 512 bytes" in sentence(loses.counted, "smallest")
    assert sentence(wins.timed, "at least 0.9, the fastest is *PQ per cluster* with nprobe 4")
    assert sentence(loses.timed, "at least 0.9, the fastest is *k-means* with nprobe 4")

    assert sentence(wins.counted, "second level") == (
        "Compared with one level at equal nprobe, k-means with a second level takes 50.0% fewer "
        "distance computations and has the same recall. At equal recall@10, read off between "
        "measured points, it takes 50.0% fewer at 0.900, so it saves work."
    )
    said = sentence(loses.counted, "second level")
    assert "takes 20.0% to 50.0% more distance computations and has up to 0.100 less" in said
    assert said.endswith("so it saves no work.")
    assert "faster in 2 of 2" in sentence(wins.timed, "second level")
    assert "slower in 2" in sentence(loses.timed, "second level")

    for advice, topic, part, end in (
        (
            wins, "equal codes",
            "0.300 to 0.420 more recall compared with *PQ shared*, in 30 bytes",
            "codebooks per cluster win.",
        ),
        (loses, "equal codes", "0.200 to 0.440 less recall", "codebooks per cluster lose."),
        (
            wins, "Re-ranking",
            "raises the highest recall@10 of *PQ shared* from 0.500 to 0.970",
            "So it pays in recall and work and costs memory.",
        ),
        (
            loses, "Re-ranking",
            "leaves the highest recall@10 of *PQ shared* at 0.940",
            "So it does not pay.",
        ),
    ):  # fmt: skip
        said = sentence(advice.counted, topic)
        assert part in said
        assert said.endswith(end)

    assert sentence(wins.timed, "Brute force").endswith("measured are clearly faster.")
    assert "except" not in sentence(loses.timed, "Brute force")


def test_where_nothing_reaches_the_recall_it_says_so_and_what_came_closest():
    points = table(
        ("k-means", 1, 0.5, 10, 500, 10),
        ("k-means", 2, 0.8996, 20, 500, 8),
        (SHARED, 1, 0.4, 9, 8, 9),
    )
    advice = advise(points, 5, (0.9,), (4,))
    assert advice.counted[0] == (
        "Nothing measured has recall@5 of at least 0.9: the highest is 0.8996, of *k-means* with "
        "nprobe 2."
    )
    assert advice.timed[0].startswith("Nothing measured has recall@5 of at least 0.9")
    for question in ("smallest", "least counted work", "fastest, recall"):
        row = answer(advice, question)
        assert row.method == "none"
        assert row.note == "nothing reaches it; closest: k-means with nprobe 2, recall 0.8996"
        assert np.isnan(row.recall)
        assert pd.isna(row.nprobe)
    assert sentence(advice.counted, "fits into 4 bytes") == (
        "Nothing measured fits into 4 bytes per vector: the smallest, *PQ shared*, takes 8."
    )
    assert answer(advice, "highest recall@5, at most 4").method == "none"


def test_only_brute_force_reaches_it():
    points = table(BRUTE, (SHARED, 1, 0.4, 900, 20, 900), (SHARED, 2, 0.45, 990, 20, 800))
    advice = advise(points, 10, (0.9,), ())
    assert advice.counted[0] == (
        "Only brute force, which is exact, has recall@10 of at least 0.9: the highest of the "
        "others is 0.450, of *PQ shared* with nprobe 2."
    )
    for question in ("smallest", "least counted work", "fastest"):
        row = answer(advice, question)
        assert (row.method, row.nprobe, row.recall) == ("brute force", 0, 1)
    said = sentence(advice.timed, "the fastest is brute force")
    assert said.endswith("recall 1.000. Nothing else reaches that recall.")


def test_overlapping_ranges_are_not_told_apart():
    rows = [("k-means", 4, 0.95, 10, 500, 1000), (SHARED, 4, 0.92, 10, 8, 970), BRUTE]
    apart = advise(table(*rows, spread=0.01), 10, (0.9,), ())
    assert "the fastest is *k-means*" in apart.timed[0]
    assert "next is *PQ shared* with nprobe 4, 970" in apart.timed[0]
    assert answer(apart, "fastest").note == ""
    mixed = advise(table(*rows, spread=0.02), 10, (0.9,), ())
    assert mixed.timed[0] == (
        "With recall@10 of at least 0.9, *k-means* with nprobe 4 (1,000 queries per second, recall "
        "0.950) cannot be told apart in speed from *PQ shared* with nprobe 4 (970, recall 0.920): "
        "their repeats overlap."
    )
    assert "not told apart from PQ shared with nprobe 4" in answer(mixed, "fastest").note
    # Not only the runner-up by the median: a wide range may reach up from further below.
    wide = table(*rows, spread=0.01)
    wide.loc[2, ["qps_min", "qps_max"]] = 40, 1100
    assert "cannot be told apart in speed from brute force" in advise(wide, 10, (0.9,), ()).timed[0]


def test_points_of_one_method_that_overlap_do_not_matter():
    points = table((SHARED, 1, 0.91, 10, 8, 1000), (SHARED, 2, 0.92, 20, 8, 990), BRUTE)
    said = advise(points, 10, (0.9,), ()).timed[0]
    assert "the fastest is *PQ shared* with nprobe 1" in said
    assert "next is brute force, 50." in said


def test_ties_are_named_and_the_cheaper_one_is_taken():
    advice = advise(CODES_WIN.query("method.str.startswith('k-means')"), 10, (0.9,), (600,))
    said = sentence(advice.counted, "smallest")
    assert "is *k-means, two levels* with nprobe 4: 530 bytes per vector" in said
    assert said.endswith("Equal to it: *k-means* with nprobe 4 (recall 0.960).")
    said = sentence(advice.counted, "highest recall@10 is")
    assert said.endswith("Less than 0.001 behind: *k-means* with nprobe 4 (recall 0.960).")


def test_codebooks_that_take_no_more_memory_or_less():
    rows = CODES_WIN[CODES_WIN.method.isin([SHARED, LOCAL])]
    said = sentence(advise(rows.assign(bytes_per_vector=30.0), 10).counted, "equal codes")
    assert "in 30 bytes per vector as well." in said
    less = rows.assign(bytes_per_vector=rows.bytes_per_vector.where(rows.method == SHARED, 19.6))
    said = sentence(advise(less, 10).counted, "equal codes")
    assert "in 19.6 bytes per vector instead of 20. Nothing measured with shared" in said
    assert answer(advise(less, 10), f"{LOCAL} or shared codebooks, no more").method == "none"


def test_a_single_method():
    advice = advise(CODES_WIN[CODES_WIN.method == "k-means"], 10, (0.7,), (600,))
    # Equal in memory: the one with less work.
    assert answer(advice, "smallest").nprobe == 1
    assert len(advice.sentences) == 5
    assert not any(word in s for s in advice.sentences for word in ("next", "other", "else"))


def test_a_method_that_is_ahead_between_its_points_is_named():
    points = table(
        ("k-means", 1, 0.80, 1000, 500, 900), ("k-means", 2, 0.99, 4000, 500, 100),
        (SHARED, 1, 0.85, 3000, 8, 200), (SHARED, 2, 0.91, 3500, 8, 150),
    )  # fmt: skip
    advice = advise(points, 10, (0.9,), ())
    assert answer(advice, "fastest").method == answer(advice, "least").method == SHARED
    ahead = "Interpolated between its measured points, *k-means* is ahead at exactly 0.9: "
    share = 0.1 / 0.19
    assert f"{ahead}{1000 * 4**share:,.0f}." in sentence(advice.counted, "least counted work")
    assert f"{ahead}{900 / 9**share:,.0f}." in sentence(advice.timed, "the fastest is")


def test_recalls_reached_by_one_curve_only_are_not_compared():
    points = table(
        ("k-means", 1, 0.80, 1000, 500, 900), ("k-means", 2, 0.89, 2000, 500, 100),
        ("k-means, two levels", 1, 0.70, 900, 500, 900),
        ("k-means, two levels", 2, 0.85, 1500, 500, 100),
    )  # fmt: skip
    advice = advise(points, 10, (0.9,), ())
    # At the highest recall that both reach instead: 0.85, where k-means takes 1000 * 2 ** (5 / 9).
    share = 1 - 1500 / (1000 * 2 ** (5 / 9))
    assert f"{-share:.1%} more at 0.850, so it saves no work." in sentence(
        advice.counted, "second level"
    )
    apart = points.assign(recall=[0.9, 0.95, 0.3, 0.5])
    said = sentence(advise(apart, 10, (0.9,), ()).counted, "second level")
    assert "equal recall" not in said
    mixed = points.assign(recall=[0.8, 0.96, 0.8, 0.96], distance_computations=[10, 20, 5, 40])
    said = sentence(advise(mixed, 10, (0.8, 0.96), ()).counted, "second level")
    assert "between 100.0% more and 50.0% fewer distance" in said
    assert said.endswith(
        "it takes 50.0% fewer at 0.800 and 100.0% more at 0.960, so it saves work at some recalls "
        "only."
    )


def test_equal_codes_are_those_of_equal_bytes_where_the_table_knows_them():
    rows = CODES_WIN[CODES_WIN.method.isin([SHARED, LOCAL])]
    assert "0.300 to 0.420 more" in " ".join(advise(rows, 10).counted)
    sized = rows.assign(code_bytes=[8, 8, 8, 16])
    assert "has 0.300 more recall" in " ".join(advise(sized, 10).counted)
    none = rows.assign(code_bytes=[8, 8, 16, 16])
    assert "equal codes" not in " ".join(advise(none, 10).counted)


def test_several_parameters_tell_points_apart():
    points = pd.concat(
        [CODES_WIN.assign(m=8), CODES_WIN.assign(m=4, qps=1, qps_min=1, qps_max=1)],
        ignore_index=True,
    )
    with pytest.raises(ValueError, match="more than one row with method k-means, nprobe 1"):
        advise(points, 10)
    advice = advise(points, 10, parameters=("m", "nprobe"))
    assert answer(advice, "fastest, recall@10 >= 0.95").m == 8
    assert "with m 8, nprobe 4" in " ".join(advice.timed)
    assert "equal m and nprobe" in " ".join(advice.counted)
    # k-means has no m: the column has gaps, and its numbers became floats.
    plain = points.method.str.startswith("k-means")
    gaps = points[(points.m == 8) | ~plain]
    gaps = gaps.assign(m=gaps.m.where(~plain))
    text = " ".join(advise(gaps, 10, parameters=("m", "nprobe")).counted)
    assert "*k-means, two levels* with nprobe 4" in text
    assert "with m 4, nprobe 4" in text


@pytest.mark.parametrize(
    ("column", "gone"),
    [
        ("distance_computations", ["work", "computations"]),
        ("bytes_per_vector", ["bytes", "smallest", "memory"]),
        ("qps", ["fastest", "queries per second"]),
        ("qps_min", ["fastest", "queries per second"]),
    ],
)
def test_questions_without_their_column_are_left_out(column, gone):
    for points in (CODES_WIN, CODES_LOSE):
        advice = advise(points.drop(columns=column), 10)
        text = " ".join([*advice.sentences, *advice.table.question])
        assert not any(word in text for word in gone)
        assert len(advice.counted) >= 3
        assert bool(advice.timed) == (not column.startswith("qps"))


def test_recall_alone_is_enough():
    points = CODES_WIN[["method", "nprobe", "recall"]]
    assert len(advise(points, 10).counted) == 2
    nothing = advise(points[points.method == "k-means"], 10)
    assert (nothing.sentences, len(nothing.table)) == ([], 0)
    assert list(nothing.table.columns) == [
        "question", "timed", "method", "nprobe", "recall", "note"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda t: t.iloc[:0], {}, "no rows"),
        (lambda t: pd.DataFrame(), {}, "no column 'method', 'nprobe', 'recall'"),
        (lambda t: t.drop(columns="recall"), {}, "no column 'recall'"),
        (lambda t: t.drop(columns="nprobe"), {}, "no column 'nprobe'"),
        (lambda t: t, {"parameters": ("m",)}, "no column 'm'"),
        (lambda t: t.assign(recall=1.5), {}, "recalls in 0..1"),
        (lambda t: t.assign(bytes_per_vector=0), {}, "'bytes_per_vector'.*positive"),
        (lambda t: t.assign(qps=np.nan), {}, "'qps'.*row 0"),
        (lambda t: t.assign(qps_min=t.qps_max + 1), {}, "qps_min <= qps <= qps_max"),
        (lambda t: pd.concat([t, t]), {}, "more than one row"),
        (lambda t: t, {"k": 0}, "k=0"),
        (lambda t: t, {"recalls": (0.9, 1.1)}, "recalls has 1.1"),
        (lambda t: t, {"bytes_limits": (-8,)}, "bytes_limits has -8"),
    ],
)
def test_errors_name_the_argument(change, options, words):
    with pytest.raises(ValueError, match=words):
        advise(change(CODES_WIN), **{"k": 10, **options})


# Any table ---------------------------------------------------------------------------------

ANY_METHOD = st.sampled_from(sorted({*CODES_WIN.method, f"{LOCAL}, re-ranked"}))


@st.composite
def tables(draw):
    keys = draw(
        st.lists(
            st.tuples(ANY_METHOD, st.sampled_from([1, 2, 4])),
            min_size=1,
            max_size=12,
            unique=True,
        )
    )
    # Few values, so that there are many ties.
    number = st.integers(1, 6)
    rows = [
        (m, p, draw(number) / 6, draw(number) * 10, draw(number) * 10, draw(number) * 10)
        for m, p in keys
    ]
    return table(*rows, spread=draw(st.sampled_from([0.01, 0.2])))


@settings(REPEATABLE, max_examples=40)
@given(tables())
def test_the_answers_are_right_for_any_table(points):
    advice = advise(points, 10, (0.5, 1), (10, 30))
    for text in advice.sentences:
        assert text[0].isupper() or text[0] == "*"
        assert text.endswith((".", ".)"))
        assert not re.search(r"nan|None|inf\b|  |\.\.|<NA>", text), text
    # The counted ones are the same whatever the clock says.
    slower = points.assign(qps=1.0, qps_min=1.0, qps_max=1.0)
    assert advise(slower, 10, (0.5, 1), (10, 30)).counted == advice.counted
    assert advise(points.drop(columns="qps"), 10, (0.5, 1), (10, 30)).counted == advice.counted

    for target in (0.5, 1):
        good = points[points.recall >= target]
        for what, column, best in (
            ("smallest index", "bytes_per_vector", good.bytes_per_vector.min()),
            ("least counted work", "distance_computations", good.distance_computations.min()),
            ("fastest", "qps", good.qps.max()),
        ):
            row = answer(advice, f"{what}, recall@10 >= {target:g}")
            if good.empty:
                assert row.method == "none"
                continue
            same = (good.method == row.method) & (good.nprobe == row.nprobe)
            assert good[same][column].item() == row[column] == best
            assert row.recall >= target
        if len(good):
            chosen = good.loc[(good.method == row.method) & (good.nprobe == row.nprobe)].iloc[0]
            rivals = good[good.method != row.method]
            overlap = rivals[rivals.qps_max >= chosen.qps_min].method.unique()
            assert all(f"not told apart from {name}" in row.note for name in overlap)
            claims = [
                s for s in advice.timed if s.startswith(f"With recall@10 of at least {target:g},")
            ]
            assert len(claims) == 1
            assert ("the fastest is" in claims[0]) == (len(overlap) == 0)
    for limit in (10, 30):
        good = points[points.bytes_per_vector <= limit]
        row = answer(advice, f"highest recall@10, at most {limit}")
        if good.empty:
            assert row.method == "none"
        else:
            assert row.recall == good.recall.max()
            assert row.bytes_per_vector <= limit


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_stored_results_can_be_advised_on(path):
    points = pd.read_csv(path)
    advice = advise(points, 10)
    named = set(advice.table.method) - {"none"}
    assert named <= set(points.method)
    assert len(advice.counted) >= 5
    assert len(advice.timed) >= 4
    assert not re.search(r"nan|None|<NA>", " ".join(advice.sentences))
