"""The file of keys: what is written is read, what is broken changes nothing, and no message quotes it."""

import json
import os
import stat
from datetime import UTC, datetime

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyfold.errors import InputError
from polyfold.serve.access.key_file import KeyFile, read_keys, write_keys
from polyfold.serve.access.keys import Allowance, KeyEntry, Keys, digest_key, new_key

GOOD, OTHER = new_key(), new_key()
BROKEN = {
    "cut": b"keys:\n- name: sh",
    "empty": b"",
    "no YAML": b"keys: [}",
    "no JSON": b'{"keys": [',
    "no UTF-8": b"keys: \xff",
    "unknown field": b"keys: []\nkey: 1\n",
    "a list": b"[1]",
    "too large": b"#" * (2**20 + 1),
    "deep": b"[" * 100_000,
    "hash cut": yaml.safe_dump({"keys": [{"name": "shop", "sha256": "ab"}]}).encode(),
    "a bare date": f"keys:\n- name: a\n  sha256: '{digest_key(GOOD)}'\n  expires: 2030-01-01\n".encode(),
}


def keys_of(*keys):
    return Keys(keys=[KeyEntry(name="shop", sha256=digest_key(key)) for key in keys])


class Watched:
    """A file of keys on a clock of its own, and all that was told."""

    def __init__(self, path, *keys):
        self.path, self.now, self.told = path, 100.0, []
        write_keys(path, keys_of(*keys))
        self.file = KeyFile(path, lambda *said: self.told.append(said), self.now)

    def opens(self, key, after_s=1.0):
        self.now += after_s
        return self.file.current(self.now).find(key) is not None

    @property
    def events(self):
        return [event for _, event, _ in self.told]


@pytest.fixture
def watched(tmp_path):
    return Watched(tmp_path / "keys.yaml", GOOD)


@st.composite
def allowances(draw):
    rates = st.none() | st.floats(0.01, 1e5, allow_subnormal=False)
    counts = st.none() | st.integers(1, 10**9)
    requests, texts = draw(rates), draw(rates)
    return Allowance(
        requests_per_second=requests, burst=requests and draw(counts),
        texts_per_second=texts, burst_texts=texts and draw(counts), texts_per_day=draw(counts),
    )  # fmt: skip


@st.composite
def entries(draw, name):
    roles = draw(st.sets(st.sampled_from(["predict", "admin", "metrics"]), min_size=1))
    expires = draw(st.none() | st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))
    return KeyEntry(
        name=name, sha256=digest_key(new_key()), roles=sorted(roles), allowance=draw(allowances()), expires=expires
    )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.data(), st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True), unique=True, max_size=4)
)
@pytest.mark.parametrize("name", ["keys.yaml", "keys.json"])
def test_what_is_written_is_read_back(tmp_path, name, data, names):
    keys = Keys(keys=[data.draw(entries(one)) for one in names])
    write_keys(tmp_path / name, keys)
    assert read_keys(tmp_path / name) == keys


def test_json_is_written_into_a_json_file(tmp_path):
    write_keys(tmp_path / "keys.json", keys_of(GOOD))
    assert json.loads((tmp_path / "keys.json").read_bytes())["keys"][0]["sha256"] == digest_key(GOOD)


def test_the_file_holds_no_key_and_is_its_owners_alone(tmp_path):
    path = tmp_path / "keys.yaml"
    before = os.umask(0)
    try:
        write_keys(path, keys_of(GOOD))
        assert GOOD.removeprefix("pf_").encode() not in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o640)
        write_keys(path, keys_of(GOOD, OTHER))
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_roots_rewriting_leaves_the_file_to_the_service_that_owns_it(tmp_path):
    path = tmp_path / "keys.yaml"
    write_keys(path, keys_of(GOOD))
    os.chown(path, 1234, 4321)
    write_keys(path, keys_of(GOOD, OTHER))
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


def test_a_key_is_rotated_without_a_restart(watched):
    write_keys(watched.path, keys_of(GOOD, OTHER))
    assert watched.opens(GOOD)
    assert watched.opens(OTHER, after_s=0)
    write_keys(watched.path, keys_of(OTHER))
    assert not watched.opens(GOOD)
    assert watched.opens(OTHER, after_s=0)
    assert watched.events == ["keys_loaded", "keys_loaded"]


def test_the_file_is_looked_at_once_a_second(watched):
    write_keys(watched.path, keys_of(OTHER))
    assert watched.opens(GOOD, after_s=0.999)
    assert not watched.opens(GOOD, after_s=0.002)


def test_a_file_of_the_same_size_and_time_put_in_its_place_is_noticed(watched):
    before = watched.path.stat()
    watched.path.write_bytes(
        watched.path.read_bytes().replace(digest_key(GOOD).encode(), digest_key(OTHER).encode())
    )
    os.utime(watched.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert watched.path.stat().st_size == before.st_size
    assert watched.opens(OTHER)


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_changes_nothing_is_told_once_and_then_recovers(watched, content):
    watched.path.write_bytes(content)
    assert [watched.opens(GOOD) for _ in range(3)] == [True] * 3
    assert watched.file.broken == 1
    assert watched.events == ["keys_broken"]
    assert "1 keys read before stay in force" in watched.told[0][2]
    write_keys(watched.path, keys_of(OTHER))
    assert watched.opens(OTHER)
    assert not watched.opens(GOOD)
    assert watched.events == ["keys_broken", "keys_loaded"]


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_service_does_not_start_with_a_broken_file(tmp_path, content):
    path = tmp_path / "keys.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"keys\.yaml"):
        KeyFile(path, print, 0.0)


def test_a_file_that_goes_away_locks_nobody_out_and_is_read_when_it_is_back(watched):
    aside = watched.path.with_name("aside")
    watched.path.rename(aside)
    assert watched.opens(GOOD)
    assert watched.opens(GOOD)
    assert (watched.file.broken, watched.events) == (1, ["keys_broken"])
    aside.rename(watched.path)
    assert watched.opens(GOOD)
    assert watched.events == ["keys_broken", "keys_loaded"]


def test_what_cannot_be_opened_is_tried_again_each_second(watched, monkeypatch):
    # A limit on open files reached for a moment: the file itself does not change meanwhile.
    write_keys(watched.path, keys_of(OTHER))
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.open", lambda *_: (_ for _ in ()).throw(OSError(24, "Too many open files")))
        assert watched.opens(GOOD)
        assert watched.opens(GOOD)
    assert watched.opens(OTHER)
    assert watched.events == ["keys_broken", "keys_loaded"]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["good", "other", "none", "gone", "cut", "no UTF-8"]), min_size=1, max_size=8))
def test_in_force_are_always_the_keys_of_the_last_good_file(tmp_path, changes):
    watched = Watched(tmp_path / "keys.yaml", GOOD)
    in_force = (True, False)
    for change in changes:
        match change:
            case "gone":
                watched.path.unlink(missing_ok=True)
            case "good" | "other" | "none":
                held = {"good": (GOOD,), "other": (OTHER,), "none": ()}[change]
                write_keys(watched.path, keys_of(*held))
                in_force = (GOOD in held, OTHER in held)
            case _:
                watched.path.write_bytes(BROKEN[change])
        assert (watched.opens(GOOD), watched.opens(OTHER, after_s=0)) == in_force


@pytest.mark.parametrize(
    ("mode", "word"),
    [
        (0o600, None),
        (0o400, None),
        (0o440, None),
        (0o644, "read"),
        (0o660, "give themselves a key"),
        (0o602, "give themselves a key"),
    ],
)
def test_permissions_wider_than_the_owners_are_warned_of(tmp_path, mode, word):
    path = tmp_path / "keys.yaml"
    write_keys(path, keys_of(GOOD))
    path.chmod(mode)
    told = []
    KeyFile(path, lambda *said: told.append(said), 0.0)
    assert [(level, event) for level, event, _ in told] == ([("warning", "keys_exposed")] if word else [])
    assert word is None or word in told[0][2]


def test_permissions_that_widen_while_it_runs_are_warned_of(watched):
    watched.path.chmod(0o644)
    assert watched.opens(GOOD)
    assert "keys_exposed" in watched.events


@pytest.mark.parametrize(
    "content",
    [
        "keys:\n- name: shop\n  sha256: {key}\n",
        "keys:\n- name: shop\n  {key}: 1\n",
        "keys:\n- name: shop\n  sha256: '{key}\n",
        "keys:\n- name: shop\n  expires: {key}\n",
        "keys:\n- name: shop\n  roles: [{key}]\n",
        "keys: *{key}\n",
        "keys: !{key} 1\n",
        "{key}: 1\n",
        "{key}",
        '{{"keys": [{{"{key}": }}]}}',
        '{{"{key}": 1}}',
    ],
)
def test_no_message_quotes_a_key_that_stands_where_it_should_not(tmp_path, content):
    path = tmp_path / "keys.yaml"
    path.write_text(content.format(key=GOOD), encoding="utf8")
    with pytest.raises(InputError) as raised:
        read_keys(path)
    assert GOOD[3:] not in str(raised.value)
