"""A page to try a trained network: a sound in, what is heard in it, what is like it, and where the network looked."""
