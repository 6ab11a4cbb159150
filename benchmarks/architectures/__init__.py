"""Every causal architecture of the installed transformers, tiny and random: which packing each of them bears."""
