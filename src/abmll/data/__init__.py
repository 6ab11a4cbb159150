"""Tasks as data: reading and checking them, splitting them into a suite, drawing episodes."""
