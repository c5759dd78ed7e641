"""What a model is made of: the rules on its config, its live modules, and new models over them."""
