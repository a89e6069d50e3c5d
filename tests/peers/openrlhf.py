"""OpenRLHF's reward data set on our export, and its remote-reward client against `rlaif serve` and our .py file."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from datasets import load_dataset
from openrlhf.datasets import RewardDataset
from openrlhf.utils.agent import SingleTurnAgentExecutor
from transformers import AutoTokenizer

from tests.peers.common import MODEL, WORK, close, done, export, served, wanted

tokenizer = AutoTokenizer.from_pretrained(MODEL)
if tokenizer.pad_token is None:
    tokenizer.pad_token = tokenizer.eos_token

# Its command line's defaults: no prompt key, `chosen` and `rejected`; without and with --data.apply_chat_template.
for to, template in (("openrlhf", False), ("openrlhf-chat", True)):
    rows = load_dataset("json", data_files=str(export(to, f"{to}.jsonl")), split="train")
    data = SimpleNamespace(prompt_key=None, chosen_key="chosen", rejected_key="rejected", apply_chat_template=template)
    data.input_template = None
    for is_dpo in (False, True):
        read = RewardDataset(rows, tokenizer, 512, SimpleNamespace(args=SimpleNamespace(data=data)), None, is_dpo, 1)
        assert len(read) == len(rows) > 0
        whole = [prompt + chosen for prompt, chosen in zip(read.prompts, read.chosens, strict=True)]
        assert all("Say " in text and "letters" in text for text in whole), whole[:1]
        assert all("0123" in text for text in read.rejects)

prompt = tokenizer.apply_chat_template(
    [{"role": "user", "content": "Say it"}], tokenize=False, add_generation_prompt=True
)
query = prompt + "letters" + tokenizer.eos_token
with served() as url:
    client = SingleTurnAgentExecutor(f"{url}/get_reward")
    (reply,) = asyncio.run(client._fetch_rewards_via_http([query], [prompt], [""]))
close(reply["rewards"][0], wanted(), "/get_reward")

own = WORK / "openrlhf_reward.py"
own.write_text(f"import rlaif\n\nreward_func = rlaif.reward_function({str(MODEL)!r}).openrlhf\n")
client = SingleTurnAgentExecutor(str(own))
(reply,) = asyncio.run(client._fetch_rewards_via_func([query], [prompt], [""]))
close(reply["rewards"].item(), wanted(), "reward_func")
done("RewardDataset for reward model and DPO", "remote-reward client against rlaif serve", "reward_func file")
