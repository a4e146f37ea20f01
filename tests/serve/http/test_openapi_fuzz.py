"""Schemathesis against a real process: requests made from its own OpenAPI, good and bad ones."""

from contextlib import nullcontext, suppress

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from server_process import running

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
QUIET = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def server(toy_folders):
    with running(
        [f"feedback={toy_folders['onnxruntime']}"], "--max-texts", "20", "--body-timeout", "1"
    ) as process:
        yield process
        # None of all the odd requests was more than it can handle.
        assert process.process.poll() is None
    assert process.wait() == 0
    assert "Traceback" not in process.stderr()
    assert '"event":"crashed"' not in process.stderr()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_makes_the_service_fail_or_answer_what_it_did_not_announce(server, mode):
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    statuses, operations = set(), 0
    with requests.Session() as session:
        for found in schema.get_all_operations():
            operation = found.ok()

            @settings(QUIET, max_examples=40 if operation.path == "/predict" else 8)
            @given(case=operation.as_strategy(generation_mode=mode))
            def check(case):
                answer = case.call_and_validate(session=session, checks=CHECKS)
                statuses.add(answer.status_code)

            # A path without parameters and body cannot be asked wrongly.
            with suppress(Unsatisfiable) if mode is GenerationMode.NEGATIVE else nullcontext():
                check()
                operations += 1
    assert operations >= (12 if mode is GenerationMode.POSITIVE else 3)
    assert statuses >= ({200, 404} if mode is GenerationMode.POSITIVE else {400, 422})
