"""What the command `rmsprop` does. Private."""
