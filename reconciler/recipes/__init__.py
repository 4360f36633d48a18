"""How programs of other makers are set up for this daemon and one model, as plain data."""
