"""Core NATS: subjects as sources and targets, and agents that answer on them."""
