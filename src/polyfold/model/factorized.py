"""A token table as a product of two matrices: [vocab, rank] looked up, then [rank, hidden] applied.

Almost all of a small cross-lingual model is its table, and a table needs fewer directions than it has columns
(Lan et al., "ALBERT", 2020, section 3.1, trains one so; here it is split off a trained table).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

# Rows of a table that are doubled in precision at a time: a whole one of 250,000 x 768 would need 1.5 GB.
_ROWS_AT_ONCE = 16_384


class FactorizedEmbedding(nn.Module):
    """Token embeddings through a narrow table; what quantizing, trimming and counting look at is `table`."""

    def __init__(self, vocab: int, rank: int, width: int, padding_idx: int | None = None) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab, rank, padding_idx=padding_idx)
        self.projection = nn.Linear(rank, width, bias=False)

    def forward(self, input_ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq hidden"]:
        """The rows of the product."""
        projected: Tensor = self.projection(self.table(input_ids))
        return projected


@torch.no_grad()
def principal_directions(
    table: Float[Tensor, "vocab rank"],
    projection: Float[Tensor, "hidden rank"] | None,
    piece_weights: Float[Tensor, "vocab"] | None,
) -> Float[Tensor, "hidden units"]:
    """Orthonormal directions of the embeddings, the strongest first, in double precision.

    Projecting on the first r of them gives the best table of rank r in squared error (Eckart and Young, 1936). A
    row weighs one more than its piece occurs, because most rows of a multilingual vocabulary are rare. A table
    that is factorized already is taken as its product with the `projection`.
    """
    rank = table.shape[1]
    moment = torch.zeros(rank, rank, dtype=torch.float64, device=table.device)
    for start in range(0, len(table), _ROWS_AT_ONCE):
        rows = table[start : start + _ROWS_AT_ONCE].double()
        weighed = rows
        if piece_weights is not None:
            weighed = rows * (piece_weights[start : start + len(rows), None].to(rows) + 1.0)
        moment += weighed.T @ rows
    if projection is not None:
        wide = projection.double()
        moment = wide @ moment @ wide.T
    _, directions = torch.linalg.eigh((moment + moment.T) / 2)
    return directions.flip(1)[:, : min(*table.shape, len(moment))]
