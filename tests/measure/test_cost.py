import pytest
from pydantic import ValidationError

from polyfold.measure.cost import INSTANCES, CostSpec, cost_of, cost_usd_per_million_documents
from polyfold.measure.report import Speed


def test_a_machine_that_does_a_million_an_hour_costs_its_hour():
    assert cost_usd_per_million_documents(1e6 / 3600, 2.5, utilization=1.0) == pytest.approx(2.5)
    assert cost_usd_per_million_documents(1e6 / 3600, 2.5, utilization=0.5) == pytest.approx(5.0)


@pytest.mark.parametrize("name", INSTANCES)
def test_every_listed_instance_has_a_price_and_says_where_it_comes_from(name):
    cost = CostSpec(instance=name).resolve()
    assert cost.price_per_hour_usd == INSTANCES[name].price_per_hour_usd > 0
    assert "2024" in cost.source


def test_a_given_price_overrides_the_table():
    cost = CostSpec(instance="c7i.large", price_per_hour_usd=0.03).resolve()
    assert (cost.price_per_hour_usd, cost.source) == (0.03, "given in the recipe")


@pytest.mark.parametrize("spec", [{}, {"instance": "c7i.tiny"}, {"price_per_hour_usd": 0}])
def test_a_spec_without_a_price_is_refused(spec):
    with pytest.raises(ValidationError):
        CostSpec(**spec)


def test_real_texts_decide_the_cost_before_the_dense_shape():
    cost = CostSpec(price_per_hour_usd=3.6, utilization=1.0).resolve()
    real, dense = Speed(documents_per_second=1000.0), Speed(documents_per_second=100.0)
    assert cost_of({"real_text": real, "32x128": dense}, cost) == pytest.approx(1.0)
    assert cost_of({"32x128": dense}, cost) == pytest.approx(10.0)
    assert cost_of({"1x128": dense}, cost) is None
