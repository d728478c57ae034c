-- A few among millions, and asked for whenever it is asked where a million operations stand.
CREATE INDEX outcome_declined ON outcome (operation_id) WHERE status = 'declined';
