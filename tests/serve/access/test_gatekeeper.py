"""Who comes in, to what, and how often."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyfold.serve.access.gatekeeper import ANONYMOUS, Caller, Gatekeeper, presented_key, role_of
from polyfold.serve.access.key_file import KeyFile, write_keys
from polyfold.serve.access.keys import Allowance, KeyEntry, Keys, digest_key, new_key
from polyfold.serve.refusals import Refusal

ROLES = ("predict", "admin", "metrics")
NOW = 1000.0


def entry(key, name="shop", **more):
    return KeyEntry(name=name, sha256=digest_key(key), **more)


def gatekeeper(tmp_path, *entries, wall=lambda: 0.0):
    write_keys(tmp_path / "keys.yaml", Keys(keys=entries))
    return Gatekeeper(KeyFile(tmp_path / "keys.yaml", lambda *_: None, NOW), wall)


def refused(call, *arguments):
    with pytest.raises(Refusal) as raised:
        call(*arguments)
    return raised.value


def test_without_a_file_of_keys_everyone_may_ask_and_nobody_may_change_models():
    gate = Gatekeeper()
    for key in (None, new_key()):
        assert (
            gate.admit(key, NOW)
            == gate.admit(key, NOW, "metrics")
            == ANONYMOUS
            == Caller("anonymous", admin=False)
        )
        said = refused(gate.admit, key, NOW, "admin")
        assert (said.status, said.code) == (403, "forbidden")
        assert "--keys" in said.hint
    for _ in range(1000):
        gate.spend(ANONYMOUS, 1024, NOW)


@pytest.mark.parametrize("held", ROLES)
@pytest.mark.parametrize("wanted", ROLES)
def test_a_key_opens_what_its_roles_say_and_nothing_else(tmp_path, held, wanted):
    key = new_key()
    gate = gatekeeper(tmp_path, entry(key, roles=(held,)), entry(new_key(), "others", roles=ROLES))
    if held == wanted:
        caller = gate.admit(key, NOW, wanted)
        assert (caller.name, caller.admin) == ("shop", held == "admin")
    else:
        said = refused(gate.admit, key, NOW, wanted)
        assert (said.status, said.code) == (403, "forbidden")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("key", [None, "", "pf_", new_key()], ids=["none", "empty", "cut", "a stranger's"])
def test_without_a_known_key_nothing_opens_and_no_answer_quotes_it(tmp_path, role, key):
    gate = gatekeeper(tmp_path, entry(new_key(), roles=ROLES))
    said = refused(gate.admit, key, NOW, role)
    assert (said.status, said.code) == (401, "unauthorized")
    assert len(key or "") < 10 or key not in f"{said.message} {said.hint}"


def test_metrics_are_open_until_some_key_has_their_role(tmp_path):
    key = new_key()
    assert gatekeeper(tmp_path, entry(key)).admit(None, NOW, "metrics") == ANONYMOUS
    guarded = gatekeeper(tmp_path, entry(key), entry(new_key(), "prometheus", roles=("metrics",)))
    assert refused(guarded.admit, None, NOW, "metrics").status == 401
    assert refused(guarded.admit, key, NOW, "metrics").status == 403


def test_a_key_expires_on_its_date_by_the_wall_clock_alone(tmp_path):
    key, wall = new_key(), [0.0]
    date = datetime(2030, 1, 1, tzinfo=UTC)
    allowance = Allowance(requests_per_second=1, burst=2)
    gate = gatekeeper(tmp_path, entry(key, expires=date, allowance=allowance), wall=lambda: wall[0])
    wall[0] = date.timestamp() - 0.001
    gate.spend(gate.admit(key, NOW), 1, NOW)
    wall[0] = date.timestamp()
    assert "expired" in refused(gate.admit, key, NOW).message
    # The clock is put right: the key works again, and neither jump has filled its bucket.
    wall[0] -= 1e9
    gate.spend(gate.admit(key, NOW), 1, NOW)
    assert refused(gate.spend, gate.admit(key, NOW), 1, NOW).code == "rate_limited"


def test_while_keys_are_rotated_both_open_and_share_one_bucket(tmp_path):
    old, new, allowance = new_key(), new_key(), Allowance(requests_per_second=1, burst=2)
    gate = gatekeeper(tmp_path, entry(old, allowance=allowance), entry(new, allowance=allowance))
    for key in (old, new):
        gate.spend(gate.admit(key, NOW), 1, NOW)
    for key in (old, new):
        said = refused(gate.spend, gate.admit(key, NOW), 1, NOW)
        assert (said.status, said.code) == (429, "rate_limited")
        gate_later = NOW + said.retry_after_s
    gate.spend(gate.admit(new, gate_later), 1, gate_later)


def test_callers_do_not_share_their_buckets(tmp_path):
    keys, allowance = [new_key(), new_key()], Allowance(texts_per_day=5)
    gate = gatekeeper(
        tmp_path, *(entry(key, name, allowance=allowance) for key, name in zip(keys, "ab", strict=True))
    )
    first, second = (gate.admit(key, NOW) for key in keys)
    gate.spend(first, 5, NOW)
    assert refused(gate.spend, first, 1, NOW).code == "quota_exhausted"
    gate.spend(second, 5, NOW)
    gate.give_back(first, 1, NOW)
    gate.spend(first, 1, NOW)


def test_a_revoked_key_is_refused_within_a_second_and_what_was_spent_is_remembered(tmp_path):
    old, new, allowance = new_key(), new_key(), Allowance(texts_per_day=5)
    gate = gatekeeper(tmp_path, entry(old, allowance=allowance))
    gate.spend(gate.admit(old, NOW), 5, NOW)
    write_keys(tmp_path / "keys.yaml", Keys(keys=[entry(new, allowance=allowance)]))
    assert refused(gate.admit, old, NOW + 1).status == 401
    assert refused(gate.spend, gate.admit(new, NOW + 1), 1, NOW + 1).code == "quota_exhausted"
    (tmp_path / "keys.yaml").write_text("broken: [", encoding="utf8")
    assert gate.admit(new, NOW + 2).name == "shop"
    assert gate.broken_reads == 1


@pytest.mark.parametrize(
    "headers, key",
    [
        ([(b"authorization", b"Bearer pf_a")], "pf_a"),
        ([(b"authorization", b"bearer  pf_a ")], "pf_a"),
        ([(b"x-api-key", b"pf_a")], "pf_a"),
        ([(b"x-api-key", b"pf_a"), (b"authorization", b"Bearer pf_b")], "pf_b"),
        ([(b"authorization", b"Bearer pf_b"), (b"x-api-key", b"pf_a")], "pf_b"),
        ([(b"authorization", b"Basic dXNlcg=="), (b"x-api-key", b"pf_a")], "pf_a"),
        ([(b"authorization", b"Basic dXNlcg==")], None),
        ([(b"authorization", b"pf_a")], None),
        ([(b"x-api-key", b"\xff\xfe")], "\xff\xfe"),
        ([(b"cookie", b"x-api-key=pf_a"), (b"host", b"pf_a")], None),
        ([], None),
    ],
)
def test_the_key_is_where_the_headers_have_it(headers, key):
    assert presented_key(headers) == key


@pytest.mark.parametrize(
    "path, role",
    [
        ("/", None), ("/live", None), ("/health", None), ("/docs", None), ("/openapi.json", None),
        ("/static/page.js", None), ("/v2/health/live", None), ("/v2/health/ready", None),
        ("/predict", "predict"), ("/models", "predict"), ("/stats", "predict"), ("/v2", "predict"),
        ("/v2/models/feedback/infer", "predict"), ("/metrics", "metrics"),
        ("/v2/repository/index", "admin"), ("/v2/repository/models/feedback/unload", "admin"),
    ],
)  # fmt: skip
def test_every_path_asks_for_its_role(path, role):
    assert role_of(path) == role


@given(st.text(max_size=30).map(lambda rest: f"/v2/repository{rest}"), st.text(max_size=30))
def test_what_changes_models_always_needs_an_admin_and_what_is_unknown_a_key(repository, path):
    assert role_of(repository) == "admin"
    assert role_of(f"/unknown{path}") == "predict"
    assert role_of(f"//{path}") is not None
    assert role_of(path.strip("/")) is not None
