"""What the programs share: how steps are timed, what is recorded, and how it is shown. It depends on the peers."""
