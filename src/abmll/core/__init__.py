"""What everything else is made of: the nouns, named tensors, errors, files, seeds. It imports torch alone."""
