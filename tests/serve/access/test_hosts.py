"""Another website in the operator's browser can neither ask nor change anything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyfold.serve.access.hosts import allowed_hosts, check_body_type, check_host, check_source
from polyfold.serve.refusals import Refusal

LOOPBACK = allowed_hosts("127.0.0.1")


def refused(call, *arguments):
    try:
        call(*arguments)
    except Refusal as said:
        return said.status
    return None


@pytest.mark.parametrize(
    "host",
    ["localhost", "127.0.0.1", "localhost:8080", "127.0.0.1:8080", "[::1]", "[::1]:8080", "LocalHost:1", None],
)
def test_on_loopback_the_machines_own_names_are_served(host):
    assert refused(check_host, host, LOOPBACK) is None


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example:8080",
     "localhost:80:90", "localhost:", "localhost:a", "evil@localhost", "", ":8080", "::1", "127.0.0.2"],
)  # fmt: skip
def test_a_name_that_points_here_from_elsewhere_is_refused(host):
    assert refused(check_host, host, LOOPBACK) == 403


@given(st.text(max_size=40))
def test_no_other_text_passes_for_a_name_of_this_machine(host):
    if refused(check_host, host, LOOPBACK) is None:
        name = host.lower()
        assert name.startswith(("localhost", "127.0.0.1", "[::1]"))


def test_the_address_bound_to_and_names_the_operator_gives_are_served():
    assert refused(check_host, "127.0.0.5:80", allowed_hosts("127.0.0.5")) is None
    assert refused(check_host, "Polyfold.example:443", allowed_hosts("127.0.0.1", ["polyfold.EXAMPLE"])) is None
    assert refused(check_host, "evil.example", allowed_hosts("0.0.0.0", ["polyfold.example"])) == 403
    assert allowed_hosts("0.0.0.0") is None
    assert refused(check_host, "anything.example", None) is None


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize(
    "site, origin, status",
    [
        (None, None, None),
        ("same-origin", "http://localhost:8080", None),
        ("none", None, None),
        (None, "http://localhost:8080", None),
        ("same-origin", "https://public.example", None),  # behind a proxy that changes Host
        ("cross-site", "http://evil.example", 403),
        ("cross-site", None, 403),
        ("same-site", "http://other.localhost", 403),
        ("", None, 403),
        (None, "http://evil.example", 403),
        (None, "http://localhost:9090", 403),
        (None, "null", 403),
    ],
)
def test_only_our_own_page_and_programs_may_ask_for_more_than_to_look(method, site, origin, status):
    assert refused(check_source, method, site, origin, "localhost:8080") == status
    assert refused(check_source, "GET", site, origin, "localhost:8080") is None


def test_an_origin_without_a_host_is_foreign():
    assert refused(check_source, "POST", None, "http://localhost", None) == 403


@pytest.mark.parametrize(
    "kind, status",
    [
        ("application/json", None), ("application/json; charset=utf-8", None), ("Application/JSON ;x", None),
        ("application/octet-stream", None), ("text/plain", 415), ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=application/json", 415), ("text/plain; application/json", 415),
        ("", 415), (None, 415), ("application/json-patch+json", 415),
    ],
)  # fmt: skip
def test_a_body_must_be_of_a_type_that_no_form_can_send(kind, status):
    assert refused(check_body_type, kind) == status
