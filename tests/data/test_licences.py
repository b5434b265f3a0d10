"""One name for every spelling of a licence, and the strictest of several."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter.data import licences
from kilter.data.licences import normal, strictest

NAMES = ["CC0-1.0", "MIT", "CC-BY-4.0", "CC-BY-SA-3.0", "OpenAI-terms", "CC-BY-NC-4.0", "CC-BY-ND-4.0", ""]


@pytest.mark.parametrize(
    ("written", "name", "kind"),
    [
        ("apache-2.0", "Apache-2.0", "permissive"),
        ("Apache License 2.0", "Apache-2.0", "permissive"),
        ("MIT License", "MIT", "permissive"),
        ("cc0-1.0", "CC0-1.0", "public domain"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0", "public domain"),
        ("cc-by-4.0", "CC-BY-4.0", "attribution"),
        ("CC BY 4.0", "CC-BY-4.0", "attribution"),
        ("CC-BY-SA-3.0", "CC-BY-SA-3.0", "share-alike"),
        ("Creative Commons Attribution-ShareAlike 4.0 International License", "CC-BY-SA-4.0", "share-alike"),
        ("https://creativecommons.org/licenses/by-sa/4.0/", "CC-BY-SA-4.0", "share-alike"),
        ("cc-by-nc", "CC-BY-NC", "non-commercial"),
        ("CC BY NC SA 4.0", "CC-BY-NC-SA-4.0", "non-commercial"),
        ("Creative Commons Attribution Non Commercial 4.0", "CC-BY-NC-4.0", "non-commercial"),
        ("cc-by-nc-nd-4.0", "CC-BY-NC-ND-4.0", "no derivatives"),
        ("llama3", "Llama-Community", "own terms"),
        ("our vendor's contract", "our vendor's contract", "unknown"),
        ("  ", "unknown", "unknown"),
        ("other", "unknown", "unknown"),
    ],
)
def test_usual_spellings_become_one_name(written: str, name: str, kind: str) -> None:
    found = licences.normal(written)
    assert (found.name, found.kind) == (name, kind)
    assert licences.normal(found.name) == found  # a name that was found is its own spelling


def test_the_strictest_goes_from_public_domain_to_unknown() -> None:
    for n, name in enumerate(NAMES):
        assert licences.strictest(NAMES[: n + 1]) == licences.normal(name)
    assert licences.strictest([]) == licences.UNKNOWN
    assert licences.strictest(["CC-BY-NC-4.0", "CC-BY-NC-SA-4.0"]).name == "CC-BY-NC-SA-4.0"


@given(st.lists(st.sampled_from(NAMES), min_size=1), st.randoms(use_true_random=False))
def test_order_and_repeats_change_nothing(names: list[str], random: object) -> None:
    shuffled = names * 2
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert licences.strictest(shuffled) == licences.strictest(names)
    assert licences.mixed(shuffled) == licences.mixed(names) == (len(set(names)) > 1)


def test_spellings_of_one_licence_are_not_mixed_but_a_row_that_says_nothing_is() -> None:
    assert not licences.mixed(["apache-2.0", "Apache 2.0"])
    assert licences.mixed(["apache-2.0", ""])


def test_share_alike_beside_non_commercial_is_said_to_be_a_conflict() -> None:
    told = licences.conflict(["CC BY-SA 4.0", "MIT", "CC BY-NC 4.0"])
    assert told == "CC-BY-SA-4.0 wants what is made of it under its own terms, which CC-BY-NC-4.0 does not allow"
    assert licences.conflict(["CC BY-SA 3.0", "CC BY-SA 4.0", "MIT"]) == ""
    assert licences.conflict(["CC BY-NC-SA 4.0", "MIT"]) == ""
    assert "ODbL-1.0" in licences.conflict(["ODbL-1.0", "CC-BY-SA-4.0"])


def test_public_sets_state_their_licences() -> None:
    assert licences.of_set("nvidia/HelpSteer2").name == "CC-BY-4.0"
    assert licences.of_set("HuggingFaceH4/no_robots").kind == "non-commercial"
    assert licences.of_set("mine") == licences.UNKNOWN


def test_an_expression_is_as_strict_as_its_strictest_part() -> None:
    found = normal("cc-by-nc-4.0 AND MIT")
    assert (found.name, found.kind, found.non_commercial) == ("CC-BY-NC-4.0 AND MIT", "non-commercial", True)
    assert normal("mit and CC BY-NC 4.0") == found
    assert strictest(["MIT AND Apache-2.0", "CC-BY-4.0"]).name == "CC-BY-4.0"
    assert strictest(["mit", "my own words"]).name == "my own words"
