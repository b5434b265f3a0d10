"""Faults come in the stated shares, the same on every run, and a retry has luck of its own."""

from __future__ import annotations

from collections import Counter
from typing import Any

import httpx
import openai
import pytest

from kilter.errors import UserError
from kilter.sandbox import protocol
from kilter.serve.faults import AFTER, BEFORE, ELSEWHERE, KINDS, REFUSED, Faults, read_faults

TALK = [{"role": "user", "content": "Where does Ada live?"}]
RATE = protocol.rate(TALK, ["Ada lives in Saltby."], None, (1, 10), "json")


def test_shares_hold_and_are_the_same_in_any_order() -> None:
    given = ["429=0.2", "timeout=0.05", "truncated-json=0.1", "prose=0.1", "wrong-language=0.05", "refusal=0.05"]
    faults = read_faults(given, 3)
    bodies = [str(i).encode() for i in range(4000)]
    first = {b: faults.draw(b) for b in bodies}
    counts = Counter(first.values())
    for kind, share in faults.shares.items():
        assert counts[kind] / 4000 == pytest.approx(share, abs=0.02)
    again = read_faults(given, 3)
    assert {b: again.draw(b) for b in reversed(bodies)} == first
    second = Counter(faults.draw(b) for b in bodies if first[b] == "429")
    assert second["429"] / counts["429"] == pytest.approx(0.2, abs=0.05), "a retry is drawn anew"
    assert Faults().draw(b"x") == ""


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ("prse=0.1", "did you mean 'prose'"),
        ("prose", "SHARE"),
        ("prose=2", "from 0 to 1"),
        ("prose=nan", "from 0 to 1"),
    ],
)
def test_wrong_faults_are_refused(given: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        read_faults([given], 1)
    with pytest.raises(UserError, match="must not exceed 1"):
        read_faults(["prose=0.6", "429=0.6"], 1)


def test_each_fault_can_be_asked_for(serving: Any) -> None:
    with serving("sandbox:oracle", fault_seconds=0.2) as served:
        good = served.say("sandbox:oracle", RATE)
        assert served.say("sandbox:oracle+truncated-json", RATE) == good[: 3 * len(good) // 5]
        assert served.say("sandbox:oracle+prose", RATE) == BEFORE + good + AFTER
        assert served.say("sandbox:oracle", RATE, extra_headers={"X-Kilter-Fault": "wrong-language"}) == ELSEWHERE
        assert served.say("sandbox:oracle+refusal", RATE) == REFUSED
        with pytest.raises(openai.RateLimitError) as caught:
            served.say("sandbox:oracle+429", RATE)
        assert caught.value.response.headers["retry-after"] == "1"
        with pytest.raises(openai.InternalServerError, match="nothing came in time"):
            served.say("sandbox:oracle+timeout", RATE)
        with pytest.raises(openai.APITimeoutError):
            served.client.with_options(timeout=0.05).chat.completions.create(
                model="sandbox:oracle+timeout", messages=TALK
            )
        with pytest.raises(openai.BadRequestError, match="no fault 'prse'"):
            served.say("sandbox:oracle", RATE, extra_headers={"X-Kilter-Fault": "prse"})


def test_drawn_faults_reach_clients_and_retries_get_through(serving: Any) -> None:
    with serving("sandbox:oracle", faults=["429=0.4"], seed=5) as served:
        patient = served.client.with_options(max_retries=12)
        for i in range(20):
            reply = patient.chat.completions.create(model="sandbox:oracle", messages=TALK, seed=i)
            assert "Ada" in reply.choices[0].message.content
        made = httpx.get(served.url + "/healthz").json()["faults"]
        assert 5 < made["429"] < 40
    assert set(KINDS) >= set(made)
