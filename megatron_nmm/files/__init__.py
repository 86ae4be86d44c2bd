"""How every part of the package writes files it must not lose. Standard library only."""
