"""The projector: a ridge regression with a kernel over topics, against the plain formulas it stands for."""

from dataclasses import replace

import pytest
import torch

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.topics.encoder import HashEncoder
from topiclora_cli.topics.projector import (
    TEXT_WEIGHT,
    Prompts,
    TrainingPairs,
    fit_projector,
    gather_training_pairs,
    scores,
)

ENCODER = HashEncoder(64)
TEXTS = ["add 3 and 4", "rhyme on snow", "nothing in particular", "solve x + 2 = 5"]
TAGS = [["sums"], ["poems", "a stranger"], ["unheard of"], ["algebra", "sums"]]


def pairs(rows, generator, width=12, topics=5):
    x = torch.randn(rows, width, generator=generator)
    targets = torch.rand(rows, topics, generator=generator) < 0.4
    weight = torch.rand(rows, generator=generator)
    chosen = [tuple(row.nonzero().flatten().tolist()) for row in targets]
    return TrainingPairs(x, chosen, weight / weight.sum(), torch.zeros(width), torch.ones(width), topics)


def taught(small, tags=TAGS):
    prompts = Prompts(ENCODER.encode(TEXTS), tags)
    return gather_training_pairs(small, ENCODER.encode(small.texts), ENCODER.encode(small.task_texts), prompts)


@pytest.mark.parametrize("rows", [7, 40])
def test_ridge_meets_its_normal_equations(rows, generator):
    given = pairs(rows, generator)
    found = fit_projector(given, ridge=0.3)
    x, weight = given.x.double(), given.weight.double()[:, None]
    targets = given.targets.to_dense()
    bias = (weight * targets).sum(0)
    residual = x @ found.weight.double() - (targets - bias)
    assert (x.T @ (weight * residual) + 0.3 * found.weight.double()).abs().max() < 1e-6
    torch.testing.assert_close(found.bias, bias.float())


@pytest.mark.parametrize("rows", [7, 40])
@pytest.mark.parametrize("width", [2, 9])
def test_the_kernel_over_topics_is_that_of_the_whole_linear_system(rows, width, generator):
    """One system over all pairs of feature and topic, solved without any of the shortcuts."""
    given = pairs(rows, generator)
    z = torch.nn.functional.normalize(torch.randn(5, width, generator=generator), dim=1)
    found = fit_projector(given, ridge=0.3, nearness=z, share=0.6)
    x, weight = given.x.double(), given.weight.double()[:, None]
    kernel = 0.4 * torch.eye(5, dtype=torch.float64) + 0.6 * (z @ z.T).double()
    gram = x.T @ (weight * x)
    targets = given.targets.to_dense()
    wanted = x.T @ (weight * (targets - (weight * targets).sum(0)))
    inverse = torch.linalg.inv(kernel).contiguous()
    system = torch.kron(gram.contiguous(), torch.eye(5).double()) + 0.3 * torch.kron(torch.eye(12).double(), inverse)
    whole = torch.linalg.solve(system, wanted.flatten()).reshape(12, 5)
    torch.testing.assert_close(found.weight.double(), whole, atol=1e-6, rtol=1e-4)


def test_a_topic_without_prompts_learns_from_its_neighbour(generator):
    """Topic 0 has all the prompts; topic 1 points the same way in the graph, topic 2 does not."""
    topic = torch.randint(0, 2, (80,), generator=generator)
    x = torch.randn(80, 6, generator=generator)
    x[:, 0] = 2.0 * topic - 1
    topics = [(0,) if on else () for on in topic.tolist()]
    given = TrainingPairs(x, topics, torch.full((80,), 1 / 80), torch.zeros(6), torch.ones(6), 3)
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    told = scores(fit_projector(given, nearness=z), x)
    gap = told[topic == 1].mean(0) - told[topic == 0].mean(0)
    assert gap[1] > 0.02
    assert abs(gap[2]) < 1e-6
    alone = scores(fit_projector(given), x)
    assert (alone[:, 1:].amax(0) - alone[:, 1:].amin(0)).max() < 1e-6


def test_lessons_are_prompts_then_tasks_then_descriptions(small):
    given = taught(small)
    assert given.prompts == 3
    assert given.targets.shape == (3 + 12 + 6, 6)
    assert given.topics[:4] == [(0,), (3,), (0, 1), (0, 1)]
    assert given.topics[-6:] == [(0,), (1,), (2,), (3,), (4,), (5,)]
    assert given.prompt_targets.tolist() == [[1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0], [1, 1, 0, 0, 0, 0]]
    assert torch.equal(given.targets.to_dense()[:3].float(), given.prompt_targets)
    assert float(given.weight.sum()) == pytest.approx(1)
    assert float(given.weight[3:15].sum() / given.weight[:3].sum()) == pytest.approx(TEXT_WEIGHT)
    vectors = ENCODER.encode(TEXTS)  # an untagged prompt, too, tells where prompts lie
    torch.testing.assert_close(given.mean, vectors.mean(0))
    torch.testing.assert_close(given.x[0], (vectors[0] - given.mean) / given.scale)
    rest = given.without(torch.tensor([1, 4]))
    assert rest.prompts == 2
    assert rest.topics == [given.topics[row] for row in (0, 2, 3, *range(5, 21))]
    assert torch.equal(rest.x, given.x[[0, 2, 3, *range(5, 21)]])


def test_without_tags_prompts_only_tell_where_prompts_lie(small):
    given = taught(small, tags=None)
    assert given.prompts == 0
    assert len(given.x) == 12 + 6
    torch.testing.assert_close(given.mean, ENCODER.encode(TEXTS).mean(0))
    assert torch.isfinite(fit_projector(given).weight).all()


def test_a_taxonomy_alone_is_enough(small):
    alone = gather_training_pairs(replace(small, tasks={}), ENCODER.encode(small.texts), ENCODER.encode([]))
    found = fit_projector(alone)
    told = (ENCODER.encode(small.texts) - found.mean) / found.scale @ found.weight + found.bias
    assert told.argmax(1).tolist() == list(range(6))


def test_a_constant_feature_does_no_harm(small):
    vectors = ENCODER.encode(small.texts)
    vectors[:, 1] = 7
    found = fit_projector(gather_training_pairs(small, vectors))
    assert torch.isfinite(found.weight).all()
    assert (found.weight[1].abs() < 1e-6).all()


@pytest.mark.parametrize(
    ("shape", "tags", "message"),
    [
        ((4, 63), None, "needed: 2 rows or more of 64"),
        ((1, 64), None, "needed"),
        ((4, 64), [["sums"]] * 3, "3 tag lists for 4 prompts"),
        ((4, 64), [["unheard of"]] * 4, "Fewer than 2 prompts"),
    ],
)
def test_bad_prompts_are_refused(small, shape, tags, message):
    with pytest.raises(TopicLoraError, match=message):
        gather_training_pairs(small, ENCODER.encode(small.texts), prompts=Prompts(torch.zeros(shape), tags))


def test_task_names_of_another_taxonomy_are_refused(small):
    with pytest.raises(TopicLoraError, match=r"\(3, 64\); needed: \(12, 64\)"):
        gather_training_pairs(small, ENCODER.encode(small.texts), torch.zeros(3, 64))
