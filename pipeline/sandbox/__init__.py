"""The practice acquirer: a card acquirer to rehearse against, with its own process, book and clock.

It is spoken to through a folder and through nothing else, and it imports nothing of the pipeline: its
book is an oracle only as long as it is written from the outside. That is also why the batch file format
is implemented here a second time (`batchfile`), next to the rail's own implementation: the two check
each other, and sharing one line of it would share its mistakes. Belongs here: what an acquirer, its
cards and its issuers do, well or badly. Does not: anything the pipeline thinks, plans or keeps.

``batchfile``   what an Adyen batch request file says, and the answers to it;
``book``        payments, acquisitions, voids, refunds, disputes: one DuckDB file, one process;
``settlement``  the settlement details file of every business day;
``server``      the folder: who may hold it, what is taken from it in which order, crash or no crash.

Layout of the folder, all of it public but the last line:

    in/          request files `<platform>_<sequence>_<FileType>.csv`, renamed in whole
    ack/         `<request file>_ack`
    result/      `<request file>_result`
    cards/       `*.parquet` of instruments to know; gone when taken, `*.refused` (with the reason) when not
    request/     `<id>.json`, with `<id>.parquet` beside it (put there first) where the verb takes a table
    answer/      `<id>.json`, with `<id>.parquet` beside it (put there first) where the answer is a table
    settlement/  `settlement_detail_report_batch_<n>.csv`
    book.duckdb, server.lock, server.log, export and temporary files (names beginning with a dot)
"""
