"""The mathematics: tensors in, tensors out. Nothing here knows of transformers or PEFT."""
