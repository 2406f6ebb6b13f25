from __future__ import annotations

from data_engine.document import MixtureDocument


def test_the_document_round_trips(toy) -> None:
    lineage = {"scorer": "x", "version": "1", "config_hash": "0"}
    conversion = {"dataset": "a", "column": "action", "from": "deg", "to": "rad", "components": [0]}
    document = toy({"a": [5, 6]}).freeze(scorers=[lineage], conversions=[conversion]).document
    assert MixtureDocument.model_validate_json(document.model_dump_json()) == document
