"""Untrusted text: what in it could pass for a template's delimiter or for a model's control token is defused.

The character that opens such a look-alike is written as a character reference (`<` as `&lt;`). Where a reference
already stands in its place the `&` of that becomes `&amp;`, so that the text can always be told back. Everything else
goes through byte for byte. Words are no business of this module: what "choose this response" does to a judge is
measured by the audit.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

_ANGLES = "<\uff1c\ufe64\u2039\u2329\u3008\u27e8\u276e\u02c2\u1438"  # the sign, and what looks like it
_SQUARES = "[\uff3b\u27e6"
_SIGNS = dict.fromkeys(_ANGLES, "<") | dict.fromkeys(_SQUARES, "[") | {"]": "]"}
_OPENER = re.compile(rf"[{_ANGLES}{re.escape(_SQUARES)}]|\](?=~|<\])|&((?:amp;)*(?:lt|#[0-9]{{2,6}});)")
_WINDOW = 64  # characters looked at after an opener, not counting invisible ones and all but one of white space

# Tokens that tokenizers turn into control ids wherever they stand; matched as they are spelled.
_WORD = r"[^<>\[\]&|\s]{1,40}"
_CONTROL = "|".join(
    [
        rf"<\|{_WORD}\|?>|</?{_WORD}\|>",  # ChatML, Llama 3, Phi, Qwen, gpt-oss, GLM, DeepSeek (folded), Gemma 4
        r"</?s>|<unk>|<pad>|<[be]os>|<eop>|<sop>|</?SYS>>",  # Llama 2, Mistral, ChatGLM
        r"<(?:start|beginning|end)_of_\w+>|<unused\d+>|<extra_id_\d+>|<SPECIAL_\d+>|<[A-Z_]+_TOKEN>",  # Gemma, Command
        r"<seed:\w+>|<\[\w+\]>|<reserved_\d+>|</?role>|</?longcat_\w+>|</?minimax:\w+>",  # Seed, Baichuan, Ling, ...
        r"<(?:image|audio|video)(?:_soft_token)?>|</?img>|<mask>|<sep>|<cls>",  # media, Reka
        r"<(?:repo_?name|file_sep|filename|gh_stars|empty_output|endoftext|(?:issue|jupyter|fim|commit)_\w+)>",  # code
        r"</?(?:think|tools?|tool_\w+)>",  # reasoning and tool calls
        r"\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|MODEL_SETTINGS|TOOL_\w+|THINK|ARGS|CALL_ID|IMG(?:_\w+)?|BEGIN_AUDIO"
        r"|AUDIO|PREFIX|MIDDLE|SUFFIX|gMASK|sMASK|control_\d+|UNUSED_TOKEN_\d+)\]",  # Mistral, GLM, InternLM
        rf"\[\|{_WORD}\|\]|\[e~|\]~!?b|\]<\]",  # EXAONE, MiniMax
    ]
)

# Letters of other scripts that look like Latin ones. NFKD does the rest: full-width, mathematical and accented letters.
_LOOK_ALIKES = str.maketrans(
    "\u0430\u0432\u0435\u043a\u043c\u043d\u043e\u0440\u0441\u0442\u0443\u0445\u0456\u0458\u0455\u04bb\u0501\u051b\u051d"
    "\u0391\u0395\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a7\u03b1\u03b5\u03b9\u03ba\u03bd\u03bf\u03c1\u03c4\u03c5"
    "\u0410\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0406\u0131\u0251\u2215\u29f8\u2044\u2571\u2010\u2011\u2013\u2014\u2212\u203f"
    "\u0433\u0475\u0578",
    "abekmhopctyxijshdqw" + "AEIKMNOPTXaeikvopty" + "AEKMHOPCTYXIia////-----_" + "rvn",
)


class _AsSeen(dict[int, str]):
    """What a character looks like, by code point: a Latin letter where it can, nothing where it cannot be seen."""

    def __missing__(self, code: int) -> str:
        if chr(code).isspace():
            seen = " "
        else:
            base = unicodedata.normalize("NFKD", chr(code)).translate(_LOOK_ALIKES)
            seen = "".join(c for c in base if unicodedata.category(c) not in {"Cc", "Cf", "Mn", "Me"})
        return self.setdefault(code, seen)


_AS_SEEN = _AsSeen()
_SPACES = re.compile(" +")


def _seen(text: str, start: int) -> str:
    """The first characters from there on as they look, with one space for any white space: no filler hides a tag."""
    seen = ""
    while len(seen) < _WINDOW and start < len(text):
        seen = _SPACES.sub(" ", seen + text[start : start + _WINDOW].translate(_AS_SEEN))
        start += _WINDOW
    return seen


class Guard:
    """Escapes graded text for one template, whose delimiters are the tags of these names."""

    def __init__(self, tags: Iterable[str]) -> None:
        names = "|".join(re.escape(name).replace("_", r"[\s_-]*") for name in sorted(tags)) or "(?!)"
        self._forgery = re.compile(rf"(?i:<[\s/\\!?]*(?:{names})(?![\w-]))|{_CONTROL}")
        self._escaped = lru_cache(64)(self._escape)  # a pair's texts are rendered once for each principle and order

    def escape(self, text: str) -> str:
        """The text, with nothing left in it that the template or a tokenizer could take for its own."""
        return self._escaped(text)

    def _escape(self, text: str) -> str:
        return _OPENER.sub(self._defuse, text)

    def forges(self, opener: str, text: str, start: int = 0) -> bool:
        """Whether `opener` (a character or a reference to one) passes for a tag or a control token, followed by what
        stands in `text` from `start` on.

        Spelling is forgiving: case, white space, full-width and invisible characters, letters that look alike.
        """
        sign = _SIGNS.get(html.unescape(opener.replace("amp;", "")))
        return sign is not None and self._forgery.match(sign + _seen(text, start)) is not None

    def _defuse(self, found: re.Match[str]) -> str:
        opener = found[0]
        if not self.forges(opener, found.string, found.end()):
            return opener
        if found[1]:
            return f"&amp;{found[1]}"
        return "&lt;" if opener == "<" else f"&#{ord(opener)};"
