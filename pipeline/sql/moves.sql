-- Pairs of cells between which somebody has moved, this month or last, and what changed with that.
CREATE TEMP TABLE moves AS
SELECT here.cell, there.cell AS last_cell, here.plan_code = there.plan_code AS same_plan,
    here.payment_method <> there.payment_method AS method_changed, here.issuer <> there.issuer AS issuer_changed
FROM (
    SELECT cell, previous_cell AS last_cell FROM accounts WHERE cell <> previous_cell
    UNION SELECT previous_cell, cell_2 FROM accounts WHERE previous_cell <> cell_2
) AS moved
JOIN cells AS here ON here.cell = moved.cell
JOIN cells AS there ON there.cell = moved.last_cell;
