-- Whether a signal is there in the whole run more often than in the two months before by more than chance - or, of new customers, less
-- often - and yet not more often than slack allows.
WITH counted AS (
    SELECT signal, recency, sum(base) AS base, sum(hits) AS hits FROM signal_counts WHERE signal IN ({signals}) GROUP BY 1, 2
),
normal AS (SELECT signal, max(share(hits, base)) AS highest, min(share(hits, base)) AS lowest FROM counted WHERE recency > 0 GROUP BY 1)
SELECT coalesce(bool_or(
    CASE WHEN signal = 'joined' THEN deficit(hits, lowest * base) > {nats}
         ELSE surprise(hits, highest * base + 0.5) > {nats} AND surprise(hits, slack * highest * base + 0.5) < {nats} END), FALSE)
FROM counted JOIN normal USING (signal) JOIN signal_defaults USING (signal) WHERE recency = 0
