"""The room of Cloud TPU backends: pure functions from a run's description to the list of actions that start it."""
