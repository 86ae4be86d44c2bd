"""What P1 and NaViL publish, and what follows of each number from the others."""
