"""What `throughput.py` compares: training loops of others and ours, the floor below all of them, and the verdicts."""
