"""Model: a config.json becomes an Architecture; its parameters, operators, activations and caches."""
