"""The tests, and what they share: import it by its full name, `from tests.tiny import tiny_llama`."""
