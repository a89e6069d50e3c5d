"""LLaMA-Factory's loader and converter on our export with its dataset_info, and its reward client."""

from __future__ import annotations

from types import SimpleNamespace

from llamafactory.data.loader import _load_single_dataset
from llamafactory.data.parser import get_dataset_list
from llamafactory.hparams import DataArguments
from llamafactory.train.ppo.ppo_utils import get_rewards_from_server
from transformers import AutoTokenizer

from tests.peers.common import MODEL, WORK, close, done, export, served, wanted

file = export("llamafactory", "llamafactory.json" if False else "llamafactory.jsonl")
arguments = DataArguments(dataset=file.stem, dataset_dir=str(WORK))
(attributes,) = get_dataset_list([file.stem], str(WORK))
model = SimpleNamespace(cache_dir=None, hf_hub_token=None, trust_remote_code=False)
read = _load_single_dataset(attributes, model, arguments, SimpleNamespace(local_process_index=0))
rows = sum(1 for _ in file.open())
assert len(read) == rows > 0, f"{len(read)} of {rows} rows"
for row in read:
    assert row["_prompt"][-1]["content"].startswith("Say ") and len(row["_response"]) == 2, row
    assert "letters" in row["_response"][0]["content"] and "0123" in row["_response"][1]["content"], row

tokenizer = AutoTokenizer.from_pretrained(MODEL)
prompt = tokenizer.apply_chat_template(
    [{"role": "user", "content": "Say it"}], tokenize=False, add_generation_prompt=True
)
with served() as url:
    scores = get_rewards_from_server(f"{url}/v1/score/evaluation", [prompt + "letters" + tokenizer.eos_token])
close(scores[0].item(), wanted(), "/v1/score/evaluation")
done("dataset_info and converter kept every row", "reward client against rlaif serve")
