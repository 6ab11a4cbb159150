"""Tasks of the Hugging Face hub: what each is, its files in the cache, and reading them without a network."""
