"""Training and tuning jobs: what is asked for, how it is sent, and what became of it."""
