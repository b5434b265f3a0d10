"""Rows that the tests of curation share, and a step over rows in memory."""

from __future__ import annotations

from typing import Any

import pytest

from kilter.data.curate.items import Drop, Item, Kept, Outcome, Rows
from kilter.data.records import Candidate, Demonstration, Judgment, Prompt


class Make:
    """Makers of rows; `run` puts them through a step."""

    @staticmethod
    def prompt(text: str, **given: Any) -> Prompt:
        return Prompt(messages=({"role": "user", "content": text},), **given)

    def demo(self, question: str, answer: str, **given: Any) -> Demonstration:
        return Demonstration(prompt=self.prompt(question, **given), answer=answer)

    def pair(self, question: str, chosen: str, rejected: str, **given: Any) -> Judgment:
        asked, models = self.prompt(question), given.pop("models", ("", ""))
        made = [
            Candidate(prompt_id=asked.id, answer=a, generator={"model": m} if m else {})
            for a, m in zip((chosen, rejected), models, strict=True)
        ]
        return Judgment(prompt=asked, candidates=tuple(made), tiers=((0,), (1,)), **given)

    @staticmethod
    def run(module: Any, records: Any, config: Any, part: int = 0) -> tuple[list[Outcome], dict[str, Any]]:
        """Outcomes and report; one outcome per row, in the rows' order, always."""
        report: dict[str, Any] = {}
        rows = Rows.of(records, part)
        if hasattr(module, "judge"):
            found = [module.judge(i, config) for i in rows]
        else:
            found = list(module.curate(rows, config, report))
        names = [o.item.id if isinstance(o, Kept) else o.id for o in found]
        assert names == [i.id for i in rows]
        return found, report

    @staticmethod
    def kept(outcomes: list[Outcome]) -> list[Item]:
        return [o.item for o in outcomes if isinstance(o, Kept)]

    @staticmethod
    def drops(outcomes: list[Outcome]) -> list[Drop]:
        return [o for o in outcomes if isinstance(o, Drop)]


@pytest.fixture(scope="session")
def make() -> Make:
    return Make()
