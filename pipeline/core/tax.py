"""The tax of a bill, and how it is rounded - stated once, for whoever writes a bill or checks one.

Belongs here: the rate and the rounding rule. Does not: which bills carry components at all, or what
the gate says about one whose tax is wrong.
"""

TAX_PERCENT = 10
"""Value added tax, in percent of what is left after the discount."""


def tax_minor(net_minor):
    """Tax on `net_minor` = base + usage - discount: a tenth, rounded half up to the whole minor unit.

    A credit's tax mirrors the charge's (half away from zero), so that a bill and its exact reversal add up
    to nothing. In SQL: `sign(net) * ((abs(net) + 5) // 10)`.

    Args:
        net_minor: minor units; an `int`, or an int64 array of them.

    Returns:
        The tax in minor units, of the same kind and sign as `net_minor`.
    """
    return (net_minor + 5 - (net_minor < 0)) // 10
