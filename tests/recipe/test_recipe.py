"""Recipes: what is read, what is refused and in which words."""

import pytest
import yaml

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe, bundled_recipes, dump_recipe, load_recipe


def write(tmp_path, **values):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({"name": "r", "model": {"name": "m"}, **values}))
    return str(path)


def test_every_bundled_recipe_is_valid_and_says_how_to_run_it():
    assert "quickstart" in bundled_recipes()
    for name, path in bundled_recipes().items():
        assert load_recipe(name).name == name
        assert path.read_text().startswith("# topiclora ")


def test_resolved_recipe_round_trips(tmp_path):
    recipe = load_recipe(write(tmp_path, adapter={"r": 4}))
    assert recipe.adapter.lora_alpha == 64  # twice the rank of the plain LoRA of the same size, 8 x 4
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(str(tmp_path / "again.yaml")) == recipe


def test_overrides_are_typed(tmp_path):
    changes = ["train.learning_rate=1e-4", "eval.tasks=[a,b]", "adapter.top_k=null", "graph.gnn=none", "seed=3"]
    recipe = load_recipe(write(tmp_path), changes)
    assert recipe.train.learning_rate == 1e-4
    assert recipe.eval.tasks == ["a", "b"]
    assert recipe.adapter.top_k is None
    assert recipe.graph.gnn == "none"
    assert recipe.seed == 3


def test_what_is_quoted_is_text_and_numbers_are_numbers(tmp_path):
    texts = ["20220301", "1e5", "123e45", "true", "null", "2024-05-01", "1.e3"]
    for text in texts:
        recipe = load_recipe(write(tmp_path), [f'model.revision="{text}"'])
        assert recipe.model.revision == text
        (tmp_path / "resolved.yaml").write_text(dump_recipe(recipe))
        assert load_recipe(str(tmp_path / "resolved.yaml")) == recipe
    assert load_recipe(write(tmp_path), ["model.revision=12e4567"]).model.revision == "12e4567"
    assert load_recipe(write(tmp_path), ["train.max_steps=1e3", "train.learning_rate=1E-4"]).train.max_steps == 1000
    assert load_recipe(write(tmp_path), [("eval.include_path", "tasks #2")]).eval.include_path == "tasks #2"
    with pytest.raises(TopicLoraError, match=r"model.revision: .*If it is text, quote it"):
        load_recipe(write(tmp_path), ["model.revision=20220301"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["train.lr_scheduler=cosin"], "train.lr_scheduler: unknown schedule; known: linear, .*'cosine'"),
        (["adapter.num_expert=4"], r"r\.yaml: unknown key 'adapter.num_expert'.*Did you mean 'num_experts'"),
        (["lss.kl_weight=4"], "unknown key 'lss'.*'loss'"),
        (["train.batch_size=0"], "train.batch_size: .*greater than or equal to 1.*given: 0"),
        (["adapter.top_k=9"], r"top_k \(9\) cannot exceed num_experts \(8\)"),
        (["graph.gnn=gnc"], "graph.gnn: .*'gcn'"),
        (["data.source=x.jsonl", "data.prompt=Q"], "data: prompt and completion belong together"),
        (["name=a/b"], "name: "),
        (["model.upcycle.expert=4"], "unknown key 'model.upcycle.expert'.*'experts'"),
        (["model.upcycle={experts: 2, top_k: 3}"], r"model.upcycle: top_k \(3\) cannot exceed experts \(2\)"),
        (["model.upcycle.noise=-1"], "model.upcycle.noise: .*greater than or equal to 0"),
        (
            ["adapter.method=loramoe", "loss.local_balance.delta=0.1"],
            "local_balance.delta goes by examples' topic priors, and this recipe trains loramoe without",
        ),
        (['adapter.target_modules="["'], r"adapter\.target_modules: neither a role nor a regular expression"),
        (["adapter.exclude_modules=["], "is not a YAML value"),
        (["adapter.target_modules=[]"], r"adapter\.target_modules: empty"),
        (["adapter.target_modules=5"], r"adapter\.target_modules: Input should be a valid string \(given: 5\)"),
        (["adapter.layers_to_transform=[-1]"], r"adapter\.layers_to_transform\.0: .*greater than or equal to 0"),
        (["adapter.top_k=yes"], r"adapter\.top_k: true and false are no value of this key \(given: True\)"),
        (["train.learning_rate=on"], r"train\.learning_rate: true and false are no value"),
        (["data.prompt={{q}}"], "is not a YAML value .*If it is text, quote it"),
        (["loss.kl.weight=.inf"], "loss.kl.weight: .*finite number"),
        (["eval.metrics=acc"], r"eval\.metrics: Input should be a valid list \(given: 'acc'\)"),
        (["ablation.cells={../x: {}}"], r"ablation\.cells\.\.\./x"),
        (["ablation.cells={full: {loss.kl.weight: 1}}"], "ablation: full is the recipe itself"),
        (["ablation.seeds=[0,0]"], "ablation: seeds has one twice"),
        (["ablation.seeds=[]"], "ablation.seeds: .*at least 1 item"),
        (["ablation.seeds=[-1]"], r"ablation\.seeds\.0: .*greater than or equal to 0"),
        (["novalue"], "not of the form key=value"),
        (["name.x=1"], "'name' is a value, not a section"),
    ],
)
def test_mistakes_name_file_key_and_fix(tmp_path, changes, message):
    with pytest.raises(TopicLoraError, match=message):
        load_recipe(write(tmp_path), changes)


def test_a_section_that_is_null_can_be_filled_key_by_key(tmp_path):
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_recipe(load_recipe(write(tmp_path))))
    assert load_recipe(str(resolved)).model.upcycle is None
    assert load_recipe(str(resolved), ["model.upcycle.experts=6"]).model.upcycle.experts == 6


def test_missing_broken_and_incomplete_files(tmp_path):
    with pytest.raises(TopicLoraError, match="Did you mean 'quickstart'"):
        load_recipe("quikstart")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(TopicLoraError, match="not valid YAML"):
        load_recipe(str(tmp_path / "bad.yaml"))
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(TopicLoraError, match="must be a mapping"):
        load_recipe(str(tmp_path / "list.yaml"))
    (tmp_path / "short.yaml").write_text("name: x")
    with pytest.raises(TopicLoraError, match="'model' is missing"):
        load_recipe(str(tmp_path / "short.yaml"))


def test_recipes_are_immutable():
    with pytest.raises(ValueError, match="frozen"):
        load_recipe("quickstart").seed = 5  # type: ignore[misc]


def test_defaults_need_only_a_name_and_a_model():
    assert Recipe(name="x", model={"name": "m"}).adapter.num_experts == 8
