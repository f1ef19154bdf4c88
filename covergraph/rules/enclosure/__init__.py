"""Certified enclosures of a function of one real variable, on intervals and on rays (Lemma 5)."""
