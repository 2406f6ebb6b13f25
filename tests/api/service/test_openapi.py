"""The document held against the service: what is made up from it ends in no 5xx and in nothing that it does not say."""

from __future__ import annotations

import shutil

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api.service.conftest import serving

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]  # fmt: skip


@pytest.fixture(scope="module")
def service(curated, tmp_path_factory):
    lake = tmp_path_factory.mktemp("fuzzed") / "lake"
    shutil.copytree(curated, lake)
    with serving(lake) as running:
        yield running


@pytest.fixture(scope="module")
def document(service):
    return schemathesis.openapi.from_url(f"{service.url}/v1/openapi.json")


schema = schemathesis.pytest.from_fixture("document")


@schema.parametrize()
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
def test_nothing_made_up_from_the_document_ends_in_what_it_does_not_say(case, service):
    case.call_and_validate(headers={"Authorization": f"Bearer {service.tokens['admin']}"}, checks=CHECKS, timeout=60)
