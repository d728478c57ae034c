"""The no-fault schedule of a declined rebill."""

from datetime import date

import pytest

from pipeline.core.retry import FINAL_REASONS, RETRY_AFTER_DAYS, next_attempt_on

FIRST = date(2023, 9, 12)


def test_a_lack_of_money_is_tried_again_on_fixed_days_and_then_never():
    days = [
        next_attempt_on(FIRST, declines=n, reason="insufficient_funds") for n in range(1, len(RETRY_AFTER_DAYS) + 2)
    ]
    assert days == [date(2023, 9, 15), date(2023, 9, 19), date(2023, 9, 26), None]


@pytest.mark.parametrize("reason", FINAL_REASONS)
def test_a_card_that_is_gone_is_never_tried_again(reason):
    assert next_attempt_on(FIRST, declines=1, reason=reason) is None
