"""`makegood scorecard`: what the gate catches, what it holds for nothing, and whether it says why - measured.

Belongs here: the months that are tried (`bases`), which cases there are (`cases`), one case from charge files to verdict (`trial`), what
others would have said of it (`baselines`), all of them in processes, resumable (`run`), the statistics (`tally`) and
how they are shown (`page`). Does not: any fault (`generate.catalogue`), threshold (`expectations/suites`) or judgement
(`judge`): the gate knows nothing of this package.
"""
