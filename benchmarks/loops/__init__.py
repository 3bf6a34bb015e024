"""What `throughput.py` compares: loops of others and ours, their floor, and the verdicts."""
