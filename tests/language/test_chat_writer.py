"""A stranger's chat template is run within bounds, and gives what it gives without them."""

from __future__ import annotations

import json
import sys
import time

import pytest

from abmll.core.errors import AbmllError
from abmll.language import chat, chat_writer
from tests.language.test_texts import QWEN3, STRICT, tokenizer_of

HOSTILE = {
    "a number": "{{ 10 ** (10 ** 9) }}",
    "a loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a text": "{{ messages[0].content * 10 ** 10 }}",
    "doubled": "{% set n = namespace(x='ab') %}{% for a in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    "a filter": "{{ messages[0].content.ljust(10 ** 11) }}",
    "long": "{{ 'word ' * 10 ** 6 }}",
    "deep": "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}",
}


@pytest.mark.parametrize("kind", ["a number", *(pytest.param(k, marks=pytest.mark.slow) for k in list(HOSTILE)[1:])])
def test_a_template_that_takes_all_time_or_memory_is_refused(kind, monkeypatch):
    if sys.platform != "linux" and kind not in ("a number", "a loop"):
        pytest.skip("memory is bounded on Linux alone")
    monkeypatch.setattr(chat, "write_once", chat_writer.write)
    monkeypatch.setattr(chat_writer, "SECONDS", 0)  # the rest of the second that it has begun
    start = time.monotonic()
    with pytest.raises(AbmllError, match=r"(?s)does not end, or takes up all memory|refuses.*Set chat = false"):
        chat.turns_of(tokenizer_of(HOSTILE[kind]))
    assert time.monotonic() - start < 120


def test_within_its_bounds_a_template_writes_what_it_writes_without(monkeypatch):
    tokenizer = tokenizer_of(STRICT + "{{ bos_token }}")
    here = chat.turns_of(tokenizer)
    monkeypatch.setattr(chat, "write_once", chat_writer.write)
    assert chat.turns_of(tokenizer) == here
    assert here.after.endswith("<s>")


@pytest.mark.slow
def test_what_a_template_says_of_itself_comes_out_of_its_process():
    request = json.dumps([[{"role": "user", "content": "ü" * 9}]])
    for template in (QWEN3, "{{ raise_exception('nie\\n wieder') }}"):
        assert chat_writer.write(template, "{}", request) == chat_writer.rendered(template, {}, json.loads(request))
