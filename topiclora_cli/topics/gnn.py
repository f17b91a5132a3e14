"""From text features to topic vectors: each topic looks at its neighbours in the graph.

A linear map, then a few graph convolutions, each added to what came before (residual), then every row to unit length.
`none` skips the convolutions: the ablation that asks what the graph's message passing is worth.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import GATv2Conv, GCNConv, SAGEConv
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.topics.sparse import DENSE, product, symmetric

GnnKind = Literal["gcn", "sage", "gatv2", "none"]


class TopicEncoder(nn.Module):
    """Features x (T, in_dim) and edges -> unit-length topic vectors z (T, width).

    H0 = X W; H(l+1) = relu(conv(H(l))) + H(l); Z = rows of the last H at length 1. Convolutions: GCN (Kipf and Welling,
    arXiv 1609.02907), GraphSAGE (arXiv 1706.02216; sees edges, not their weights), GATv2 (arXiv 2105.14491; weights as
    edge features). Beyond DENSE topics GCN and GraphSAGE are products with a sparse matrix, the same but for rounding,
    which takes edges in both directions. Raises TopicLoraError for another kind.
    """

    def __init__(self, kind: GnnKind, in_dim: int, width: int = 256, layers: int = 2) -> None:
        super().__init__()
        self.kind = kind
        self.project = nn.Linear(in_dim, width, bias=False)
        make = {
            "gcn": lambda: GCNConv(width, width),
            "sage": lambda: SAGEConv(width, width),
            "gatv2": lambda: GATv2Conv(width, width, edge_dim=1),
        }
        if kind not in ("none", *make):
            raise TopicLoraError(f"Unknown GNN '{kind}'.", "Use gcn, sage, gatv2 or none.")
        self.convs = nn.ModuleList(make[kind]() for _ in range(layers if kind != "none" else 0))
        self._known: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        hidden = self.project(x)
        extra = {"gcn": (edge_weight,), "gatv2": (edge_weight[:, None],)}.get(self.kind, ())
        matrix = None
        if len(x) > DENSE and self.kind in ("gcn", "sage"):
            matrix = self._matrix(edge_index, edge_weight, len(x))
        for conv in self.convs:
            if matrix is None:
                found = conv(hidden, edge_index, *extra)
            elif isinstance(conv, GCNConv):
                found = product(matrix, conv.lin(hidden)) + conv.bias
            else:
                assert isinstance(conv, SAGEConv)
                degree = matrix.crow_indices().diff().clamp_min(1)[:, None]
                found = conv.lin_l(product(matrix, hidden) / degree) + conv.lin_r(hidden)
            hidden = torch.relu(found) + hidden
        return F.normalize(hidden, dim=1)

    def _matrix(self, edge_index: Tensor, edge_weight: Tensor, count: int) -> Tensor:
        """The matrix that spreads hidden states along edges; made once, as training sees one graph all along."""
        if self._known is None or self._known[0] is not edge_index or self._known[1] is not edge_weight:
            if self.kind == "gcn":
                looped, scaled = gcn_norm(edge_index, edge_weight, count)
                matrix = symmetric(looped, scaled, count)
            else:
                matrix = symmetric(edge_index, torch.ones_like(edge_weight), count)
            self._known = (edge_index, edge_weight, matrix)
        return self._known[2]
