"""What the optimizers share. Private."""
