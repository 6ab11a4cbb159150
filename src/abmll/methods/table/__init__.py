"""How a name becomes a method: the options of its factory, methods from outside, NAME+scale, what a search draws."""
