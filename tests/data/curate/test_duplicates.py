"""Exact and near duplicates: hand-worked sets, the curve of the index, the true Jaccard, languages, rules, laws."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.data.curate import exact, minhash, near
from kilter.data.curate.items import Kept
from kilter.data.curate.texts import tokens


def shingles(text: str, size: int) -> set[tuple[str, ...]]:
    found = tokens(text)
    return {tuple(found[i : i + size]) for i in range(max(1, len(found) - size + 1))} if found else set()


def brute(a: str, b: str, size: int) -> float:
    x, y = shingles(a, size), shingles(b, size)
    return len(x & y) / len(x | y) if x | y else 0.0


# --- exact ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("What is tea?", "what  is\nTEA?"),
        ("Straße", "STRASSE"),
        ("ﬁne ｔｅａ", "fine tea"),
        ("café", "cafe\u0301"),
        ("お茶　とは？", "お茶 とは?"),
    ],
)
def test_the_same_text_in_another_dress_is_a_duplicate(make: Any, a: str, b: str) -> None:
    found, report = make.run(exact, [make.prompt(a), make.prompt("other"), make.prompt(b)], exact.Config())
    (drop,) = make.drops(found)
    assert drop.reason == "same-text"
    assert drop.where == "row 3"
    assert drop.evidence == {"match": make.prompt(a).id, "match_where": "row 1"}
    assert report == {"rows": 3, "texts": 2}


def test_prompt_and_answer_do_not_run_together(make: Any) -> None:
    found, _ = make.run(exact, [make.demo("ab", "c"), make.demo("a", "bc")], exact.Config())
    assert len(make.kept(found)) == 2
    found, _ = make.run(exact, [make.demo("ab", "c"), make.demo("ab", "d")], exact.Config(field="prompt"))
    assert len(make.kept(found)) == 1


@given(st.lists(st.sampled_from("abcdef"), max_size=30), st.integers(1, 7))
def test_exact_keeps_each_text_once_however_it_is_cut(make: Any, texts: list[str], part: int) -> None:
    found, _ = make.run(exact, [make.prompt(t) for t in texts], exact.Config(), part)
    kept = make.kept(found)
    assert [i.prompt.messages[0]["content"] for i in kept] == list(dict.fromkeys(texts))
    again, _ = make.run(exact, [i.record for i in kept], exact.Config())
    assert len(make.kept(again)) == len(kept)


# --- the mathematics of MinHash ---------------------------------------------------------------------------------------


def test_pain_16_the_curve_of_the_index_is_told() -> None:
    """1 - (1 - s^r)^b by hand, and bands that find a pair at the threshold with the stated probability."""
    assert minhash.probability(0.5, 2, 2) == pytest.approx(1 - (1 - 0.25) ** 2)
    assert minhash.choose_bands(0.8, 128, 0.99) == (21, 6)  # 18 x 7 finds 98.6 %
    told = near.curve(near.Config())
    assert (told["bands"], told["rows"]) == (21, 6)
    assert told["looked_at"]["0.8"] == pytest.approx(0.9983, abs=1e-4)
    assert told["looked_at"]["0.3"] < 0.02
    assert near.Config(threshold=0.9, bands=9, rows=13).index == (9, 13)


def test_shingles_are_the_sets_that_a_hand_would_cut() -> None:
    words = minhash.Words()
    texts = ["a b c d", "a b", "", "a b c a b c a b c", "b a"]
    hashed, begin = minhash.shingles([words(tokens(t)) for t in texts], 3)
    assert np.diff(begin).tolist() == [2, 1, 0, 3, 1]
    rows = [set(hashed[begin[i] : begin[i + 1]].tolist()) for i in range(5)]
    assert len(rows[0] & rows[3]) == 1  # a b c
    assert not rows[1] & rows[4]  # order counts
    assert all(sorted(r) == hashed[begin[i] : begin[i + 1]].tolist() for i, r in enumerate(rows))


def random_text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice("abcdefghijklmnopqrst") + str(rng.randrange(30)) for _ in range(words))


def test_jaccard_is_the_brute_force_one() -> None:
    rng = random.Random(3)
    words = minhash.Words()
    for _ in range(200):
        a = random_text(rng, rng.randint(1, 25))
        b = " ".join(w if rng.random() < 0.9 else random_text(rng, 1) for w in a.split())
        hashed, begin = minhash.shingles([words(tokens(t)) for t in (a, b)], 2)
        assert minhash.jaccard(hashed[: begin[1]], hashed[begin[1] :]) == pytest.approx(brute(a, b, 2), abs=1e-12)


def test_signatures_estimate_jaccard_as_well_as_datasketch_does() -> None:
    datasketch = pytest.importorskip("datasketch")
    rng = random.Random(5)
    ours, theirs, truth = [], [], []
    for _ in range(150):
        a = random_text(rng, 40)
        keep = rng.random()
        b = " ".join(w if rng.random() < keep else random_text(rng, 1) for w in a.split())
        words = minhash.Words()
        hashed, begin = minhash.shingles([words(tokens(t)) for t in (a, b)], 1)
        one, two = minhash.signatures(hashed, begin, 256, 1)
        ours.append(float((one == two).mean()))
        m = [datasketch.MinHash(num_perm=256) for _ in range(2)]
        for sketch, text in zip(m, (a, b), strict=True):
            for token in set(tokens(text)):
                sketch.update(token.encode())
        theirs.append(m[0].jaccard(m[1]))
        truth.append(brute(a, b, 1))
    our_error = np.sqrt(np.mean((np.array(ours) - truth) ** 2))
    their_error = np.sqrt(np.mean((np.array(theirs) - truth) ** 2))
    assert our_error < 0.04  # sqrt(s (1 - s) / 256) is at most 0.031
    assert our_error < 1.3 * their_error
    assert abs(np.mean(np.array(ours) - truth)) < 0.01  # without bias


# --- near -------------------------------------------------------------------------------------------------------------

FOX = "the quick brown fox jumps over the lazy dog near the river bank"


def test_pain_16_a_drop_names_its_match_with_the_true_jaccard(make: Any) -> None:
    other = FOX.replace("river", "old")
    rows = [make.prompt("nothing of the kind stands here at all"), make.prompt(FOX), make.prompt(other)]
    found, report = make.run(near, rows, near.Config(threshold=0.5))
    (drop,) = make.drops(found)
    assert drop.evidence["match"] == rows[1].id
    assert drop.evidence["match_where"] == "row 2"
    # 13 words are 11 shingles of three; a word changed last but one touches two of them: 9 / (11 + 11 - 9)
    assert drop.evidence["jaccard"] == pytest.approx(9 / 13, abs=1e-4)
    assert drop.evidence["kept"] == rows[1].id
    assert report["pairs_compared"] == 1
    found, _ = make.run(near, rows, near.Config(threshold=0.7))
    assert not make.drops(found)  # looked at perhaps, but 0.692 is below 0.7


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("请用三句话介绍一下长城的历史和它在今天的意义谢谢", "请用三句话介绍一下长城的历史和它在今天的意义谢谢你"),
        ("日本の首都とその歴史について短く説明してください", "日本の首都とその歴史について短く説明してくださいね"),
        ("ช่วยอธิบายประวัติศาสตร์ของกรุงเทพมหานครให้ฟังหน่อย", "ช่วยอธิบายประวัติศาสตร์ของกรุงเทพมหานครให้ฟังหน่อยนะ"),
        ("Erkläre kurz, wie man einen guten Grüntee aufgießt", "erkläre kurz wie man einen guten GRÜNTEE aufgießt!"),
    ],
)
def test_scripts_without_spaces_are_shingled_by_character(make: Any, a: str, b: str) -> None:
    found, _ = make.run(near, [make.prompt(a), make.prompt(b)], near.Config())
    (drop,) = make.drops(found)
    assert drop.evidence["jaccard"] == pytest.approx(brute(a, b, 3), abs=1e-4)


def chain() -> list[str]:
    """Three texts of which the first and the last are each near the middle one, and not near each other."""
    words = [f"w{i}" for i in range(40)]
    return [" ".join(words[i : i + 30]) for i in (0, 4, 8)]


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1)])
def test_the_rule_decides_chains(make: Any, order: tuple[int, ...]) -> None:
    texts = [chain()[i] for i in order]
    config = {"threshold": 0.7, "shingle": 1}
    first, _ = make.run(near, [make.prompt(t) for t in texts], near.Config(**config))
    clusters, _ = make.run(near, [make.prompt(t) for t in texts], near.Config(**config, rule="clusters"))
    assert len(make.kept(first)) == 2  # the ends are 22/38 alike
    assert [i.where for i in make.kept(clusters)] == ["row 1"]
    assert {d.evidence["kept"] for d in make.drops(clusters)} == {make.prompt(texts[0]).id}
    for drop in make.drops(clusters):
        by_id = {make.prompt(t).id: t for t in texts}
        assert drop.evidence["jaccard"] == pytest.approx(
            brute(by_id[drop.id], by_id[drop.evidence["match"]], 1), abs=1e-4
        )
        assert drop.evidence["jaccard"] >= 0.7


@settings(max_examples=40)
@given(st.lists(st.text("abc ", max_size=40), max_size=25), st.integers(1, 6))
def test_near_has_no_near_pair_left_and_parts_change_nothing(make: Any, texts: list[str], part: int) -> None:
    """With an index that looks at every pair that shares a minimum, against brute force."""
    config = near.Config(threshold=0.6, shingle=2, permutations=96, bands=96, rows=1)
    found, _ = make.run(near, [make.prompt(t or "x") for t in texts], config, part)
    whole, _ = make.run(near, [make.prompt(t or "x") for t in texts], config)
    assert [isinstance(o, Kept) for o in found] == [isinstance(o, Kept) for o in whole]
    left = [i.prompt.messages[0]["content"] for i in make.kept(found)]
    for n, a in enumerate(left):
        assert all(brute(a, b, 2) < 0.6 for b in left[:n])
    for drop in make.drops(found):
        assert drop.evidence["jaccard"] >= 0.6
    again, _ = make.run(near, [i.record for i in make.kept(found)], config)
    assert not make.drops(again)


def test_rows_cut_short_are_counted(make: Any) -> None:
    rows = [make.prompt(f"one two three four five {i} six seven eight nine ten") for i in range(30)]
    _, report = make.run(near, rows, near.Config(threshold=0.99, bands=128, rows=1, candidates=5))
    assert report["rows_cut_short"] == 24


@pytest.mark.parametrize("bad", [{"threshold": 1.0}, {"bands": 3}, {"bands": 50, "rows": 5}, {"shingle": 0}])
def test_what_makes_no_index_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        near.Config(**bad)
