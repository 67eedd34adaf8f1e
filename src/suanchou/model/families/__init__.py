"""Builders by family: each reads one kind of ``config.json`` into an Architecture."""
