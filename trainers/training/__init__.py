"""What every training stage shares: arguments, rows, checkpoints, interruption, several processes, watching."""
