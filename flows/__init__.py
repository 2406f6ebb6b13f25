"""One module a verb: ingest, score, index, select, mix, export, curate.

Belongs here: bringing ``data_engine``, ``scorers`` and ``storage`` together, the executors, the Prefect wrapping. Every
verb is a plain function that runs without Prefect, Ray or a server. Does not belong here: parsing of requests, pages,
servers.
"""
