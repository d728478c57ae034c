-- What is normal of a signal by many months, from month_counts: the mean share, and how much more the months differ than chance alone
-- would have them (the dispersion of a quasi-Poisson count; 1 or less for chance). Months that were events are left out; fewer than five
-- of the others tell too little.
INSERT INTO many_months
WITH counted AS (SELECT signal, recency, sum(base) AS base, sum(hits) AS hits FROM month_counts GROUP BY 1, 2
    HAVING share(sum(hits), sum(base)) <= (SELECT event_share FROM parameters)
),
means AS (SELECT signal, sum(hits) / sum(base) AS share, count(*) AS month_count FROM counted GROUP BY 1 HAVING count(*) >= 5 AND sum(hits) > 0)
SELECT signal, share, month_count, sum(pow(hits - share * base, 2) / (share * base)) / (month_count - 1) AS dispersion
FROM counted JOIN means USING (signal) GROUP BY signal, share, month_count;
