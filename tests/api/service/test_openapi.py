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


def test_every_parameter_and_body_has_an_example_and_bodies_are_of_the_shape_asked_for(service):
    told = 0
    with service.client("admin") as client:
        document = client.get("/v1/openapi.json").json()
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                assert operation.get("description") or operation.get("summary"), (method, path)
                for parameter in operation.get("parameters", ()):
                    schema = parameter["schema"]
                    assert {"example", "examples", "default"} & {*parameter, *schema, *schema.get("anyOf", [{}])[0]}, (
                        path,
                        parameter,
                    )
                if "requestBody" in operation:
                    body = operation["requestBody"]["content"]["application/json"]["example"]
                    answer = client.request(method, path, json=body)
                    assert answer.status_code < 500, answer.text
                    assert answer.json().get("code") != "bad_request", (path, answer.text)  # of no such shape
                    told += 1
    assert told > 10
    assert not [name for name in document["components"]["schemas"] if "__" in name]  # of two modules
