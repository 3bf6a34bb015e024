"""What happens at an optimizer step: hooks, the groups' LRs, and whether it was real."""
