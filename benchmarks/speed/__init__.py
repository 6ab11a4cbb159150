"""What ABMLL costs beside PEFT's LoRA: `python -m benchmarks.speed --help`."""
