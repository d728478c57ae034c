"""One outside thing per file: the lake, the engine, the database, the rails. No business rule lives here."""
