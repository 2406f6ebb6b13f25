"""The lake: Delta tables, blobs, FAISS indices and the ledger of what is done.

Belongs here: how tables are committed exactly once, how blobs are kept and verified, how an index is persisted.
Does not belong here: what is measured or chosen. Imports ``data_engine`` only.
"""
