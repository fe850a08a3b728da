"""Callbacks for trainers that own the loop; each imports its library, so import the one that you need."""
