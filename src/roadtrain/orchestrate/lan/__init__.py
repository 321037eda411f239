"""In one room: a coordinator that is seen by its neighbours, and lets in who knows the six digits that it shows."""
