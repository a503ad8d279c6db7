"""``wren-standalone``: a command parses, calls one function, prints."""
