"""Chat templates are read here and not in a process of their own, which takes seconds to begin."""

from __future__ import annotations

import json

import pytest

from abmll.language.chat_writer import rendered


@pytest.fixture(autouse=True)
def templates_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "abmll.language.chat.write_once",
        lambda template, names, conversations: rendered(template, json.loads(names), json.loads(conversations)),
    )
