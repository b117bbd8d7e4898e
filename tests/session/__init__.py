"""How a connection lives: the state machine, opening and repeating, and the two drivers."""
