"""Where batches come from: a source that makes them, feeders that do so elsewhere, and a supply that has each in its turn."""
