import pytest
from toy_run import make_documents, make_report


@pytest.fixture(scope="session")
def documents():
    return make_documents(1200, seed=0)


@pytest.fixture(scope="session")
def toy_report(documents):
    return make_report(documents)
