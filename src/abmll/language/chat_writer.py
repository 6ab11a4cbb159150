"""Conversations as a chat template writes them: in a process of its own, with bounds on its time and memory.

A chat template lies in a model's folder and is a program. Its sandbox keeps it away from files and from the process
it runs in, but lets it multiply a text or a number until the machine is full, or loop for a week, and within C, where
only the operating system can stop it. So this file is a program of its own, which imports nothing of the package, as
that would import PyTorch. Memory is bounded on Linux alone, time everywhere.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

SECONDS, MEMORY, LONGEST = 5, 512 * 2**20, 100_000
"""Processor time and bytes for the conversations of one template, and characters of one: thousands of times more than
any needs."""
WAIT = 300
"""Seconds in all, on the clock of a busy machine. Most of them go to importing transformers."""


class Written(NamedTuple):
    """A conversation as the template writes it, or why it does not: exactly one of the two is not None."""

    text: str | None
    error: str | None


def write(template: str, names: str, conversations: str) -> list[Written] | None:
    """Each conversation by itself; None if the template goes beyond the bounds.

    Args:
        template: the text of the template.
        names: what else it may ask for (the special tokens), as a JSON object.
        conversations: lists of messages, as JSON.
    """
    program = [sys.executable, "-P", str(Path(__file__)), str(SECONDS), str(MEMORY)]
    request = json.dumps([template, json.loads(names), json.loads(conversations)])
    try:
        done = subprocess.run(program, input=request, capture_output=True, text=True, timeout=WAIT)
    except subprocess.TimeoutExpired:
        return None
    return None if done.returncode else [Written(*one) for one in json.loads(done.stdout)]


write_once = lru_cache(maxsize=64)(write)
"""`write`, which remembers: every row of a task asks for the same."""


def rendered(template: str, names: dict[str, Any], conversations: list[list[dict[str, str]]]) -> list[Written]:
    """What `write` returns, in this process and without bounds but for the length. Raises: MemoryError."""
    from transformers.utils.chat_template_utils import render_jinja_template

    found = []
    for messages in conversations:
        try:
            texts: Any = render_jinja_template(conversations=[messages], chat_template=template, **names)
        except MemoryError:
            raise
        except Exception as error:  # a template is a program, which may raise anything
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            found.append(Written(None, reason[:300]))
            continue
        text = texts[0][0]
        if len(text) > LONGEST:
            raise MemoryError
        found.append(Written(text, None))
    return found


def _bound(seconds: int, memory: int) -> None:
    """Bounds what this process takes from now on."""
    try:
        import resource
    except ImportError:  # Windows has none
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds += int(used.ru_utime + used.ru_stime) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sizes = Path("/proc/self/statm")
    if sizes.exists():
        memory += int(sizes.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def _main() -> None:
    request = json.load(sys.stdin)
    import transformers.utils.chat_template_utils  # noqa: F401  # outside the bounds

    _bound(*map(int, sys.argv[1:]))
    try:
        found = rendered(*request)
    except MemoryError:
        sys.exit(1)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    _main()
