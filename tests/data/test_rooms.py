"""The rooms of `hardwood.data` know of each other what they may. Imports for annotations alone don't count."""

from __future__ import annotations

from ..rooms import circles, rooms_of, strangers

SETS = {"records", "files", "_dataset"}
MAY_KNOW = {
    "records": set(),
    "files": {"records"},
    "_dataset": {"records", "files"},
    "_columns": set(),
    "beir": SETS,
    "check": SETS,
    "unseen": SETS,
    "converters": SETS,
    "read": SETS | {"_columns", "beir", "unseen"},
}


def test_each_room_knows_what_it_may() -> None:
    assert not strangers("data", MAY_KNOW, types=False)
    assert rooms_of("data") == set(MAY_KNOW)


def test_there_is_no_circle() -> None:
    assert not circles("data", types=False)
