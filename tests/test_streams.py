"""Writing columns: one that is coded is written as its plain twin."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfold.streams import Coded, open_target

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


def written(target, columns, fields):
    joined = {name: "|" for name, kind in fields.items() if pa.types.is_list(kind)}
    with open_target(target, target.suffix[1:], pa.schema(fields), joined) as write:
        # Twice, since a file is appended to.
        write(columns)
        write(columns)
    return target.read_bytes()


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@settings(max_examples=25, deadline=None)
@given(
    st.lists(NAMES, min_size=1, max_size=4),
    st.lists(st.lists(NAMES, max_size=3), min_size=1, max_size=4),
    st.data(),
)
def test_a_coded_column_is_written_as_its_rows_are(suffix, names, lists, data):
    count = data.draw(st.integers(0, 20))
    columns, coded = {}, {}
    for name, values in (("one", names), ("some", [tuple(one) for one in lists])):
        codes = data.draw(st.lists(st.integers(0, len(values) - 1), min_size=count, max_size=count))
        columns[name] = [values[code] for code in codes]
        coded[name] = Coded(values, np.asarray(codes, np.int64))
    fields = {"one": pa.string(), "some": pa.list_(pa.string())}
    with TemporaryDirectory() as folder:
        plain, other = Path(folder) / f"plain{suffix}", Path(folder) / f"coded{suffix}"
        assert written(other, coded, fields) == written(plain, columns, fields)


def test_truth_in_a_csv_is_jsons(tmp_path):
    found = written(tmp_path / "out.csv", {"cut": np.asarray([True, False])}, {"cut": pa.bool_()})
    assert found == b"cut\n" + 2 * b"true\nfalse\n"
