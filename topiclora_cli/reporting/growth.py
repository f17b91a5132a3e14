"""What came of adding a topic to a trained run, as a table."""

from topiclora_cli.reporting.table import Table, facts
from topiclora_cli.runs.results.record import AddedTopic


def added_table(added: AddedTopic) -> Table:
    """The new topic in the graph, in the prior and in the routers."""
    others = f"{added.rehearsed} old examples" if added.rehearsed else "the topics' descriptions"
    tokens = f"{100 * added.chosen_new:.1f}, {100 * added.chosen_old:.2f}"
    return facts(
        f"Added: {added.topic}",
        [
            ("nearest topics", added.nearest),
            ("expert, numbers trained", f"{added.expert}, {added.trained:,}"),
            (f"mean score on its prompts, on {others}", f"{added.relevance_own:.2f}, {added.relevance_others:.2f}"),
            ("moved of old prompts' prior, %", f"{100 * added.prior_moved:.1f}"),
            ("chosen for tokens of new, of old prompts, %", tokens),
            ("routers that leave it off", f"{added.silent} of {added.routers}"),
        ],
    )
