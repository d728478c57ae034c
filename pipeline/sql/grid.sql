-- The grid that amounts lie on: the largest power of ten that divides every amount of the two latest months; 1 where history is empty.
CREATE TEMP TABLE grid AS
SELECT CASE WHEN count(amount_minor) = 0 THEN 1 WHEN bool_and(amount_minor % 10000 = 0) THEN 10000 WHEN bool_and(amount_minor % 1000 = 0) THEN 1000
            WHEN bool_and(amount_minor % 100 = 0) THEN 100 WHEN bool_and(amount_minor % 10 = 0) THEN 10 ELSE 1 END AS grid
FROM (SELECT amount_minor FROM month_1 UNION ALL SELECT amount_minor FROM month_2);
