"""Vectors come back to the bit, and only while nothing that they depend on has changed."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import normalizers
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertModel

from topiclora_cli.data.families import mixture
from topiclora_cli.recipe import load_recipe
from topiclora_cli.stages.inputs import open_encoder
from topiclora_cli.topics.encoder import HashEncoder, LmEncoder, SentenceEncoder
from topiclora_cli.topics.vector_cache import WORTH_KEEPING, CachedEncoder

TEXTS = [example.prompt for example in mixture("train", 4, seed=0)]


def lm(folder, **options):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return LmEncoder(model, AutoTokenizer.from_pretrained(folder), "tiny", **options)


def files(folder):
    return sorted(path.name for path in folder.glob("*"))


def hit(encoder, folder, texts=TEXTS) -> bool:
    """Whether `encode` takes what is kept; what it gives is always what the encoder alone gives."""
    calls = []
    watch = encoder.model.get_input_embeddings().register_forward_hook(lambda *_: calls.append(1))
    vectors = CachedEncoder(encoder, folder).encode(texts)
    watch.remove()
    assert torch.equal(vectors, encoder.encode(texts))
    return not calls


@pytest.fixture
def kept(tiny_model_dir, tmp_path):
    """A folder with the vectors of TEXTS by the tiny model."""
    assert not hit(lm(tiny_model_dir), tmp_path / "vectors")
    return tmp_path / "vectors"


def test_the_same_model_read_anew_does_not_run_again(kept, tiny_model_dir):
    assert len(TEXTS) >= WORTH_KEEPING
    assert hit(lm(tiny_model_dir), kept)
    assert len(files(kept)) == 1


@pytest.mark.parametrize("options", [{"layer": 1.0}, {"max_tokens": 9}, {"bf16": True}, {"batch_size": 8}])
def test_other_settings_miss(kept, tiny_model_dir, options):
    assert not hit(lm(tiny_model_dir, **options), kept)
    assert hit(lm(tiny_model_dir), kept)


def test_other_texts_and_another_order_miss(kept, tiny_model_dir):
    encoder = lm(tiny_model_dir)
    assert not hit(encoder, kept, TEXTS[:-1])
    assert not hit(encoder, kept, TEXTS[::-1])
    assert not hit(encoder, kept, [*TEXTS[:-1], "other"])


@pytest.mark.parametrize("where", ["embed_tokens", "layers.0.self_attn.q_proj", "layers.0.input_layernorm"])
def test_one_weight_changed_in_place_misses(kept, tiny_model_dir, where):
    encoder = lm(tiny_model_dir)
    encoder.model.model.get_submodule(where).weight.data.view(-1)[-3] += 1e-6
    assert not hit(encoder, kept)


def test_weights_of_another_order_or_precision_miss(kept, tiny_model_dir):
    encoder = lm(tiny_model_dir)
    embedding = encoder.model.model.embed_tokens.weight
    embedding.data = embedding.data.flip(0)
    assert not hit(encoder, kept)
    embedding.data = embedding.data.flip(0)
    assert hit(encoder, kept)
    assert not hit(LmEncoder(encoder.model.to(torch.bfloat16), encoder.tokenizer, "tiny"), kept)


def test_another_configuration_of_the_same_weights_misses(kept, tiny_model_dir):
    encoder = lm(tiny_model_dir)
    encoder.model.config.rms_norm_eps = 0.5
    for module in encoder.model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 0.5
    assert not hit(encoder, kept)


def test_a_changed_tokenizer_misses(kept, tiny_model_dir):
    encoder = lm(tiny_model_dir)
    encoder.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert not hit(encoder, kept)


@pytest.mark.parametrize("damage", [lambda data: data[:-5], lambda data: b"", lambda data: b"\0" * len(data)])
def test_a_damaged_file_is_made_again(kept, tiny_model_dir, damage):
    (file,) = kept.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    encoder = lm(tiny_model_dir)
    assert not hit(encoder, kept)
    assert hit(encoder, kept)


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tiny_model_dir, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert not hit(lm(tiny_model_dir), tmp_path / "file" / "vectors")


def test_an_emptied_cache_is_filled_again(kept, tiny_model_dir):
    (file,) = kept.iterdir()
    file.unlink()
    kept.rmdir()
    assert not hit(lm(tiny_model_dir), kept)
    assert files(kept) == [file.name]


def test_a_model_with_adapters_in_it_is_not_kept(kept, tiny_model_dir):
    encoder = lm(tiny_model_dir)
    get_peft_model(encoder.model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    assert not hit(encoder, kept)
    assert not hit(encoder, kept)
    assert len(files(kept)) == 1


def test_a_model_of_another_class_with_the_same_weights_is_not_kept(kept, tiny_model_dir):
    encoder = lm(tiny_model_dir)
    parent = type(encoder.model.model.layers[0])
    encoder.model.model.layers[0].__class__ = type("Own", (parent,), {"__module__": "transformers_modules.own"})
    assert not hit(encoder, kept)
    assert len(files(kept)) == 1


def test_few_texts_are_not_worth_a_file(tiny_model_dir, tmp_path):
    encoder = CachedEncoder(lm(tiny_model_dir), tmp_path / "vectors")
    assert encoder.encode(TEXTS[:3]).shape == (3, 32)
    assert encoder.encode([]).shape == (0, 32)
    assert encoder.id == "lm:tiny@1"
    assert not (tmp_path / "vectors").exists()


@pytest.fixture
def sentences(tiny_model_dir, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.save_pretrained(tmp_path / "sentences")
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(tmp_path / "sentences")
    return SentenceEncoder(str(tmp_path / "sentences"))


def test_sentence_encoders_are_kept_too(sentences, tmp_path):
    assert not hit(sentences, tmp_path / "vectors")
    assert hit(sentences, tmp_path / "vectors")
    other = copy.deepcopy(sentences)
    other.model.encoder.layer[0].output.dense.bias.data[0] += 1
    assert not hit(other, tmp_path / "vectors")
    sentences.max_tokens = 4
    assert not hit(sentences, tmp_path / "vectors")


def test_the_recipe_s_encoder_keeps_its_vectors_in_the_cache(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("TOPICLORA_CACHE", str(tmp_path / "cache"))
    assert isinstance(open_encoder(load_recipe(str(tiny_recipe), [])), HashEncoder)
    encoder = open_encoder(load_recipe(str(tiny_recipe), ["graph.encoder=lm"]))
    encoder.encode(TEXTS)
    assert len(files(tmp_path / "cache" / "vectors")) == 1
