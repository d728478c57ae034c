"""Makegood: catch a wrong bill before it is charged; put it right, to the won, when it was.

The story, in the order it happens:

``extract``   the month's charges become an immutable, hashed partition - a *run*;
``verify``    one SQL pass turns the run and its history into a small *profile*, ``judge`` lets
              Great Expectations decide, offending rows go to quarantine: a *verdict*;
``report``    the verdict, its findings and its evidence as one page an analyst can read;
``release``   a released run's positive charges become operations and go to the acquirer, canary
              first; a held run sends nothing until two people decide;
``execution`` the one way money moves: intent, rail, outcome - in that order, each kept for ever.

``core`` holds what is true without any database; ``adapters`` each touch one outside thing;
``bootstrap`` is the only place that knows which adapter is used. Airflow lives in ``dags/`` alone.
"""
