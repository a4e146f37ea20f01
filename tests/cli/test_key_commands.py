"""`polyfold key`: a key is printed once and opens what it was made for until it is revoked."""

import re
import stat
import time

import pytest

from polyfold.serve.access.gatekeeper import Gatekeeper
from polyfold.serve.access.key_file import read_keys
from polyfold.serve.access.keys import Allowance
from polyfold.serve.refusals import Refusal


@pytest.fixture
def keys(tmp_path, polyfold):
    """`polyfold key COMMAND FILE ...` on one file, which must succeed; its standard output."""

    def call(command, *arguments):
        code, out, err = polyfold("key", command, tmp_path / "keys.yaml", *arguments)
        assert code == 0, err
        return out

    return call


def admitted(tmp_path, key, role="predict"):
    now = time.monotonic()
    return Gatekeeper.open(tmp_path / "keys.yaml", lambda *_: None).admit(key, now, role)


def test_a_new_key_is_all_of_standard_output_and_opens_what_it_was_made_for(tmp_path, keys):
    printed = keys("new", "ops", "--role", "admin", "--role", "metrics")
    assert re.fullmatch(r"pf_[\w-]{43}\n", printed)
    key = printed.strip()
    assert admitted(tmp_path, key, "admin").name == "ops"
    assert admitted(tmp_path, key, "metrics").admin
    with pytest.raises(Refusal, match="predict"):
        admitted(tmp_path, key)
    assert key not in (tmp_path / "keys.yaml").read_text(encoding="utf8")
    assert stat.S_IMODE((tmp_path / "keys.yaml").stat().st_mode) == 0o600


def test_a_further_key_of_a_caller_has_its_limits_and_roles(tmp_path, keys):
    keys(
        "new",
        "shop",
        "--requests-per-second",
        "50",
        "--burst",
        "100",
        "--texts-per-day",
        "1000",
        "--role",
        "metrics",
    )
    keys("new", "shop", "--expires-days", "90")
    first, second = read_keys(tmp_path / "keys.yaml").keys
    assert first.allowance == second.allowance == Allowance(requests_per_second=50, burst=100, texts_per_day=1000)
    assert first.roles == second.roles == ("metrics",)
    assert first.expires is None
    assert 89.9 < (second.expires.timestamp() - time.time()) / 86_400 < 90


def test_one_key_of_a_caller_or_all_are_revoked(tmp_path, keys):
    old, new, other = (keys("new", name).strip() for name in ("shop", "shop", "other"))
    key_id = read_keys(tmp_path / "keys.yaml").keys[0].id
    keys("revoke", "shop", "--id", key_id)
    with pytest.raises(Refusal, match="not known"):
        admitted(tmp_path, old)
    assert admitted(tmp_path, new).name == "shop"
    keys("revoke", "shop")
    with pytest.raises(Refusal, match="not known"):
        admitted(tmp_path, new)
    assert admitted(tmp_path, other).name == "other"


def test_the_list_says_whose_which_and_until_when(tmp_path, keys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    keys("new", "shop", "--texts-per-second", "500")
    keys("new", "ops", "--role", "admin", "--expires-days", "0")
    shop, ops = keys("list").splitlines()[1:]
    ids = [entry.id for entry in read_keys(tmp_path / "keys.yaml").keys]
    assert shop.split() == ["shop", ids[0], "predict", "texts_per_second", "500", "never"]
    assert ops.split()[:4] == ["ops", ids[1], "admin", "-"]
    assert ops.rstrip().endswith("UTC (expired)")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["new", "FILE", "shop", "--role", "root"], "'roles.0'"),
        (["new", "FILE", "two words"], "'name'"),
        (["new", "FILE", "shop", "--burst", "3"], "requests_per_second"),
        (["new", "FILE", "shop", "--requests-per-second", "7"], "allowances differ"),
        (["revoke", "FILE", "stranger"], "no such key"),
        (["revoke", "FILE", "shop", "--id", "00000000"], "no such key"),
        (["list", "MISSING"], "cannot be read"),
    ],
)
def test_a_mistake_is_one_message_and_changes_nothing(tmp_path, polyfold, keys, arguments, said):
    keys("new", "shop", "--requests-per-second", "5")
    before = (tmp_path / "keys.yaml").read_bytes()
    places = {"FILE": str(tmp_path / "keys.yaml"), "MISSING": str(tmp_path / "missing.yaml")}
    code, out, err = polyfold("key", *(places.get(word, word) for word in arguments))
    assert (code, out) == (2, "")
    assert err.count("error:") == 1
    assert said in err
    assert (tmp_path / "keys.yaml").read_bytes() == before


@pytest.mark.parametrize("command", ["new", "list", "revoke"])
def test_help_shows_an_example(polyfold, command):
    code, out, _ = polyfold("key", command, "--help")
    assert code == 0
    assert f"Example: polyfold key {command}" in out
