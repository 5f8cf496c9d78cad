"""The page that teaches the laws says what is so."""

from __future__ import annotations

import doctest
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "laws.md"


def test_each_broken_and_each_sound_example_of_the_page_is_what_it_is_called() -> None:
    failed, attempted = doctest.testfile(str(PAGE), module_relative=False)
    assert failed == 0
    assert attempted > 40
