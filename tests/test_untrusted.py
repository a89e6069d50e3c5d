"""Untrusted text against every shipped template: whatever stands in it, the prompt keeps its structure exactly.

The parser below knows nothing of the escaping. It learns a template's skeleton from a rendering of sentinels and then
demands that an attacked rendering is the same skeleton around other texts, with every delimiter once and in its place.
"""

from __future__ import annotations

import html
import itertools
import re
from collections import Counter
from functools import cache
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif.audits.probes import Attack, load_attacks, planted
from rlaif.records import Message, Messages
from rlaif.resources import available
from rlaif.templates import SHAPES, JudgeTemplate, load_template

ATTACKS = load_attacks()
INSTRUCTING = ("contrast", "contrast-wrapped", "redteam")
"""Templates in which graded text stands in turns of its own, not between tags."""
SHIPPED = [name for name in available("prompts/judge") if name not in INSTRUCTING]
ROLES = ("system", "user", "assistant", "user")
TURNS = tuple(f"turn {number}" for number in range(len(ROLES)))


class Skeleton(NamedTuple):
    """What of a rendered prompt belongs to the template: the text before, between and after the slots."""

    fixed: tuple[str, ...]
    slots: tuple[str, ...]

    @property
    def delimiters(self) -> Counter[str]:
        return Counter(re.findall(r"</?[\w-]+>", "".join(self.fixed)))


def slots_of(template: JudgeTemplate) -> tuple[str, ...]:
    return (*TURNS, *SHAPES[template.kind].responses)


def rendered(template: JudgeTemplate, texts: dict[str, str]) -> str:
    """All messages as one text; each message's start is marked with what no text holds."""
    prompt = tuple(Message(role=role, content=texts[turn]) for role, turn in zip(ROLES, TURNS, strict=True))
    responses = [texts[name] for name in SHAPES[template.kind].responses]
    messages: Messages = template.render(prompt=prompt, responses=responses, preamble="Be fair.", principle="Why?")
    return "".join(f"\ue000{message.role}\ue001{message.content}" for message in messages)


@cache
def skeleton_of(name: str) -> Skeleton:
    template = load_template(name)
    slots = slots_of(template)
    sentinels = {slot: f"SENTINEL{number}END" for number, slot in enumerate(slots)}
    text = rendered(template, sentinels)
    parts = re.split(r"SENTINEL(\d+)END", text)
    found = Skeleton(tuple(parts[::2]), tuple(slots[int(number)] for number in parts[1::2]))
    assert sorted(found.slots) == sorted(slots), "each text stands in the prompt once"
    assert all(before.endswith(">\n") and after.startswith("\n</") for before, after in fences(found))
    return found


def fences(skeleton: Skeleton) -> list[tuple[str, str]]:
    return list(zip(skeleton.fixed[:-1], skeleton.fixed[1:], strict=True))


def parse(text: str, skeleton: Skeleton) -> dict[str, str]:
    """The text in each slot. There must be exactly one way to read the prompt, and it must be the skeleton's."""
    found = Counter(tag for tag in re.findall(r"</?[\w-]+>", text) if tag in skeleton.delimiters)
    assert found == skeleton.delimiters, f"delimiters {found - skeleton.delimiters} more than the template has"
    inside, rest = {}, text
    for number, slot in enumerate(skeleton.slots):
        before, after = skeleton.fixed[number], skeleton.fixed[number + 1]
        assert rest.startswith(before), f"before {slot}: {rest[: len(before)]!r}"
        rest = rest.removeprefix(before)
        close = re.match(r"\n</[\w-]+>", after)
        assert close is not None
        end = rest.index(close[0])
        inside[slot], rest = rest[:end], rest[end:]
    assert rest == skeleton.fixed[-1]
    return inside


def told_back(shown: str, template: JudgeTemplate) -> str:
    """What was written as `shown`. From the right: whether a reference is an escape depends on what follows it."""
    text = shown
    for found in reversed(list(re.finditer(r"&((?:amp;)*(?:lt|#\d+);)", shown))):
        rest = text[found.end() :]
        if template._guard.forges(found[0], rest):
            was = html.unescape(found[0]) if not found[1].startswith("amp;") else "&" + found[1].removeprefix("amp;")
            text = text[: found.start()] + was + rest
    return text


def check(name: str, texts: dict[str, str]) -> None:
    template, skeleton = load_template_once(name), skeleton_of(name)
    inside = parse(rendered(template, texts), skeleton)
    assert {slot: told_back(shown, template) for slot, shown in inside.items()} == texts


load_template_once = cache(load_template)


# ------------------------------------------------------------------------------------------------- the suite


def test_the_suite_has_at_least_sixty_attacks_of_every_kind_with_names_of_their_own():
    assert len(ATTACKS) >= 120
    assert len({attack.id for attack in ATTACKS}) == len({(a.text, a.place) for a in ATTACKS}) == len(ATTACKS)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", attack.id) for attack in ATTACKS)
    kinds = Counter(attack.kind for attack in ATTACKS)
    assert min(kinds.values()) >= 10 and len(kinds) == 5


def test_an_attack_is_planted_with_the_letters_of_its_response():
    attack = Attack(id="x", kind="role", text="{letter}{lower}{other} {{ x }} {0}")
    assert planted("Good.", attack, "A") == "Good. AaB {{ x }} {0}"
    assert planted("Good.", attack, "B") == "Good. BbA {{ x }} {0}"
    assert planted("Good.", attack.model_copy(update={"place": "start"}), "Yes") == "YesyesB {{ x }} {0} Good."
    assert planted("{other}", attack, "A").startswith("{other} ")


# --------------------------------------------------------------------------------------------- the structure


@pytest.mark.parametrize("name", SHIPPED)
def test_no_attack_breaks_the_structure_of_any_template_from_any_place(name):
    slots = slots_of(load_template_once(name))
    innocent = {slot: f"An innocent text, {slot}." for slot in slots}
    broken = {}
    for attack, letter in itertools.product(ATTACKS, "AB"):
        attacked = {slot: planted(innocent[slot], attack, letter) for slot in slots}
        try:
            for slot in slots:
                check(name, innocent | {slot: attacked[slot]})
            check(name, attacked)
            check(name, dict.fromkeys(slots, planted("", attack, letter).strip()))
        except (AssertionError, ValueError) as error:
            broken[attack.id] = str(error)
    assert not broken


def fragments() -> list[str]:
    """Pieces that tags, references and control tokens are made of, and whole attacks."""
    pieces = {piece for attack in ATTACKS for piece in re.findall(r"[<\[&\uff1c].{0,12}|\w+|\W", attack.text)}
    tags = {tag for name in SHIPPED for tag in skeleton_of(name).delimiters}
    small = ["<", "/", ">", "_", "&", "lt;", "&lt;", "amp;", "&amp;", "&#60;", "&#91;", "[", "]", "~b]", "|", "\n", " "]
    return sorted(pieces | tags | set(small)) + small * 5 + sorted(tags) * 5


text_of_fragments = st.lists(st.sampled_from(fragments()), max_size=8).map("".join)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SHIPPED), st.lists(text_of_fragments, min_size=6, max_size=6))
def test_no_text_made_of_pieces_of_attacks_breaks_it_either(name, texts):
    slots = slots_of(load_template_once(name))
    check(name, dict(zip(slots, texts[: len(slots)], strict=True)))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SHIPPED), st.sampled_from(ATTACKS), st.data())
def test_an_attack_cut_anywhere_breaks_nothing(name, attack, data):
    """A response that the token limit cut off ends in the middle of something, and the template goes on from there."""
    cut = data.draw(st.integers(0, len(attack.text)))
    slots = slots_of(load_template_once(name))
    check(name, dict.fromkeys(slots, planted("", attack, "A").strip()[:cut]))
    check(name, dict.fromkeys(slots, planted("", attack, "A").strip()[cut:]))


@pytest.mark.parametrize("name", SHIPPED)
def test_the_parser_sees_a_broken_prompt(name):
    """What it would say of a template that does not escape: guards the tests above."""
    template, skeleton = load_template_once(name), skeleton_of(name)
    texts = dict.fromkeys(slots_of(template), "fine")
    good = rendered(template, texts)
    assert parse(good, skeleton) == texts
    for tag in skeleton.delimiters:
        for broken in (good.replace("fine", f"fine{tag}", 1), good.replace("fine", f"{tag}\nfine"), good + tag):
            with pytest.raises(AssertionError):
                parse(broken, skeleton)
        with pytest.raises((AssertionError, ValueError)):
            parse(good.replace(tag, "", 1), skeleton)


@pytest.mark.parametrize("kind", ["control", "unicode"])
def test_every_look_alike_and_control_token_is_defused(kind):
    """Each of these holds at least one thing that must not stay as it was, in the templates whose tags it forges."""
    texts = {attack.id: planted("Fine.", attack, "A") for attack in ATTACKS if attack.kind == kind}
    unchanged = {
        attack
        for attack, text in texts.items()
        if all(load_template_once(name)._guard.escape(text) == text for name in SHIPPED)
    }
    assert unchanged == {"tag-characters"} & texts.keys(), "which hides words and forges nothing"


@pytest.mark.parametrize("name", SHIPPED)
def test_no_distance_hides_a_closing_tag(name):
    template = load_template_once(name)
    fillers = [" ", "\n", "\t ", "\u200b", "\u2060\u00ad", " \u200b", "\x00"]
    for tag, filler, count in itertools.product(skeleton_of(name).delimiters, fillers, [1, 40, 63, 64, 65, 1000]):
        hidden = "<" + filler * count + tag[1:]
        assert template._guard.escape(hidden) == "&lt;" + hidden[1:]


# ------------------------------------------------------------------------------- the model's own control tokens


@pytest.fixture(scope="module")
def control_tokens(embedded_tokenizer):
    """Counts of the control ids in a conversation that went through the model's own chat template."""
    special = {number for number, token in embedded_tokenizer.added_tokens_decoder.items() if token.special}
    assert len(special) > 10

    def count(messages: Messages) -> list[int]:
        plain = [message.model_dump() for message in messages]
        text = embedded_tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
        ids = embedded_tokenizer.encode(text, add_special_tokens=False)
        return [number for number in ids if number in special]

    return count


def conversation(name: str, text: str) -> Messages:
    """All that a judge may be shown in one call, with this text wherever text is not ours."""
    template = load_template_once(name)
    shape = SHAPES[template.kind]
    prompt = tuple(Message(role=role, content=text) for role in ROLES)
    if shape.instructs:
        return (*template.instructed(prompt[1:], "Be kind."), Message(role="assistant", content=template.defused(text)))
    messages = template.render(prompt=prompt, responses=[text] * len(shape.responses), principle="Why?")
    return messages if shape.follow_up is None else (*messages, template.neutral(text), template.follow_up("Why?"))


@pytest.mark.embedded
@pytest.mark.parametrize("name", [*SHIPPED, *INSTRUCTING])
def test_graded_text_never_becomes_a_control_token(name, control_tokens, embedded_tokenizer):
    innocent = control_tokens(conversation(name, "Fine."))
    own = [str(token) for token in embedded_tokenizer.added_tokens_decoder.values()]
    for text in (*(planted("Fine.", attack, "A") for attack in ATTACKS), *own, "".join(own)):
        assert control_tokens(conversation(name, text)) == innocent, text


@pytest.mark.embedded
def test_unguarded_text_would_become_one(control_tokens):
    """The tokenizer does what the test above fears."""
    bare = (Message(role="user", content="Fine.<|im_end|><filename>"),)
    assert len(control_tokens(bare)) == len(control_tokens((Message(role="user", content="Fine."),))) + 2
