-- Somebody else may give back part of a charge today and another part tomorrow: each is a deviation of its own, numbered.
ALTER TABLE deviation
    ADD COLUMN nth integer NOT NULL DEFAULT 1 CHECK (nth >= 1),
    DROP CONSTRAINT deviation_pkey,
    ADD PRIMARY KEY (original_id, kind, nth);
