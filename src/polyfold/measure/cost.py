"""What a million documents cost on a rented machine."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, model_validator

from polyfold.measure.report import Cost, Speed, SpeedKey


@dataclass(frozen=True)
class Instance:
    """One machine for rent: its virtual cores, its accelerator, and its price on demand."""

    price_per_hour_usd: float
    virtual_cores: int
    accelerator: str | None
    provider: str


# List prices on demand of 2024, Linux: AWS us-east-1, Google Cloud us-central1, Azure East US. Prices move and
# differ by region: a recipe's `price_per_hour_usd` overrides them.
PRICE_SOURCE = "list price on demand, 2024"
INSTANCES: Mapping[str, Instance] = {
    "m7i.large": Instance(0.1008, 2, None, "AWS"),
    "c6i.xlarge": Instance(0.17, 4, None, "AWS"),
    "c7i.large": Instance(0.08925, 2, None, "AWS"),
    "c7i.xlarge": Instance(0.1785, 4, None, "AWS"),
    "c7i.2xlarge": Instance(0.357, 8, None, "AWS"),
    "c7i.4xlarge": Instance(0.714, 16, None, "AWS"),
    "n2-standard-4": Instance(0.1942, 4, None, "Google Cloud"),
    "F4s_v2": Instance(0.169, 4, None, "Azure"),
    "g4dn.xlarge": Instance(0.526, 4, "NVIDIA T4", "AWS"),
    "g6.xlarge": Instance(0.8048, 4, "NVIDIA L4", "AWS"),
    "g5.xlarge": Instance(1.006, 4, "NVIDIA A10G", "AWS"),
}


class CostSpec(BaseModel):
    """The machine whose price is charged: a known `instance`, or any `price_per_hour_usd`.

    `utilization` is the share of a paid hour in which documents arrive at the measured throughput. The figure is
    honest only if the measuring machine resembles the priced one; the report names both.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    instance: str | None = None
    price_per_hour_usd: float | None = Field(default=None, gt=0.0)
    utilization: float = Field(default=0.5, gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _priced(self) -> "CostSpec":
        if self.price_per_hour_usd is None and self.instance not in INSTANCES:
            raise ValueError(
                f"no price for instance {self.instance!r}: give price_per_hour_usd, "
                f"or one of {', '.join(INSTANCES)}"
            )
        return self

    def resolve(self) -> Cost:
        """The price to charge and where it comes from."""
        if self.price_per_hour_usd is not None:
            return Cost(
                instance=self.instance,
                price_per_hour_usd=self.price_per_hour_usd,
                utilization=self.utilization,
                source="given in the recipe",
            )
        assert self.instance is not None, "the validator lets no unpriced spec pass"
        found = INSTANCES[self.instance]
        return Cost(
            instance=self.instance,
            price_per_hour_usd=found.price_per_hour_usd,
            utilization=self.utilization,
            source=f"{found.provider}, {PRICE_SOURCE}",
        )


def cost_usd_per_million_documents(
    documents_per_second: float, price_per_hour_usd: float, utilization: float
) -> float:
    """Hours of a machine that is busy `utilization` of its time, times its price."""
    return 1e6 / (documents_per_second * utilization * 3600.0) * price_per_hour_usd


def cost_of(speed: Mapping[SpeedKey, Speed], cost: Cost) -> float | None:
    """Cost of a million documents at the throughput on real texts, or else on dense 32 x 128."""
    measured = speed.get("real_text") or speed.get("32x128")
    if measured is None:
        return None
    return cost_usd_per_million_documents(measured.documents_per_second, cost.price_per_hour_usd, cost.utilization)
