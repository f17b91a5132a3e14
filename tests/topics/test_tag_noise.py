"""Label noise shuffles topics among prompts, and nothing else."""

from collections import Counter

from topiclora_cli.topics.tag_noise import with_noise

TAGS = [(f"topic {number % 20}",) for number in range(200)] + [()] * 10


def changed(share, seed=0):
    noisy = with_noise(TAGS, share, seed=seed)
    return {place for place, (old, new) in enumerate(zip(TAGS, noisy, strict=True)) if old != new}


def test_no_noise_changes_nothing():
    assert with_noise(TAGS, 0.0, seed=0) == TAGS


def test_topics_come_as_often_as_before_and_untagged_prompts_stay_so():
    for share in (0.25, 0.5, 1.0):
        noisy = with_noise(TAGS, share, seed=0)
        assert Counter(noisy) == Counter(TAGS)
        assert noisy[200:] == [()] * 10
        # One in twenty is dealt tags like its own.
        assert 0.85 * share < len(changed(share)) / 200 <= share


def test_the_same_seed_gives_the_same_noise_and_more_of_it_holds_the_less():
    assert with_noise(TAGS, 0.5, seed=3) == with_noise(TAGS, 0.5, seed=3)
    assert with_noise(TAGS, 0.5, seed=3) != with_noise(TAGS, 0.5, seed=4)
    assert len(changed(0.25) - changed(1.0)) <= 5
