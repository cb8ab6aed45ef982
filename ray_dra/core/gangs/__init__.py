"""What happens to a gang: its life cycle and its turn in the queue."""
