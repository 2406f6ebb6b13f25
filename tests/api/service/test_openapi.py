"""The document held against the service: what is made up from it ends in no 5xx and in nothing that it does not say."""

from __future__ import annotations

import shutil

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
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


def test_nothing_made_up_from_the_document_ends_in_what_it_does_not_say(service):
    document = schemathesis.openapi.from_url(f"{service.url}/v1/openapi.json")
    headers = {"Authorization": f"Bearer {service.tokens['admin']}"}
    seen, wrong = 0, []

    def hold(operation):
        @settings(max_examples=6, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def check(case):
            case.call_and_validate(headers=headers, checks=CHECKS, timeout=60)

        check()

    for found in document.get_all_operations():
        operation = found.ok()
        seen += 1
        try:
            hold(operation)
        except Exception as error:  # all of them in one go
            wrong.append(f"{operation.label}: {error}")
    assert not wrong, "\n\n".join(wrong)
    assert seen > 35
