"""Stages 1 and 2: from a taxonomy of topics to expert vectors, and from a prompt to a prior over experts.

Names load what they need when first used: reading a saved graph must not import torch_geometric.
"""

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "Taxonomy": "taxonomy",
    "Topic": "taxonomy",
    "load_taxonomy": "taxonomy",
    "Encoder": "encoder",
    "HashEncoder": "encoder",
    "LmEncoder": "encoder",
    "SentenceEncoder": "encoder",
    "make_encoder": "encoder",
    "fit_topic_graph": "fit",
    "GraphSettings": "settings",
    "induce_taxonomy": "induce",
    "Prompts": "projector",
    "gather_training_pairs": "projector",
    "fit_projector": "projector",
    "PriorBatch": "prior",
    "TopicPrior": "prior",
    "prior_from_embeddings": "prior",
    "prior_from_tags": "prior",
    "TopicGraph": "store",
    "assignment_report": "experts",
    "separation_report": "experts",
    "link_report": "validate",
    "graph_report": "graph_report",
    "write_graphml": "graphml",
}

if TYPE_CHECKING:
    from topiclora_cli.topics.encoder import Encoder, HashEncoder, LmEncoder, SentenceEncoder, make_encoder
    from topiclora_cli.topics.experts import assignment_report, separation_report
    from topiclora_cli.topics.fit import fit_topic_graph
    from topiclora_cli.topics.graph_report import graph_report
    from topiclora_cli.topics.graphml import write_graphml
    from topiclora_cli.topics.induce import induce_taxonomy
    from topiclora_cli.topics.prior import PriorBatch, TopicPrior, prior_from_embeddings, prior_from_tags
    from topiclora_cli.topics.projector import Prompts, fit_projector, gather_training_pairs
    from topiclora_cli.topics.settings import GraphSettings
    from topiclora_cli.topics.store import TopicGraph
    from topiclora_cli.topics.taxonomy import Taxonomy, Topic, load_taxonomy
    from topiclora_cli.topics.validate import link_report

__all__ = [
    "Encoder",
    "GraphSettings",
    "HashEncoder",
    "LmEncoder",
    "PriorBatch",
    "Prompts",
    "SentenceEncoder",
    "Taxonomy",
    "Topic",
    "TopicGraph",
    "TopicPrior",
    "assignment_report",
    "fit_projector",
    "fit_topic_graph",
    "gather_training_pairs",
    "graph_report",
    "induce_taxonomy",
    "link_report",
    "load_taxonomy",
    "make_encoder",
    "prior_from_embeddings",
    "prior_from_tags",
    "separation_report",
    "write_graphml",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
