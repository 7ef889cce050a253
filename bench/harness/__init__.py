"""What the programs share: how steps are timed, what is written down, and how it is shown. It knows the peers."""
