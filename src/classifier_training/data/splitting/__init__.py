"""Which image is trained on and which is held out, read or chosen at random, with groups kept together."""
