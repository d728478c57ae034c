"""Measured comparisons: what this project costs beside the least that its work can cost, and beside what people use today.

Belongs here: contenders, their floors, and the clock. Does not: tests of behaviour (`tests`) - but a floor that computes
something else than we do is no floor, so every comparison checks that both sides got the same results and fails if not.
Figures are ratios within one run, contenders taking turns (A B A B), because machines differ and are shared.

    python -m bench [--only PART] [--customers N] [--rounds N] [--json]
"""
