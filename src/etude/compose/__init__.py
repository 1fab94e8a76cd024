"""From the words of a command to a config, and, where Hydra cannot make one of them, to a sentence for each fault."""
