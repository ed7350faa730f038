"""What a server needs on top of the core: ``loading`` loads a packed model, ``endpoint`` answers requests with it."""
