"""The tax rule, against what a person would write down and against exact fractions."""

from fractions import Fraction

import numpy as np
import pytest

from pipeline.core.tax import tax_minor


@pytest.mark.parametrize(
    ("net", "tax"),
    [(0, 0), (4, 0), (5, 1), (14, 1), (15, 2), (47_545, 4_755), (47_544, 4_754), (-4, 0), (-5, -1), (-15, -2)],
)
def test_tax_is_a_tenth_rounded_half_up(net, tax):
    assert tax_minor(net) == tax


def test_tax_is_never_more_than_half_a_unit_off_the_exact_tenth():
    for net in range(-1_000, 1_001):
        assert abs(tax_minor(net) - Fraction(net, 10)) <= Fraction(1, 2)


def test_a_reversed_bill_has_the_reversed_tax():
    for net in range(1_001):
        assert tax_minor(-net) == -tax_minor(net)


def test_a_column_is_taxed_as_each_of_its_bills_is():
    nets = np.arange(-1_000, 1_001, dtype=np.int64)
    assert tax_minor(nets).dtype == np.int64
    assert tax_minor(nets).tolist() == [tax_minor(int(net)) for net in nets]
