"""What a trained model is worth: its answers scored, on one process or many."""
