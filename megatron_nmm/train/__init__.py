"""The training run: loop, optimizer, schedule, journal, evaluation."""
