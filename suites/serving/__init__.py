"""A served detector: the wire changes nothing, mistakes get a sentence, the token is asked for, the drawing is right."""
