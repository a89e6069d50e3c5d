"""How what a card is about is loaded: code that runs as it stands, and where the score is read."""

from __future__ import annotations

from pathlib import Path

from rlaif.forms import OBJECT
from rlaif.jsonl import read_json
from rlaif.share.facts import About
from rlaif.share.markdown import code
from rlaif.words import listed, number

CONVERSATION = """\
conversation = [
    {"role": "user", "content": "Why is the sky blue?"},
    {"role": "assistant", "content": "Air scatters blue light more than red."},
]"""


def load_reward(about: About, folder: Path, repo: str) -> list[str]:
    """Of a reward model, or of an ensemble: the snippet, where the score is read, and what rlaif subtracts."""
    from rlaif.training.scalar_model import REFERENCE  # noqa: PLC0415 (brings torch)

    members = sorted({path.parent.name for path in folder.glob("member-*/config.json")}, key=lambda n: (len(n), n))
    places = [folder / name for name in members] or [folder]
    offsets = [read_json(place / "config.json", OBJECT).get(REFERENCE) for place in places]
    inside = ', subfolder="member-0"' if members else ""
    snippet = f"""\
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repo}"{inside})
model = AutoModelForSequenceClassification.from_pretrained("{repo}"{inside}, dtype="auto").eval()
{CONVERSATION}
inputs = tokenizer.apply_chat_template(conversation, return_tensors="pt", return_dict=True)
with torch.no_grad():
    score = model(**inputs).logits[0, 0].item() - model.config.{REFERENCE}"""
    said = [
        "The score is the single logit, read at the last token of the conversation as the chat template in this folder "
        "renders it, the end of the response's turn included. Give it whole conversations that end with the "
        "assistant's turn.",
    ]
    if all(isinstance(offset, int | float) for offset in offsets):
        of = (
            "of the responses that the policy gave before training"
            if (about.run.folder / "responses.jsonl").exists()
            else "of the training responses, as this run has none of the policy's"
        )
        values = listed([number(offset) for offset in offsets])
        said += [f"rlaif subtracts `{REFERENCE}` ({values}), the mean score {of}: 0 is what these get."]
    if members:
        said += [f"The score of the ensemble is the mean of its members ({listed(members)}), each less its own offset."]
    if any((place / "heads").is_dir() for place in places):
        said += ["`heads/` holds a head for each principle, which rlaif reads; transformers leaves it alone."]
    return [code(snippet), " ".join(said)]


def load_policy(repo: str) -> list[str]:
    """Of a policy."""
    snippet = f"""\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repo}")
model = AutoModelForCausalLM.from_pretrained("{repo}", dtype="auto").eval()
conversation = [{{"role": "user", "content": "Why is the sky blue?"}}]
inputs = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_tensors="pt", return_dict=True)
output = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""
    return [code(snippet)]
