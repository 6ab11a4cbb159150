"""What methods are made of, and what holds for all of them: loops, objectives, posteriors, steps, search spaces."""
