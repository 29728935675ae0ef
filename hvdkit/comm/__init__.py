"""Collectives: the few everything else uses, one engine per file, behind one protocol."""
