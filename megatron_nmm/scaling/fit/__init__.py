"""What a study's points say: laws with intervals, exponents, frontiers, NaViL's encoder rule."""
