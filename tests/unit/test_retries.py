"""Retries of the local backend."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from funcpipe_prefect.backends.local import retrying
from funcpipe_prefect.errors import ContractError, TransientError
from funcpipe_prefect.ir import Retries


def test_jitter_lengthens_each_delay_by_chance() -> None:
    retries = Retries(delay_seconds=(10.0, 100.0), jitter=0.5)
    first = [retrying(retries, 5).wait(Mock(attempt_number=1)) for _ in range(50)]
    third = [retrying(retries, 5).wait(Mock(attempt_number=3)) for _ in range(50)]
    assert all(10 <= delay <= 15 for delay in first)
    assert all(100 <= delay <= 150 for delay in third), "the last delay repeats"
    assert len(set(first)) > 40


def test_without_jitter_the_delays_are_those_of_the_file() -> None:
    assert retrying(Retries(delay_seconds=(10.0,)), 5).wait(Mock(attempt_number=1)) == 10


@pytest.mark.parametrize(
    ("error", "calls"),
    [(TransientError("away"), 3), (ConnectionError("away"), 3), (ContractError("broken"), 1)],
)
def test_a_broken_contract_is_not_tried_again(error: Exception, calls: int) -> None:
    work = Mock(side_effect=error)
    with pytest.raises(type(error)):
        retrying(Retries(delay_seconds=(0.0,)), 2)(work)
    assert work.call_count == calls
