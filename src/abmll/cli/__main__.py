"""`python -m abmll.cli` is `abmll`."""

from abmll.cli import app

app(prog_name="abmll")
