"""Public formats: each is seen, read and written again; malformed rows have a name to count by."""

from __future__ import annotations

from typing import Any

import pytest

from kilter.data import formats, reading
from kilter.data.rejects import Reject
from kilter.data.sources import Row


def read(name: str, rows: list[dict[str, Any]]) -> list[Any]:
    form = formats.find(name)
    stream = [Row(f"f:{n}", r) for n, r in enumerate(rows, 1)]
    return list(reading._grouped(stream, form) if hasattr(form, "group") else reading._alone(stream, form))


def write(name: str, found: list[Any]) -> list[dict[str, Any]]:
    form, records = formats.find(name), [r for f in found for r in f.records]
    if not hasattr(form, "write_group"):
        return [row for r in records for row in form.write(r)]
    groups: dict[str, list[Any]] = {}
    for r in records:
        groups.setdefault(form.group_of(r), []).append(r)
    return [row for g in groups.values() for row in form.write_group(g)]


@pytest.mark.parametrize("name", formats.names())
def test_rows_are_written_again_as_they_were(name: str, examples: Any) -> None:
    found = read(name, examples.ROWS[name])
    assert not [f for f in found if isinstance(f, Reject)]
    assert not [x for f in found for x in f.repairs]
    written = write(name, found)
    assert written == examples.ROWS[name]
    assert [f.records for f in read(name, written)] == [f.records for f in found]


@pytest.mark.parametrize("name", formats.names())
def test_each_format_is_told_from_all_others(name: str, examples: Any) -> None:
    found = formats.detect(examples.ROWS[name])
    assert (found.name, found.sure) == (name, True), found
