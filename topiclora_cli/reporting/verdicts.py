"""A word beside a number, for whoever sees such a number for the first time: good, fair or weak."""

from topiclora_cli.runs.results.graph import GraphReport

# From which value on a number is good, and fair. Modularity from 0.3 on is taken for a structure of communities (Newman
# and Girvan 2004); AUC is 0.5 by chance; the angle counts as a part of the widest that so many vectors can have.
MODULARITY = (0.3, 0.15)
AUC = (0.75, 0.6)
ANGLE = (0.8, 0.5)
AGREEMENT = (0.95, 0.85)  # of an export with the routed model, in the likeliest token
IN_USE = (0.5, 0.25)  # experts in use over all layers, as a part of all


def verdict(value: float, levels: tuple[float, float]) -> str:
    """good, fair or weak, by the values from which on a number is good and fair."""
    good, fair = levels
    return "good" if value >= good else "fair" if value >= fair else "weak"


def graph_verdicts(report: GraphReport) -> dict[str, str]:
    """The word for each number of a graph that has one, by the number's name on its page."""
    words = {
        "modularity": verdict(report.assignment.modularity, MODULARITY),
        "angle": verdict(report.separation.min_angle / report.separation.simplex_angle, ANGLE),
        "without": "good" if not report.dead_experts else "weak",
    }
    if report.shape:
        words["isolated"] = "good" if not report.shape.isolated else "fair"
    if report.links:
        words["auc"] = verdict(report.links.auc, AUC)
    if told := report.attribution:
        frequency = told.frequency or 0.0
        words["seen"] = "good" if told.seen > 2 * frequency else "fair" if told.seen > frequency else "weak"
        if told.unseen is not None:
            words["unseen"] = "good" if told.unseen > max(told.no_graph or 0.0, frequency) else "weak"
    return words
